package rules

import (
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// classify says what the statement is. Where the service's words are not recorded, the words of a
// refusal are our choice.
func (p *parser) classify() Statement {
	var st Statement
	switch first := p.name(0); {
	case !p.is(0, first):
	case first == "begin" || first == "start":
		st.Kind, st.Refusal = Begin, p.isolation()
	case (first == "commit" || first == "end") && !p.is(1, "prepared"):
		st.Kind, st.Chain = Commit, p.chain()
	case first == "rollback" && (p.is(1, "to") || p.is(1, "work", "transaction") && p.is(2, "to")):
		st.Refusal = notSupported("unsupported transaction statement: ROLLBACK TO")
	case (first == "rollback" || first == "abort") && !p.is(1, "prepared"):
		st.Kind, st.Chain = Rollback, p.chain()
	case first == "savepoint" || first == "release":
		st.Refusal = notSupported("unsupported transaction statement: " + strings.ToUpper(first))
	case first == "set":
		st.Kind, st.Refusal = Set, p.setting()
	case first == "reset" || first == "show" || first == "discard" || first == "deallocate":
		st.Kind = Set
	case first == "listen" || first == "notify" || first == "unlisten" || first == "truncate":
		st.Refusal = unsupportedStatement(strings.ToUpper(first))
	case first == "create":
		st.Kind = DDL
		st.Rewritten, st.Refusal = p.create()
	case first == "alter" || first == "drop" || first == "grant" || first == "revoke" || first == "comment":
		st.Kind = DDL
	case first == "insert" || first == "update" || first == "delete" || first == "merge":
		st.Kind = Write
	case first == "with" && p.changes:
		st.Kind = Write
	case first == "copy" && p.copiesIn():
		st.Kind = Write
	case first == "prepare" && !p.is(1, "transaction"):
		st.Kind, st.Name, st.Body = Prepare, p.name(1), p.prepared()
	case first == "execute":
		st.Kind, st.Name = Execute, p.name(1)
	case first == "call" && p.is(1, "sys") && p.name(2) == "." && p.is(3, "wait_for_job"):
		st.Kind = WaitForJob
	}
	if p.advisory {
		st.Refusal = notSupported("unsupported function: advisory locks")
	}
	return st
}

// isolation returns why BEGIN is refused, or nil.
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

// setting returns why SET is refused, or nil.
func (p *parser) setting() *pgproto3.ErrorResponse {
	i := 1
	if p.is(i, "local", "session") {
		i++
	}
	if p.is(i, "transaction") {
		return unsupportedStatement("SET TRANSACTION")
	}
	if p.is(i, "characteristics") {
		return unsupportedStatement("SET SESSION CHARACTERISTICS")
	}
	for _, name := range lockedSettings {
		if strings.EqualFold(p.name(i), name) {
			return notSupported(`setting configuration parameter "` + name + `" not supported`)
		}
	}
	return nil
}

// create returns what PostgreSQL gets in place of a CREATE, or why that is refused.
func (p *parser) create() (rewritten string, refusal *pgproto3.ErrorResponse) {
	switch {
	case p.is(1, "database"):
		return "", unsupportedStatement("CREATE DATABASE")
	case p.is(1, "temp", "temporary"), p.is(1, "global", "local") && p.is(2, "temp", "temporary"):
		return "", unsupportedStatement("CREATE TEMPORARY")
	case p.is(1, "index"):
		return p.createIndex(2)
	case p.is(1, "unique") && p.is(2, "index"):
		return p.createIndex(3)
	}
	return "", nil
}

// createIndex handles a CREATE INDEX whose i-th token should be ASYNC. Others have recorded the
// refusal's words.
func (p *parser) createIndex(i int) (rewritten string, refusal *pgproto3.ErrorResponse) {
	if !p.is(i, "async") {
		return "", notSupported("unsupported mode. please use CREATE INDEX ASYNC.")
	}
	return createIndexAsync(p.sql[p.start:p.heads[i].start], p.sql[p.heads[i].end:p.end]), nil
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
func (p *parser) prepared() *Statement {
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
