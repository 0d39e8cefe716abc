// Package rules holds what Aurora DSQL makes of SQL that PostgreSQL would take otherwise: what a
// statement is, which one is refused and in which words, what PostgreSQL gets in its place, and the
// objects that every cluster has.
package rules

import (
	"cmp"
	"strings"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Statement is one statement of a query string, as far as the rules look at it.
type Statement struct {
	SQL   string // without the semicolon
	Start int    // where SQL begins in the query string, in characters
	Kind  Kind

	Refusal    *pgproto3.ErrorResponse // nil if DSQL has such a statement
	Rewritten  string                  // what PostgreSQL gets in place of SQL, or ""
	Tag        string                  // the command tag that the client gets, if it is not PostgreSQL's
	SubmitsJob bool
	Locks      bool // rows, by FOR UPDATE and its like
	Chain      bool // COMMIT or ROLLBACK … AND CHAIN
}

// ForPostgres is the text of the statement that PostgreSQL gets.
func (s *Statement) ForPostgres() string { return cmp.Or(s.Rewritten, s.SQL) }

// Kind is what a statement means for its transaction.
type Kind uint8

const (
	Read Kind = iota // SELECT, and whatever has no rule of its own
	Begin
	Commit
	Rollback
	Set // SET, SHOW and the like, which touch no table
	Write
	DDL
	WaitForJob // CALL sys.wait_for_job
)

// Parse splits a query string into its statements, and leaves empty ones out.
func Parse(sql string) []Statement {
	var statements []Statement
	counted, characters := 0, 0
	for pos := 0; pos < len(sql); {
		p := newParser(sql, pos)
		p.run()
		if p.start < p.end {
			characters += utf8.RuneCountInString(sql[counted:p.start])
			counted = p.start
			st := p.classify()
			st.Locks = p.locks
			st.SQL, st.Start = sql[p.start:p.end], characters
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

	head    []string // the first tokens, words in lower case
	heads   []lexeme
	changes bool // INSERT and the like stand where WITH can have them
	locks   bool // FOR UPDATE or its like stands somewhere
	into    bool // INTO stands where SELECT can have it
	depth   int  // parentheses
	blocks  int  // BEGIN ATOMIC and CASE, in the body of a function

	refusal *pgproto3.ErrorResponse // of something inside the statement, or nil
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
			p.call(previous)
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
	if previous == "for" && (value == "update" || value == "key") {
		p.locks = true
	}
	switch value {
	case "insert", "update", "delete":
		p.changes = p.changes || previous == "(" || previous == ")"
	case "into":
		p.into = p.into || p.depth == 0 && previous != "insert" && previous != "merge"
	case "merge":
		if previous == ")" {
			p.refusal = errMerge
		}
	case "share":
		if previous == "for" {
			p.refusal = errLocking
		}
	case "key":
		if previous == "no" {
			p.refusal = errLocking
		}
	case "tablesample":
		p.refusal = notSupported("TABLESAMPLE clause not supported")
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
}

// call looks at the function, if it is one, whose arguments begin.
func (p *parser) call(function string) {
	if strings.HasPrefix(function, "pg_advisory_") || strings.HasPrefix(function, "pg_try_advisory_") || function == "pg_notify" {
		p.refusal = notSupported("function " + function + " not supported")
	}
}

// tokens returns all of the statement.
func (p *parser) tokens() tokens { return tokenize(p.sql, p.start, p.end) }

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
