package dsqltest

import (
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// BenchmarkStatements is what the rules cost: a SELECT and an UPDATE in autocommit, and a
// transaction of one UPDATE.
func BenchmarkStatements(b *testing.B) {
	s := New(b)
	setup := connect(b, connConfig(b, s, adminRole))
	mustExec(b, setup, "create table counters (id int primary key, n int not null)")
	mustExec(b, setup, "insert into counters values (1, 0)")
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeSimpleProtocol} {
		conn := connectIn(b, s, mode)
		run := func(b *testing.B, sql string, args ...any) {
			_, err := conn.Exec(b.Context(), sql, args...)
			require.NoError(b, err)
		}
		b.Run("SELECT, "+mode.String(), func(b *testing.B) {
			for b.Loop() {
				run(b, "select n from counters where id = $1", 1)
			}
		})
		b.Run("UPDATE, "+mode.String(), func(b *testing.B) {
			for b.Loop() {
				run(b, "update counters set n = n + 1 where id = $1", 1)
			}
		})
		b.Run("transaction, "+mode.String(), func(b *testing.B) {
			for b.Loop() {
				run(b, "begin")
				run(b, "update counters set n = n + 1 where id = $1", 1)
				run(b, "commit")
			}
		})
	}
}
