package rules

import (
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// createIndex handles CREATE INDEX, whose i-th token should be ASYNC. Recorded are the words about
// ASYNC, CONCURRENTLY and USING, which come in this order, and those about the sort order.
func (p *parser) createIndex(ts tokens, i int) (rewritten string, refusal *pgproto3.ErrorResponse) {
	async := i
	if ts.is(i, "async") {
		i++
	}
	clause := func(name string) (string, *pgproto3.ErrorResponse) {
		return "", notSupported(name + " not supported for CREATE INDEX")
	}
	if ts.is(i, "concurrently") {
		return clause("CONCURRENTLY")
	}
	on := ts.find("on")
	if on > 0 {
		behind := ts.skipName(ts.skip(on+1, "only"))
		if ts.is(behind, "using") {
			return clause("USING")
		}
		keys, next := ts.group(behind)
		for j := next; j < len(ts); j++ {
			if ts[j].depth == 0 && ts.is(j, "with", "tablespace") {
				return clause(strings.ToUpper(ts[j].text))
			}
			if ts.is(j, "where") {
				break
			}
		}
		if refusal := indexKeys(keys); refusal != nil {
			return "", refusal
		}
	}
	if !ts.is(async, "async") {
		return "", notSupported("unsupported mode. please use CREATE INDEX ASYNC.")
	}
	sql := blank(p.sql, ts[async])
	plain := sql
	if ts.is(1, "unique") {
		plain = blank(sql, ts[1])
	}
	return submitJob("create_index_async", sql[p.start:p.end], plain[p.start:p.end]), nil
}

// blank replaces a token by as many blanks, so that positions in errors stay right.
func blank(sql string, t token) string {
	return sql[:t.start] + strings.Repeat(" ", t.end-t.start) + sql[t.end:]
}

func indexKeys(keys tokens) *pgproto3.ErrorResponse {
	if len(keys) == 0 {
		return nil
	}
	for _, key := range keys.split() {
		switch {
		case key.find("asc", "desc") > 0:
			return notSupported("specifying sort order not supported for index keys")
		case key.find("collate") > 0:
			return notSupported("specifying collation not supported for index keys")
		}
	}
	return nil
}

// submitJob is what PostgreSQL gets for a statement with ASYNC.
func submitJob(function string, statements ...string) string {
	for i, sql := range statements {
		statements[i] = QuoteLiteral(sql)
	}
	return "SELECT sys." + function + "(" + strings.Join(statements, ", ") + ") AS job_id"
}

// validateConstraint handles ALTER TABLE ASYNC. The service has it for VALIDATE CONSTRAINT alone.
func (p *parser) validateConstraint(ts tokens) (rewritten string, refusal *pgproto3.ErrorResponse) {
	if i := ts.find("validate"); !ts.is(i+1, "constraint") {
		return "", NewError("42601", `syntax error at or near "`+p.sql[ts[2].start:ts[2].end]+`"`)
	}
	return submitJob("validate_constraint_async", blank(p.sql, ts[2])[p.start:p.end]), nil
}
