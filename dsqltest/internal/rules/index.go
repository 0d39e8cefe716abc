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
	return submitJob("create_index_async", p.sql[p.start:ts[async].start], p.sql[ts[async].end:p.end]), nil
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

// submitJob is what PostgreSQL gets for a statement with ASYNC, given what stands before and after
// that word.
func submitJob(function, head, tail string) string {
	return "SELECT sys." + function + "(" + QuoteLiteral(head) + ", " + QuoteLiteral(tail) + ") AS job_id"
}

// validateConstraint handles ALTER TABLE ASYNC. The service has it for VALIDATE CONSTRAINT alone.
func (p *parser) validateConstraint(ts tokens) (rewritten string, refusal *pgproto3.ErrorResponse) {
	if i := ts.find("validate"); !ts.is(i+1, "constraint") {
		return "", NewError("42601", `syntax error at or near "`+p.sql[ts[2].start:ts[2].end]+`"`)
	}
	return submitJob("validate_constraint_async", p.sql[p.start:ts[2].start], p.sql[ts[2].end:p.end]), nil
}
