package rules

import (
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// renamable are the objects that ALTER … RENAME has.
var renamable = []string{
	"table", "view", "index", "sequence", "schema", "domain", "function", "routine", "role", "user",
	"group", "statistics",
}

// alterObject returns the refusal of an ALTER of anything but a table, or nil.
func alterObject(ts tokens) *pgproto3.ErrorResponse {
	rename := ts.find("rename")
	switch {
	case rename > 0 && !ts.is(1, renamable...) && !ts.is(rename+1, "value"):
		return notSupported("unsupported object in RENAME statement")
	case ts.is(1, "type"):
		return alterType(ts)
	case ts.is(1, "domain"):
		return alterDomain(ts)
	case ts.is(1, "index") && rename < 0:
		return notSupported("unsupported ALTER INDEX statement")
	case ts.is(1, "role", "user", "group"):
		if i := ts.find("set"); i > 0 {
			name, _ := ts.setting(i + 1)
			if !IsSetting(name) {
				return RefusedSetting(name)
			}
		}
		return nil
	}
	return unsupported(ts)
}

func alterType(ts tokens) *pgproto3.ErrorResponse {
	ts = ts[min(ts.skipName(2), len(ts)):]
	switch i := ts.find("add", "drop", "alter", "rename", "owner", "set"); {
	case ts.is(i+1, "value"):
		return unsupportedStatement("AlterEnum")
	case ts.is(i+1, "attribute"):
		return unsupportedStatement("AlterTable")
	case ts.follow(i, "owner", "to"), ts.follow(i, "set", "schema"):
		return notSupported("unsupported object in ALTER statement")
	}
	return unsupportedStatement("AlterType")
}

// alterDomain returns the refusal of an ALTER DOMAIN, or nil. Which forms there are is recorded, the
// words are not.
func alterDomain(ts tokens) *pgproto3.ErrorResponse {
	i := ts[min(2, len(ts)):].find("add", "set", "validate") + 2
	for _, form := range [][]string{{"add"}, {"set", "not", "null"}, {"validate", "constraint"}} {
		if ts.follow(i, form...) {
			if form[0] == "add" {
				form = []string{"add", "constraint"}
			}
			return notSupported("unsupported ALTER DOMAIN " + strings.ToUpper(strings.Join(form, " ")) + " statement")
		}
	}
	return nil
}

// alterTable returns the refusal of an ALTER TABLE, or nil, and the columns that it adds.
func alterTable(ts tokens) (refusal *pgproto3.ErrorResponse, added []tokens) {
	i := ts.skip(ts.skip(2, "if", "exists"), "only")
	if name, behind := ts.group(i); len(name) > 0 {
		i = behind
	} else {
		i = ts.skipName(i)
	}
	if ts.symbol(i, "*") {
		i++
	}
	if i >= len(ts) {
		return nil, nil
	}
	for _, action := range ts[i:].split() {
		column := addedColumn(action)
		form := alterTableForm(action)
		switch {
		case len(column) > 0:
			added = append(added, column)
			refusal = addColumn(column)
		case form != "":
			refusal = notSupported("unsupported ALTER TABLE " + form + " statement")
		case action.is(0, "alter"):
			if i := action.find("identity"); action.is(i-1, "as") {
				refusal = identity("identity column", action[i+1:])
			}
		}
		if refusal != nil {
			return refusal, added
		}
	}
	return nil, added
}

// addedColumn returns the column that ADD COLUMN adds, or nothing for other actions.
func addedColumn(action tokens) tokens {
	if !action.is(0, "add") {
		return nil
	}
	i := action.skip(1, "column")
	if i == 1 && action.is(1, "constraint", "check", "unique", "primary", "foreign", "exclude") {
		return nil
	}
	return action[action.skip(i, "if", "not", "exists"):]
}

// columnConstraints are the words that begin a constraint of a column.
var columnConstraints = []string{
	"constraint", "not", "null", "check", "default", "generated", "unique", "primary", "references",
	"deferrable", "initially",
}

func addColumn(ts tokens) *pgproto3.ErrorResponse {
	if ts[min(2, len(ts)):].find(columnConstraints...) >= 0 {
		return notSupported("ALTER TABLE ADD COLUMN with constraint not supported")
	}
	return column(ts)
}

// alterTableForm returns what PostgreSQL calls an action in its own errors, where the service does
// not have it, and "" where it does (AWS guide, "ALTER TABLE").
func alterTableForm(action tokens) string {
	if action.is(0, "alter") {
		return alterColumnForm(action)
	}
	if action.is(0, "add") {
		valid := action.find("valid")
		supported := action.is(valid-1, "not") ||
			action.find("unique") > 0 && action.find("using") > 0 && action.is(action.find("using")+1, "index")
		if supported {
			return ""
		}
		return "ADD CONSTRAINT"
	}
	for _, f := range alterTableForms {
		if action.follow(0, strings.Fields(strings.ToLower(f.words))...) {
			if f.name != "" {
				return f.name
			}
			return f.words
		}
	}
	if action.is(0, "set", "reset") && action.symbol(1, "(") {
		return strings.ToUpper(action[0].text)
	}
	return ""
}

// alterTableForms are unsupported; name is PostgreSQL's, where it is not the words.
var alterTableForms = []struct{ words, name string }{
	{words: "VALIDATE CONSTRAINT"},
	{words: "CLUSTER ON"},
	{words: "SET WITHOUT CLUSTER"},
	{words: "SET WITHOUT OIDS"},
	{words: "SET LOGGED"},
	{words: "SET UNLOGGED"},
	{words: "SET TABLESPACE"},
	{words: "SET ACCESS METHOD"},
	{words: "INHERIT"},
	{words: "NO INHERIT"},
	{words: "OF"},
	{words: "NOT OF"},
	{words: "REPLICA IDENTITY"},
	{words: "ENABLE ROW LEVEL SECURITY", name: "ENABLE ROW SECURITY"},
	{words: "DISABLE ROW LEVEL SECURITY", name: "DISABLE ROW SECURITY"},
	{words: "FORCE ROW LEVEL SECURITY", name: "FORCE ROW SECURITY"},
	{words: "NO FORCE ROW LEVEL SECURITY", name: "NO FORCE ROW SECURITY"},
	{words: "ENABLE RULE"},
	{words: "ENABLE ALWAYS RULE"},
	{words: "ENABLE REPLICA RULE"},
	{words: "DISABLE RULE"},
	{words: "ATTACH PARTITION"},
	{words: "DETACH PARTITION"},
	{words: "OPTIONS"},
}

// alterColumnForm is alterTableForm for ALTER COLUMN and ALTER CONSTRAINT, which is supported.
func alterColumnForm(action tokens) string {
	i := action.skip(1, "column")
	if i == 1 && action.is(1, "constraint") {
		return ""
	}
	i++ // behind the column's name
	form := ""
	switch {
	case action.is(i, "type"), action.follow(i, "set", "data"):
		form = "SET DATA TYPE"
	case action.follow(i, "set", "not"):
		form = "SET NOT NULL"
	case action.follow(i, "set", "statistics"), action.follow(i, "set", "compression"):
		form = "SET " + strings.ToUpper(action[i+1].text)
	case action.is(i, "set", "reset") && action.symbol(i+1, "("):
		form = strings.ToUpper(action[i].text)
	case action.is(i, "options"):
		form = "OPTIONS"
	default:
		return ""
	}
	return "ALTER COLUMN ... " + form
}
