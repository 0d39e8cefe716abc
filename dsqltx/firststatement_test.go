package dsqltx_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqltx"
)

// After a first statement that failed, the connection leads to no autocommit: what is done on it is
// rolled back, as Run says.
func TestConnAfterFirstStatementFailed(t *testing.T) {
	pool, _ := countedPool(t)
	for name, c := range map[string]struct {
		options pgx.TxOptions
		first   func(ctx context.Context, tx pgx.Tx) error
	}{
		"not parsed": {pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "update nothing set n = $1", 1)
			return err
		}},
		"not executed": {pgx.TxOptions{}, func(ctx context.Context, tx pgx.Tx) error {
			return tx.QueryRow(ctx, "select 1 / $1::int", 0).Scan(new(int))
		}},
		"BEGIN refused": {pgx.TxOptions{BeginQuery: "begin nonsense"}, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, bump, 1)
			return err
		}},
		"BEGIN refused, alone": {pgx.TxOptions{BeginQuery: "begin nonsense"}, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "select 1")
			return err
		}},
	} {
		for _, hidden := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, hidden by fn: %t", name, hidden), func(t *testing.T) {
				err := dsqltx.Runner{TxOptions: c.options}.Run(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
					failure := c.first(ctx, tx)
					require.Error(t, failure)
					_, _ = tx.Conn().Exec(ctx, bump, 1)
					if hidden {
						return nil
					}
					return failure
				})
				require.Error(t, err)
				require.Equal(t, [2]int{1, 0}, counts(t, pool))
			})
		}
	}
}

// Arguments that cannot be encoded cost no connection, however many texts they come with.
func TestFirstStatementCannotBeEncoded(t *testing.T) {
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec} {
		t.Run(mode.String(), func(t *testing.T) {
			pool, _ := countedPool(t, func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode })
			opened := pool.Stat().NewConnsCount()
			for i := range 20 {
				err := dsqltx.Run(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
					_, err := tx.Exec(ctx, fmt.Sprintf("%s and n >= %d", bump, i), struct{ unfit chan int }{})
					require.ErrorContains(t, err, "encode")
					require.NotContains(t, err.Error(), "batch")
					_, err = tx.Exec(ctx, bump, 1) // as with pgx alone, fn may go on
					return err
				})
				require.NoError(t, err)
			}
			require.Equal(t, opened, pool.Stat().NewConnsCount())
			require.Equal(t, [2]int{1, 20}, counts(t, pool))
		})
	}
}

// Statements that a batch would take for something else are sent as pgx alone sends them.
func TestFirstStatementUnusual(t *testing.T) {
	pool, _ := countedPool(t)
	run := func(fn func(ctx context.Context, tx pgx.Tx) error) error { return dsqltx.Run(t.Context(), pool, fn) }
	for _, empty := range []string{"", " ", "-- nothing", "/* /* nothing */ */", ";"} {
		require.NoError(t, run(func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, empty)
			rows.Close()
			return errors.Join(err, rows.Err())
		}), "%q", empty)
		require.ErrorIs(t, run(func(ctx context.Context, tx pgx.Tx) error {
			return tx.QueryRow(ctx, empty).Scan(new(int))
		}), pgx.ErrNoRows, "%q", empty)
	}
	require.NoError(t, run(func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "two", twoStatements{}, 7) // no arguments are left, so there may be two
		return err
	}))
	require.Equal(t, [2]int{1, 2}, counts(t, pool))
	require.NoError(t, run(func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "/* a comment */ -- and another\n"+bump, 1)
		return err
	}))
	require.NoError(t, run(func(ctx context.Context, tx pgx.Tx) error {
		b := &pgx.Batch{}
		b.Queue(bump, 1)
		return tx.SendBatch(ctx, b).Close()
	}))
	require.Equal(t, [2]int{1, 4}, counts(t, pool))
}

type twoStatements struct{}

func (twoStatements) RewriteQuery(context.Context, *pgx.Conn, string, []any) (string, []any, error) {
	const add = "update counts set n = n + 1"
	return add + ";" + add, nil, nil
}

// The batch can be switched off.
func TestSeparateBegin(t *testing.T) {
	pool, sent := countedPool(t)
	for _, c := range []struct {
		separate bool
		trips    int64
	}{{false, 2}, {true, 3}} {
		run := func() {
			r := dsqltx.Runner{SeparateBegin: c.separate}
			require.NoError(t, r.Run(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, bump, 1)
				return err
			}))
		}
		run()
		before := sent.Load()
		run()
		require.Equal(t, c.trips, sent.Load()-before)
	}
}

// A server that ignores the BEGIN before a first statement would run that in autocommit. Run says so.
func TestServerDoesNotBegin(t *testing.T) {
	pool, _ := countedPool(t)
	for _, separate := range []bool{false, true} {
		runs := 0
		r := dsqltx.Runner{TxOptions: pgx.TxOptions{BeginQuery: "select 1"}, SeparateBegin: separate}
		err := r.Run(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
			runs++
			_, err := tx.Exec(ctx, bump, 1)
			return err
		})
		require.ErrorContains(t, err, "did not begin a transaction")
		require.Equal(t, 1, runs)
		if separate {
			require.NotErrorIs(t, err, dsqltx.ErrCommitUnknown)
			require.Equal(t, [2]int{1, 1}, counts(t, pool), "nothing was sent")
		} else {
			require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
			require.ErrorContains(t, err, "may be applied")
			require.Equal(t, [2]int{1, 1}, counts(t, pool))
		}
	}
}
