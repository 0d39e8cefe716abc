package rules

import (
	"slices"
	"strings"
)

// Names returns every identifier and keyword of the statement as PostgreSQL knows it, each once. What
// tables a statement is about is among them.
func (s *Statement) Names() []string {
	ts := tokenize(s.SQL, 0, len(s.SQL))
	var names []string
	for i := range ts {
		if name := ts.name(i); name != "" && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// Table is the name of a table with that of its schema.
type Table struct{ Schema, Name string }

// InTemporarySchema returns sql with pg_temp as the schema wherever one of tables is named with its
// own.
func InTemporarySchema(sql string, tables map[Table]bool) string {
	if !strings.Contains(sql, ".") {
		return sql
	}
	ts := tokenize(sql, 0, len(sql))
	var b strings.Builder
	written := 0
	for i := range ts {
		if !ts.symbol(i+1, ".") || i > 0 && ts.symbol(i-1, ".") || !tables[Table{ts.name(i), ts.name(i + 2)}] {
			continue
		}
		b.WriteString(sql[written:ts[i].start])
		b.WriteString("pg_temp")
		written = ts[i].end
	}
	b.WriteString(sql[written:])
	return b.String()
}
