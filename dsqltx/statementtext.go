package dsqltx

import (
	"context"
	"strings"

	"github.com/jackc/pgx/v5"
)

// isQuery tells whether a statement reads or writes rows, by its first keyword. Other statements,
// an empty one among them, are not worth a batch, or mean something else in one.
func isQuery(sql string) bool {
	word, _ := firstWord(sql)
	for _, query := range [...]string{"select", "insert", "update", "delete", "with", "values", "table"} {
		if strings.EqualFold(word, query) {
			return true
		}
	}
	return false
}

// endsTransaction tells whether a statement ends the transaction that it is in.
func endsTransaction(sql string) bool {
	word, rest := firstWord(sql)
	switch {
	case strings.EqualFold(word, "commit"), strings.EqualFold(word, "end"), strings.EqualFold(word, "abort"):
		return true
	case strings.EqualFold(word, "rollback"): // to a savepoint, it does not
		if word, rest = firstWord(rest); strings.EqualFold(word, "work") || strings.EqualFold(word, "transaction") {
			word, _ = firstWord(rest)
		}
		return !strings.EqualFold(word, "to")
	}
	return false
}

// firstWord returns the word at the beginning of sql, behind comments, and what follows. It is ""
// where something other than a letter is first.
func firstWord(sql string) (word, rest string) {
	sql = skipComments(sql)
	end := 0
	for end < len(sql) && (sql[end] >= 'a' && sql[end] <= 'z' || sql[end] >= 'A' && sql[end] <= 'Z') {
		end++
	}
	return sql[:end], sql[end:]
}

// skipComments returns sql without the space and comments at its beginning (PostgreSQL docs,
// "Lexical Structure"; /* comments nest).
func skipComments(sql string) string {
	for {
		sql = strings.TrimLeft(sql, " \t\r\n\f\v")
		switch {
		case strings.HasPrefix(sql, "--"):
			_, sql, _ = strings.Cut(sql, "\n")
		case strings.HasPrefix(sql, "/*"):
			depth, i := 1, 2
			for ; i < len(sql) && depth > 0; i++ {
				switch {
				case strings.HasPrefix(sql[i:], "/*"):
					depth, i = depth+1, i+1
				case strings.HasPrefix(sql[i:], "*/"):
					depth, i = depth-1, i+1
				}
			}
			sql = sql[min(i, len(sql)):]
		default:
			return sql
		}
	}
}

// resolveNamedArgs puts pgx's named arguments in order, as pgx itself would. Other arguments, and
// named ones that do not fit, stay as they are.
func resolveNamedArgs(ctx context.Context, sql string, args []any) (string, []any) {
	if len(args) != 1 {
		return sql, args
	}
	switch args[0].(type) {
	case pgx.NamedArgs, pgx.StrictNamedArgs:
		named := args[0].(pgx.QueryRewriter)
		if inOrder, ordered, err := named.RewriteQuery(ctx, nil, sql, nil); err == nil {
			return inOrder, ordered
		}
	}
	return sql, args
}
