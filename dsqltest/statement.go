package dsqltest

import (
	"strings"
	"unicode/utf8"
)

// statement is one of those in a query string, as far as the rules of
// transactions look at it.
type statement struct {
	sql   string // without the semicolon
	start int    // where sql begins in the query string, in characters
	kind  kind

	refusal string     // why DSQL has no such statement, "" when it has
	sent    string     // what PostgreSQL gets for CREATE INDEX ASYNC, in place of sql
	chain   bool       // COMMIT or ROLLBACK … AND CHAIN
	name    string     // that PREPARE gives, and EXECUTE uses
	body    *statement // what PREPARE prepares
}

type kind uint8

const (
	reads kind = iota // SELECT, and whatever has no rule of its own
	begins
	commits
	rollsBack
	settles // SET, SHOW and the like, which touch no table
	writes
	defines // DDL
	prepares
	executes
	waits // CALL sys.wait_for_job
)

// A lexeme is a piece of SQL that the rules can tell apart.
type lexeme struct {
	class      lexemeClass
	start, end int // bytes
}

type lexemeClass uint8

const (
	word   lexemeClass = iota // keyword, unquoted identifier, number
	quoted                    // identifier in double quotes
	text                      // literal, or a comment without its end, which is an error
	symbol                    // one byte of anything else
)

// nextLexeme returns the first lexeme at pos or behind it. Lexical rules are
// those of "SQL Syntax" in the PostgreSQL manual, with
// standard_conforming_strings on.
func nextLexeme(sql string, pos int) (t lexeme, ok bool) {
	for pos < len(sql) {
		c := sql[pos]
		switch {
		case isSpace(c):
			pos++
			continue
		case strings.HasPrefix(sql[pos:], "--"):
			pos = lineEnd(sql, pos)
			continue
		case strings.HasPrefix(sql[pos:], "/*"):
			end, closed := commentEnd(sql, pos)
			if !closed {
				return lexeme{text, pos, end}, true
			}
			pos = end
			continue
		case c == '\'':
			return lexeme{text, pos, quoteEnd(sql, pos)}, true
		case c == '"':
			return lexeme{quoted, pos, quoteEnd(sql, pos)}, true
		case (c == 'e' || c == 'E') && strings.HasPrefix(sql[pos+1:], "'"):
			return lexeme{text, pos, escapeEnd(sql, pos+1)}, true
		case c == '$':
			if end, ok := dollarEnd(sql, pos); ok {
				return lexeme{text, pos, end}, true
			}
		case isWord(c):
			end := pos + 1
			for end < len(sql) && (isWord(sql[end]) || sql[end] == '$') {
				end++
			}
			return lexeme{word, pos, end}, true
		}
		return lexeme{symbol, pos, pos + 1}, true
	}
	return lexeme{}, false
}

func isSpace(c byte) bool { return strings.IndexByte(" \t\n\r\f\v", c) >= 0 }

func isWord(c byte) bool {
	return 'a' <= c|0x20 && c|0x20 <= 'z' || '0' <= c && c <= '9' || c == '_' || c >= utf8.RuneSelf
}

func lineEnd(sql string, pos int) int {
	if n := strings.IndexAny(sql[pos:], "\r\n"); n >= 0 {
		return pos + n
	}
	return len(sql)
}

// commentEnd knows that comments nest.
func commentEnd(sql string, pos int) (end int, closed bool) {
	depth := 0
	for pos < len(sql) {
		switch {
		case strings.HasPrefix(sql[pos:], "/*"):
			depth++
			pos += 2
		case strings.HasPrefix(sql[pos:], "*/"):
			depth--
			pos += 2
			if depth == 0 {
				return pos, true
			}
		default:
			pos++
		}
	}
	return pos, false
}

// quoteEnd ends what is quoted by sql[pos]. A quote that is doubled ends one
// token and begins the next, which comes to the same.
func quoteEnd(sql string, pos int) int {
	if n := strings.IndexByte(sql[pos+1:], sql[pos]); n >= 0 {
		return pos + 1 + n + 1
	}
	return len(sql)
}

// escapeEnd ends an E'…' literal, whose first quote is at pos. Such a literal
// goes on, escapes and all, in a quote on a following line.
func escapeEnd(sql string, pos int) int {
	for pos++; pos < len(sql); pos++ {
		switch sql[pos] {
		case '\\':
			pos++
		case '\'':
			next := pos + 1
			for next < len(sql) && isSpace(sql[next]) {
				next++
			}
			if next == len(sql) || sql[next] != '\'' || next > pos+1 && !strings.ContainsAny(sql[pos+1:next], "\r\n") {
				return pos + 1
			}
			pos = next
		}
	}
	return len(sql)
}

// dollarEnd ends a $tag$…$tag$ literal, if one begins at pos.
func dollarEnd(sql string, pos int) (end int, ok bool) {
	n := pos + 1
	for n < len(sql) && isWord(sql[n]) {
		n++
	}
	if n == len(sql) || sql[n] != '$' || n > pos+1 && '0' <= sql[pos+1] && sql[pos+1] <= '9' {
		return 0, false
	}
	tag := sql[pos : n+1]
	if close := strings.Index(sql[n+1:], tag); close >= 0 {
		return n + 1 + close + len(tag), true
	}
	return len(sql), true
}

// parse splits a query string into its statements, empty ones left out.
func parse(sql string) []statement {
	var statements []statement
	counted, characters := 0, 0
	for pos := 0; pos < len(sql); {
		p := newParser(sql, pos)
		p.run()
		if p.start < p.end {
			characters += utf8.RuneCountInString(sql[counted:p.start])
			counted = p.start
			st := p.classify()
			st.sql, st.start = sql[p.start:p.end], characters
			statements = append(statements, st)
		}
		pos = p.next
	}
	return statements
}

// headLength is how many tokens tell what a statement is. BEGIN with every mode
// written out has fewer.
const headLength = 24

// parser reads one statement.
type parser struct {
	sql        string
	start, end int // of the statement, in bytes
	next       int // behind its semicolon

	head     []string // the first tokens, words in lower case
	heads    []lexeme
	advisory bool // an advisory lock function is called
	changes  bool // INSERT and the like stand where WITH can have them
	depth    int  // parentheses
	blocks   int  // BEGIN ATOMIC and CASE, in the body of a function
}

func newParser(sql string, pos int) *parser {
	return &parser{sql: sql, start: pos, end: pos, next: pos}
}

func (p *parser) run() {
	previous := ""
	for {
		t, ok := nextLexeme(p.sql, p.next)
		if !ok {
			p.next = len(p.sql)
			return
		}
		p.next = t.end
		value := p.sql[t.start:t.end]
		if value == ";" && p.depth == 0 && p.blocks == 0 {
			return
		}
		if p.start == p.end {
			p.start = t.start
		}
		p.end = t.end
		switch {
		case t.class == word && len(value) < 64: // a longer one is no keyword
			value = strings.ToLower(value)
			p.word(value, previous)
		case value == "(":
			p.depth++
		case value == ")":
			p.depth = max(0, p.depth-1)
		}
		if len(p.head) < headLength {
			p.head, p.heads = append(p.head, value), append(p.heads, t)
		}
		previous = value
	}
}

func (p *parser) word(value, previous string) {
	switch value {
	case "insert", "update", "delete", "merge":
		p.changes = p.changes || previous == "(" || previous == ")"
	case "atomic":
		if previous == "begin" && p.is(0, "create") {
			p.blocks++
		}
	case "case":
		if p.blocks > 0 {
			p.blocks++
		}
	case "end":
		p.blocks = max(0, p.blocks-1)
	}
	if strings.HasPrefix(value, "pg_advisory_") || strings.HasPrefix(value, "pg_try_advisory_") {
		p.advisory = true
	}
}

// is reports whether the i-th token is one of some words.
func (p *parser) is(i int, words ...string) bool {
	if i >= len(p.head) || p.heads[i].class != word {
		return false
	}
	for _, w := range words {
		if p.head[i] == w {
			return true
		}
	}
	return false
}

// name returns the i-th token as the name it is.
func (p *parser) name(i int) string {
	if i >= len(p.head) {
		return ""
	}
	return strings.Trim(p.head[i], `"`)
}

// lockedSettings are those that DSQL refuses to set, or that what is imitated
// here hangs on.
var lockedSettings = []string{
	"client_min_messages", "default_transaction_isolation", "default_transaction_read_only",
	"lock_timeout", "standard_conforming_strings", "transaction_isolation",
}

// classify says what the statement is. Where facts are missing, the words of a
// refusal are our choice.
func (p *parser) classify() statement {
	var st statement
	unsupported := func(what string) { st.refusal = "unsupported statement: " + what }
	switch first := p.name(0); {
	case !p.is(0, first):
	case first == "begin" || first == "start":
		st.kind = begins
		st.refusal = p.isolation()
	case (first == "commit" || first == "end") && !p.is(1, "prepared"):
		st.kind, st.chain = commits, p.chain()
	case first == "rollback" && (p.is(1, "to") || p.is(1, "work", "transaction") && p.is(2, "to")):
		st.refusal = "unsupported transaction statement: ROLLBACK TO"
	case (first == "rollback" || first == "abort") && !p.is(1, "prepared"):
		st.kind, st.chain = rollsBack, p.chain()
	case first == "savepoint" || first == "release":
		st.refusal = "unsupported transaction statement: " + strings.ToUpper(first)
	case first == "set" || first == "reset":
		st.kind = settles
		if first == "set" {
			st.refusal = p.setting()
		}
	case first == "show" || first == "discard" || first == "deallocate":
		st.kind = settles
	case first == "listen" || first == "notify" || first == "unlisten" || first == "truncate":
		unsupported(strings.ToUpper(first))
	case first == "create" && p.is(1, "database"):
		unsupported("CREATE DATABASE")
	case first == "create" && (p.is(1, "temp", "temporary") || p.is(1, "global", "local") && p.is(2, "temp", "temporary")):
		unsupported("CREATE TEMPORARY")
	case first == "create" && (p.is(1, "index") || p.is(1, "unique") && p.is(2, "index")):
		st.kind = defines
		st.sent, st.refusal = p.index()
	case first == "create" || first == "alter" || first == "drop" || first == "grant" || first == "revoke" || first == "comment":
		st.kind = defines
	case first == "insert" || first == "update" || first == "delete" || first == "merge":
		st.kind = writes
	case first == "with" && p.changes:
		st.kind = writes
	case first == "copy" && p.copiesIn():
		st.kind = writes
	case first == "prepare" && !p.is(1, "transaction"):
		st.kind, st.name, st.body = prepares, p.name(1), p.prepared()
	case first == "execute":
		st.kind, st.name = executes, p.name(1)
	case first == "call" && p.is(1, "sys") && p.name(2) == "." && p.is(3, "wait_for_job"):
		st.kind = waits
	}
	if p.advisory {
		st.refusal = "unsupported function: advisory locks"
	}
	return st
}

// isolation is why BEGIN is refused, "" when it is not.
func (p *parser) isolation() string {
	for i := range p.head {
		if p.is(i, "isolation") && p.is(i+1, "level") && !(p.is(i+2, "repeatable") && p.is(i+3, "read")) {
			level := strings.ToUpper(p.name(i + 2))
			if p.is(i+2, "read") {
				level += " " + strings.ToUpper(p.name(i+3))
			}
			return "Unsupported isolation level: " + level
		}
	}
	return ""
}

// setting is why SET is refused, "" when it is not.
func (p *parser) setting() string {
	i := 1
	if p.is(i, "local", "session") {
		i++
	}
	if p.is(i, "transaction") {
		return "unsupported statement: SET TRANSACTION"
	}
	if p.is(i, "characteristics") {
		return "unsupported statement: SET SESSION CHARACTERISTICS"
	}
	for _, name := range lockedSettings {
		if strings.EqualFold(p.name(i), name) {
			return `setting configuration parameter "` + name + `" not supported`
		}
	}
	return ""
}

// index is what PostgreSQL gets for CREATE INDEX, or why that is refused, in words that others have
// recorded.
func (p *parser) index() (sent, refusal string) {
	i := 2
	if p.is(1, "unique") {
		i++
	}
	if !p.is(i, "async") {
		return "", "unsupported mode. please use CREATE INDEX ASYNC."
	}
	return asyncIndex(p.sql[p.start:p.heads[i].start], p.sql[p.heads[i].end:p.end]), ""
}

func (p *parser) chain() bool {
	for i := range p.head {
		if p.is(i, "and") && p.is(i+1, "chain") {
			return true
		}
	}
	return false
}

// copiesIn tells COPY table (columns) FROM from COPY (query) TO.
func (p *parser) copiesIn() bool {
	depth := 0
	for pos := p.start; pos < p.end; {
		t, _ := nextLexeme(p.sql, pos)
		pos = t.end
		switch value := p.sql[t.start:t.end]; {
		case value == "(":
			depth++
		case value == ")":
			depth--
		case depth == 0 && t.class == word && strings.EqualFold(value, "from"):
			return true
		case depth == 0 && t.class == word && strings.EqualFold(value, "to"):
			return false
		}
	}
	return false
}

// prepared is the statement behind PREPARE name [(types)] AS, which is no
// PREPARE itself.
func (p *parser) prepared() *statement {
	for i := range p.head {
		if !p.is(i, "as") {
			continue
		}
		body := newParser(p.sql[:p.end], p.heads[i].end)
		if body.run(); body.is(0, "prepare") {
			return nil
		}
		st := body.classify()
		return &st
	}
	return nil
}
