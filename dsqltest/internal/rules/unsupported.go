package rules

import (
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// unsupportedStatements are those that the service does not have, by the words they begin with. It
// calls them by the names that PostgreSQL's parser has for them. Recorded are Truncate, Createdb,
// CreateTableAs, CreateRange, CreateForeignTable, Notify, Unlisten, Lock, DeclareCursor, Execute,
// CreatePolicy, CreateExtension and CompositeType; the others follow the same way.
var unsupportedStatements = map[string]string{
	"alter collation":             "AlterCollation",
	"alter database":              "AlterDatabase",
	"alter event trigger":         "AlterEventTrig",
	"alter extension":             "AlterExtension",
	"alter foreign data wrapper":  "AlterFdw",
	"alter large object":          "AlterOwner",
	"alter operator":              "AlterOperator",
	"alter operator family":       "AlterOpFamily",
	"alter policy":                "AlterPolicy",
	"alter publication":           "AlterPublication",
	"alter server":                "AlterForeignServer",
	"alter subscription":          "AlterSubscription",
	"alter system":                "AlterSystem",
	"alter tablespace":            "AlterTableSpaceOptions",
	"alter text search":           "AlterTSConfiguration",
	"alter user mapping":          "AlterUserMapping",
	"checkpoint":                  "CheckPoint",
	"close":                       "ClosePortal",
	"cluster":                     "Cluster",
	"create access method":        "CreateAm",
	"create aggregate":            "Define",
	"create cast":                 "CreateCast",
	"create collation":            "Define",
	"create conversion":           "CreateConversion",
	"create database":             "Createdb",
	"create default conversion":   "CreateConversion",
	"create event trigger":        "CreateEventTrig",
	"create extension":            "CreateExtension",
	"create foreign data wrapper": "CreateFdw",
	"create foreign table":        "CreateForeignTable",
	"create language":             "CreatePLang",
	"create materialized view":    "CreateTableAs",
	"create operator":             "Define",
	"create operator class":       "CreateOpClass",
	"create operator family":      "CreateOpFamily",
	"create policy":               "CreatePolicy",
	"create procedural language":  "CreatePLang",
	"create publication":          "CreatePublication",
	"create rule":                 "Rule",
	"create server":               "CreateForeignServer",
	"create subscription":         "CreateSubscription",
	"create tablespace":           "CreateTableSpace",
	"create text search":          "Define",
	"create transform":            "CreateTransform",
	"create trusted language":     "CreatePLang",
	"create user mapping":         "CreateUserMapping",
	"declare":                     "DeclareCursor",
	"discard":                     "Discard",
	"do":                          "Do",
	"drop database":               "Dropdb",
	"drop owned":                  "DropOwned",
	"drop subscription":           "DropSubscription",
	"drop tablespace":             "DropTableSpace",
	"drop user mapping":           "DropUserMapping",
	"execute":                     "Execute",
	"fetch":                       "Fetch",
	"import foreign schema":       "ImportForeignSchema",
	"listen":                      "Listen",
	"load":                        "Load",
	"lock":                        "Lock",
	"move":                        "Fetch",
	"notify":                      "Notify",
	"prepare":                     "Prepare",
	"reassign owned":              "ReassignOwned",
	"refresh materialized view":   "RefreshMatView",
	"reindex":                     "Reindex",
	"security label":              "SecLabel",
	"truncate":                    "Truncate",
	"unlisten":                    "Unlisten",
}

// maxKeyWords is how many words the longest key of unsupportedStatements has.
const maxKeyWords = 4

// unsupported returns the refusal of a statement that the service does not have, or nil. ts is the
// statement; OR REPLACE does not count among its words.
func unsupported(ts tokens) *pgproto3.ErrorResponse {
	var words []string
	for i := 0; i < len(ts) && len(words) < maxKeyWords && ts[i].class == word; i++ {
		if next := ts.skip(i, "or", "replace"); next > i {
			i = next - 1
			continue
		}
		words = append(words, ts[i].text)
	}
	for n := len(words); n > 0; n-- {
		if name, ok := unsupportedStatements[strings.Join(words[:n], " ")]; ok {
			return unsupportedStatement(name)
		}
	}
	return nil
}

// droppable are the objects that DROP has. Of triggers the service takes DROP TRIGGER IF EXISTS,
// and there are none to drop.
var droppable = []string{
	"table", "sequence", "view", "index", "schema", "domain", "function", "routine", "statistics",
	"trigger", "role", "user", "group",
}

// drop returns the refusal of a DROP, or nil.
func drop(ts tokens) *pgproto3.ErrorResponse {
	switch {
	case ts.follow(1, "index", "concurrently"):
		return notSupported("DROP INDEX CONCURRENTLY must be first action in transaction")
	case !ts.is(1, droppable...) && len(ts) > 1:
		return notSupported("unsupported object in DROP statement")
	}
	return nil
}

// explained returns the refusal of what EXPLAIN explains, or nil.
func explained(ts tokens) *pgproto3.ErrorResponse {
	i := 1
	if _, next := ts.group(i); next > i {
		i = next
	}
	for ts.is(i, "analyze", "analyse", "verbose") {
		i++
	}
	if ts.is(i, "create") {
		return unsupportedStatement("CreateTableAs")
	}
	return unsupported(ts[min(i, len(ts)):])
}
