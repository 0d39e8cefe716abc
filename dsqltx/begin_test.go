package dsqltx_test

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltx"
)

// Run takes whatever begins transactions, also what wraps a pool, and trusts no fn that says all is well
// when its connection is gone.
func TestRunBeginners(t *testing.T) {
	pool, err := dsql.NewPool(t.Context(), server.Config())
	require.NoError(t, err)
	defer pool.Close()
	name := table(t, "id int primary key")
	for id, db := range []dsqltx.Beginner{pool, struct{ dsqltx.Beginner }{pool}} {
		attempts := 0
		require.NoError(t, dsqltx.Run(t.Context(), db, func(ctx context.Context, tx pgx.Tx) error {
			attempts++
			_, err := tx.Exec(t.Context(), "insert into "+name+" values ($1)", id)
			if attempts == 1 {
				require.NoError(t, err)
				require.NoError(t, tx.Conn().Close(t.Context()))
				return nil
			}
			return err
		}))
		require.Greater(t, attempts, 1) // more while the lost session still holds its row
	}
	var n int
	require.NoError(t, dsqltx.Runner{Idempotent: true}.Retry(t.Context(), func(ctx context.Context) error {
		return pool.QueryRow(ctx, "select count(*) from "+name).Scan(&n)
	}))
	require.Equal(t, 2, n)
}
