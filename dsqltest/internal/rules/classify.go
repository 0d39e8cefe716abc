package rules

import (
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// classify says what the statement is. Where the service's words are not recorded, the words of a
// refusal are our choice.
func (p *parser) classify() Statement {
	st := p.classifyByFirstWord()
	if st.Refusal == nil {
		st.Refusal = p.refusal
	}
	if st.Refusal != nil {
		st.Rewritten, st.Tag = "", ""
	}
	return st
}

func (p *parser) classifyByFirstWord() (st Statement) {
	first := p.name(0)
	if !p.is(0, first) {
		return st
	}
	switch first {
	case "select":
		if p.into {
			st.Refusal = unsupportedStatement("CreateTableAs")
		}
	case "with":
		if p.changes {
			st.Kind = Write
		}
		if p.into {
			st.Refusal = unsupportedStatement("CreateTableAs")
		}
	case "insert", "update", "delete":
		st.Kind = Write
	case "begin", "start", "commit", "end", "rollback", "abort", "savepoint", "release":
		return p.transactionControl(first)
	case "merge":
		st.Refusal = errMerge
	case "copy":
		if p.copiesIn() {
			st.Kind = Write
		}
	case "call":
		if p.is(1, "sys") && p.name(2) == "." && p.is(3, "wait_for_job") {
			st.Kind = WaitForJob
		}
	case "set":
		return p.set(p.tokens())
	case "show":
		return p.show(p.tokens())
	case "reset", "deallocate":
		st.Kind = Set
	case "explain":
		st.Refusal = explained(p.tokens())
	case "vacuum":
		st.Refusal = notSupported("unsupported VACUUM statement")
	case "analyze", "analyse":
		return p.analyze(p.tokens())
	default:
		return p.classifyDDL(first)
	}
	return st
}

func (p *parser) classifyDDL(first string) (st Statement) {
	ts := p.tokens()
	switch first {
	case "aws":
		return p.iam(ts)
	case "create":
		st.Kind = DDL
		st.Rewritten, st.Refusal = p.create(ts)
	case "alter":
		st.Kind = DDL
		st.Rewritten, st.Refusal = p.alter(ts)
	case "drop":
		st.Kind = DDL
		if st.Refusal = unsupported(ts); st.Refusal == nil {
			st.Refusal = drop(ts)
		}
	case "grant", "revoke", "comment":
		st.Kind = DDL
	case "prepare":
		if p.is(1, "transaction") {
			st.Refusal = unsupportedTransactionStatement("PREPARE TRANSACTION")
			break
		}
		st.Refusal = unsupported(ts)
	default:
		st.Refusal = unsupported(ts)
	}
	if strings.HasPrefix(st.Rewritten, "SELECT sys.") {
		st.SubmitsJob = true
		st.Tag = "CREATE INDEX"
		if first == "alter" {
			st.Tag = "ALTER TABLE"
		}
	}
	return st
}

// transactionControl handles the statements that begin and end transactions, and those that do
// something inside of one.
func (p *parser) transactionControl(first string) (st Statement) {
	switch {
	case first == "begin" || first == "start":
		st.Kind, st.Refusal = Begin, p.isolation()
	case p.is(1, "prepared"):
		st.Refusal = unsupportedTransactionStatement(strings.ToUpper(first) + " PREPARED")
	case first == "commit" || first == "end":
		st.Kind, st.Chain = Commit, p.chain()
	case first == "savepoint" || first == "release":
		st.Refusal = unsupportedTransactionStatement(strings.ToUpper(first))
	case p.is(1, "to") || p.is(1, "work", "transaction") && p.is(2, "to"):
		st.Refusal = unsupportedTransactionStatement("ROLLBACK TO")
	default:
		st.Kind, st.Chain = Rollback, p.chain()
	}
	return st
}

// isolation returns why an isolation level is refused, or nil.
func (p *parser) isolation() *pgproto3.ErrorResponse {
	for i := range p.head {
		if p.is(i, "isolation") && p.is(i+1, "level") && !(p.is(i+2, "repeatable") && p.is(i+3, "read")) {
			level := strings.ToUpper(p.name(i + 2))
			if p.is(i+2, "read") {
				level += " " + strings.ToUpper(p.name(i+3))
			}
			return notSupported("Unsupported isolation level: " + level)
		}
	}
	return nil
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
	ts := p.tokens()
	i := ts.find("from", "to")
	return ts.is(i, "from")
}

// create returns what PostgreSQL gets in place of a CREATE, or why that is refused.
func (p *parser) create(ts tokens) (rewritten string, refusal *pgproto3.ErrorResponse) {
	i := ts.skip(1, "or", "replace")
	if ts.is(i, "global", "local") {
		i++
	}
	temporary := ts.is(i, "temp", "temporary")
	if temporary || ts.is(i, "unlogged") {
		i++
	}
	switch {
	case ts.is(i, "table"):
		if refusal := createTable(ts); refusal != nil {
			return "", refusal
		}
		return p.withoutStorage(tableColumns(ts))
	case ts.is(i, "sequence"):
		return "", createSequence(ts)
	case temporary && ts.find("view") > 0:
		return "", notSupported("TEMPORARY view not supported for CREATE VIEW")
	case ts.is(i, "index"):
		return p.createIndex(ts, i+1)
	case ts.follow(i, "unique", "index"):
		return p.createIndex(ts, i+2)
	case ts.is(i, "trigger"), ts.follow(i, "constraint", "trigger"):
		return "", notSupported("CREATE TRIGGER not supported")
	case ts.is(i, "procedure"):
		return "", notSupported("CREATE PROCEDURE not supported")
	case ts.is(i, "function"):
		return "", createFunction(ts)
	case ts.is(i, "type"):
		return "", createType(ts)
	}
	return "", unsupported(ts)
}

// createFunction returns the refusal of a function that is not in SQL, or nil.
func createFunction(ts tokens) *pgproto3.ErrorResponse {
	language := strings.Trim(ts.name(ts.find("language")+1), "'")
	if i := ts.find("language"); i > 0 && language == "" && i+1 < len(ts) && ts[i+1].class == text {
		language = strings.ToLower(strings.Trim(ts[i+1].text, "'"))
	}
	if ts.find("language") < 0 || language == "sql" {
		return nil
	}
	return notSupported("CREATE FUNCTION with language " + language + " not supported")
}

// createType returns the refusal of CREATE TYPE: there is none. Recorded are those of an enum, a
// range and a composite type.
func createType(ts tokens) *pgproto3.ErrorResponse {
	switch i := ts.skipName(2); {
	case ts.follow(i, "as", "enum"):
		return notSupported("CREATE TYPE not supported")
	case ts.follow(i, "as", "range"):
		return unsupportedStatement("CreateRange")
	case ts.is(i, "as"):
		return unsupportedStatement("CompositeType")
	}
	return unsupportedStatement("Define")
}

// alter returns what PostgreSQL gets in place of an ALTER, or why that is refused.
func (p *parser) alter(ts tokens) (rewritten string, refusal *pgproto3.ErrorResponse) {
	if ts.follow(1, "table", "async") {
		// A table may be called async.
		if !slices.ContainsFunc([]string{"add", "drop", "alter", "rename", "set", "owner", "enable", "disable"},
			func(action string) bool { return ts.is(3, action) }) && !ts.symbol(3, ".") {
			return p.validateConstraint(ts)
		}
	}
	if ts.is(1, "table") {
		refusal, added := alterTable(ts)
		if refusal != nil {
			return "", refusal
		}
		if i := ts.find("trigger"); ts.is(i-1, "enable", "disable") && ts.is(i+1, "all") {
			// In PostgreSQL, ALL has the triggers of foreign keys in it and is the superuser's.
			return p.sql[p.start:ts[i+1].start] + "USER" + p.sql[ts[i+1].end:p.end], nil
		}
		if i := ts.find("storage"); ts.follow(i-1, "set", "storage", "default") {
			// PostgreSQL has DEFAULT from 16 on. Types that are stored in another way do not come here often.
			return p.sql[p.start:ts[i+1].start] + "EXTENDED" + p.sql[ts[i+1].end:p.end], nil
		}
		return p.withoutStorage(added)
	}
	return "", alterObject(ts)
}

// withoutStorage is the statement without the STORAGE clauses of its columns, "" where there are
// none.
func (p *parser) withoutStorage(columns []tokens) (rewritten string, refusal *pgproto3.ErrorResponse) {
	if without := withoutStorage(p.sql, columns); without != p.sql {
		return without[p.start:p.end], nil
	}
	return "", nil
}

// tableColumns returns the elements of a CREATE TABLE that are columns.
func tableColumns(ts tokens) []tokens {
	i := slices.IndexFunc(ts, func(t token) bool { return t.class == symbol && t.text == "(" })
	if i < 0 {
		return nil
	}
	elements, _ := ts.group(i)
	if len(elements) == 0 {
		return nil
	}
	return elements.split()
}

// analyze handles ANALYZE, which the service has for tables alone, by name. It is a job there.
func (p *parser) analyze(ts tokens) (st Statement) {
	if ts.skipName(1) != len(ts) || ts.name(1) == "" || ts.is(1, "verbose") {
		st.Refusal = notSupported("unsupported ANALYZE statement")
		return st
	}
	st.Rewritten = "CALL sys.analyze(" + QuoteLiteral(p.sql[ts[1].start:p.end]) + ")"
	st.Tag = "ANALYZE"
	return st
}
