package rules

import (
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// createTable returns the refusal of a CREATE TABLE for its words, or nil. Types, keys and limits
// are for the catalog to judge, see schema.sql. Of the words, those about UNLOGGED, PARTITION BY,
// PARTITION OF and COLLATE are recorded; the others follow the same way.
func createTable(ts tokens) *pgproto3.ErrorResponse {
	if ts.find("as") > 0 {
		return unsupportedStatement("CreateTableAs")
	}
	i := 1
	for ; !ts.is(i, "table"); i++ {
		switch {
		case ts.is(i, "unlogged"):
			return notSupported("UNLOGGED table not supported for CREATE TABLE")
		case ts.is(i, "temp", "temporary"):
			return notSupported("TEMPORARY table not supported for CREATE TABLE")
		case i >= len(ts):
			return nil
		}
	}
	i = ts.skipName(ts.skip(i+1, "if", "not", "exists"))
	clause := func(name string) *pgproto3.ErrorResponse {
		return notSupported(name + " clause not supported for CREATE TABLE")
	}
	switch {
	case ts.follow(i, "partition", "of"):
		return clause("PARTITION OF")
	case ts.is(i, "of"):
		return clause("OF")
	}
	elements, i := ts.group(i)
	for ; i < len(ts); i++ {
		switch {
		case ts[i].depth > 0:
		case ts.is(i, "inherits", "using", "with", "tablespace"):
			return clause(strings.ToUpper(ts[i].text))
		case ts.follow(i, "partition", "by"):
			return clause("PARTITION BY")
		case ts.follow(i, "on", "commit"):
			return clause("ON COMMIT")
		}
	}
	if len(elements) == 0 {
		return nil
	}
	for _, element := range elements.split() {
		if refusal := tableElement(element); refusal != nil {
			return refusal
		}
	}
	return nil
}

// tableElement returns the refusal of a column or a constraint of CREATE TABLE, or nil.
func tableElement(ts tokens) *pgproto3.ErrorResponse {
	switch {
	case ts.is(0, "constraint"):
		return tableElement(ts[min(2, len(ts)):])
	case ts.is(0, "exclude") && (ts.is(1, "using") || ts.symbol(1, "(")):
		return notSupported("EXCLUDE constraint not supported")
	case ts.is(0, "primary", "unique", "check", "foreign", "like"):
		return nil
	}
	return column(ts)
}

// serialTypes are no types of the service's. PostgreSQL's parser makes columns with a default of
// them.
var serialTypes = []string{"serial", "bigserial", "smallserial", "serial2", "serial4", "serial8"}

// integerTypes are the spellings of the types that PostgreSQL has for identity columns and the
// service has not.
var integerTypes = map[string]string{
	"int": "integer", "int4": "integer", "integer": "integer", "smallint": "smallint", "int2": "smallint",
}

const (
	explicitCache = " is not supported without an explicit cache size. " + allowedCache
	allowedCache  = "please define CACHE greater than or equal to 65536 or equal to 1"
)

// column returns the refusal of a column definition, or nil.
func column(ts tokens) *pgproto3.ErrorResponse {
	if ts.is(1, serialTypes...) && !ts.symbol(2, ".") {
		return NewError("42704", `type "`+ts[1].text+`" does not exist`)
	}
	for i := 2; i < len(ts); i++ {
		switch {
		case ts[i].depth > ts[0].depth:
		case ts.is(i, "collate"):
			return notSupported("COLLATE clause not supported")
		case ts.is(i, "compression"):
			return notSupported("COMPRESSION clause not supported")
		case ts.follow(i, "as", "identity"):
			if name, ok := integerTypes[ts.name(1)]; ok {
				return notSupported("datatype " + name + " not supported, identity column type must be bigint")
			}
			return identity("identity column", ts[i+2:])
		}
	}
	return nil
}

// identity returns the refusal of an identity column's options, which ts begins with, or nil.
func identity(what string, ts tokens) *pgproto3.ErrorResponse {
	options, _ := ts.group(0)
	if options.find("cache") < 0 {
		return notSupported(what + explicitCache)
	}
	return nil
}

// createSequence returns the refusal of a CREATE SEQUENCE, or nil. Its type and the size of its
// cache are for the catalog to judge.
func createSequence(ts tokens) *pgproto3.ErrorResponse {
	i := ts.find("sequence")
	if i > 1 {
		return notSupported("TEMPORARY sequence not supported for CREATE SEQUENCE")
	}
	i = ts.skipName(ts.skip(i+1, "if", "not", "exists"))
	if ts[i:].find("cache") < 0 {
		return notSupported("CREATE SEQUENCE" + explicitCache)
	}
	return nil
}

// withoutStorage replaces the STORAGE clauses of columns by blanks: PostgreSQL has them from 16 on,
// and nothing that a client sees depends on them.
func withoutStorage(sql string, columns []tokens) string {
	for _, ts := range columns {
		i := slices.IndexFunc(ts, func(t token) bool { return t.depth == ts[0].depth && t.class == word && t.text == "storage" })
		if i >= 2 && ts.is(i+1, "plain", "external", "extended", "main", "default") {
			sql = blank(blank(sql, ts[i]), ts[i+1])
		}
	}
	return sql
}
