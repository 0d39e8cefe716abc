package dsqltx_test

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

// sends counts what goes out: pgx writes once for each round trip.
type sends struct {
	net.Conn
	n *atomic.Int64
}

func (s sends) Write(b []byte) (int, error) {
	s.n.Add(1)
	return s.Conn.Write(b)
}

// A pool of one connection with a table of one row, and what goes out on it.
func countedPool(t *testing.T, tune ...func(*pgxpool.Config)) (*pgxpool.Pool, *atomic.Int64) {
	t.Helper()
	s := dsqltest.New(t)
	c := s.Config()
	c.Params = map[string]string{"pool_max_conns": "1"}
	var n atomic.Int64
	c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		return sends{conn, &n}, err
	}
	pool, err := dsql.NewPool(t.Context(), c, tune...)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, err = pool.Exec(t.Context(), "create table counts (id int primary key, n int not null)")
	require.NoError(t, err)
	require.NoError(t, dsqltx.Run(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), "insert into counts values (1, 0)")
		return err
	}))
	return pool, &n
}

const bump = "update counts set n = n + 1 where id = $1"

// Every statement that can be the first is in the transaction: it is rolled back with it. Where it
// can go out together with BEGIN, it does.
func TestRunFirstStatement(t *testing.T) {
	ctx := t.Context()
	pool, sent := countedPool(t)
	require.NoError(t, pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
		_, err := c.Conn().Prepare(ctx, "bump", bump)
		return err
	}))
	returning := bump + " returning n"
	undo := errors.New("undo")
	for name, c := range map[string]struct {
		trips int64 // with BEGIN and ROLLBACK, once what can be prepared is
		first func(ctx context.Context, tx pgx.Tx) error
	}{
		"Exec":           {2, func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, bump, 1); return err }},
		"Exec, prepared": {3, func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "bump", 1); return err }},
		"Exec, named": {2, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "update counts set n = n + 1 where id = @id", pgx.NamedArgs{"id": 1})
			return err
		}},
		"Exec, no arguments": {3, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "update counts set n = n + 1; select 1")
			return err
		}},
		"Exec, a mode": {3, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, bump, pgx.QueryExecModeExec, 1)
			return err
		}},
		"Query": {2, func(ctx context.Context, tx pgx.Tx) error {
			rows, _ := tx.Query(ctx, returning, 1)
			n, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[int])
			require.Equal(t, 1, n)
			require.EqualValues(t, 1, rows.CommandTag().RowsAffected())
			return err
		}},
		"Query, no arguments": {2, func(ctx context.Context, tx pgx.Tx) error {
			rows, _ := tx.Query(ctx, "update counts set n = n + 1 returning n")
			for rows.Next() {
				values, err := rows.Values()
				require.NoError(t, err)
				require.Equal(t, []any{int32(1)}, values)
			}
			return rows.Err()
		}},
		"Query, a mode": {3, func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, returning, pgx.QueryResultFormats{pgx.TextFormatCode}, 1)
			rows.Close()
			return errors.Join(err, rows.Err())
		}},
		"QueryRow": {2, func(ctx context.Context, tx pgx.Tx) error {
			var n int
			err := tx.QueryRow(ctx, returning, 1).Scan(&n)
			require.Equal(t, 1, n)
			return err
		}},
		"QueryRow, no row": {3, func(ctx context.Context, tx pgx.Tx) error {
			require.ErrorIs(t, tx.QueryRow(ctx, "select n from counts where id = $1", 7).Scan(new(int)), pgx.ErrNoRows)
			_, err := tx.Exec(ctx, bump, 1)
			return err
		}},
		"SendBatch": {3, func(ctx context.Context, tx pgx.Tx) error {
			b := &pgx.Batch{}
			b.Queue(bump, 1)
			return tx.SendBatch(ctx, b).Close()
		}},
		"CopyFrom": {-1, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.CopyFrom(ctx, pgx.Identifier{"counts"}, []string{"id", "n"}, pgx.CopyFromRows([][]any{{2, 2}}))
			return err
		}},
		"Prepare": {-1, func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Prepare(ctx, "bump too", bump); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "bump too", 1)
			return err
		}},
		"Conn": {3, func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Conn().Exec(ctx, bump, 1); return err }},
	} {
		t.Run(name, func(t *testing.T) {
			for range 2 {
				err := dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
					if err := c.first(ctx, tx); err != nil {
						return err
					}
					require.EqualValues(t, 'T', tx.Conn().PgConn().TxStatus())
					var changed int
					require.NoError(t, tx.QueryRow(ctx, "select sum(n) from counts").Scan(&changed))
					require.Positive(t, changed)
					return undo
				})
				require.Equal(t, undo, err)
				require.Equal(t, [2]int{1, 0}, counts(t, pool))
			}
			before := sent.Load()
			require.Equal(t, undo, dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error { require.NoError(t, c.first(ctx, tx)); return undo }))
			if c.trips > 0 {
				require.Equal(t, c.trips, sent.Load()-before)
			}
		})
	}
}

// counts returns how many rows there are, and their sum.
func counts(t *testing.T, pool *pgxpool.Pool) (c [2]int) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), "select count(*), sum(n) from counts").Scan(&c[0], &c[1]))
	return c
}

// What goes wrong at the first statement ends as it does at any other.
func TestRunFirstStatementFails(t *testing.T) {
	ctx := t.Context()
	pool, _ := countedPool(t)
	var pgErr *pgconn.PgError
	for name, fail := range map[string]func(ctx context.Context, tx pgx.Tx) error{
		"Exec, not parsed": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "update nothing set n = $1", 1)
			return err
		},
		"Exec, not executed": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "update counts set n = 1 / $1::int", 0)
			return err
		},
		"Exec, no arguments": func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "update counts set n = 1 / 0")
			return err
		},
		"QueryRow, not parsed": func(ctx context.Context, tx pgx.Tx) error { return tx.QueryRow(ctx, "select nothing").Scan(new(int)) },
		"QueryRow, not executed": func(ctx context.Context, tx pgx.Tx) error {
			return tx.QueryRow(ctx, "select 1 / $1::int", 0).Scan(new(int))
		},
		"Query, not parsed": func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Query(ctx, "select nothing"); return err },
		"Query, not executed": func(ctx context.Context, tx pgx.Tx) error {
			rows, _ := tx.Query(ctx, "select 1 / (2 - n) from generate_series(1, $1) n", 3)
			_, err := pgx.CollectRows(rows, pgx.RowTo[int])
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := dsqltx.Run(ctx, pool, fail)
			require.ErrorAs(t, err, &pgErr)
			require.NotContains(t, err.Error(), "batch")

			// One that fn hides is not hidden, and nothing after it is applied.
			err = dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
				require.Error(t, fail(ctx, tx))
				_, err := tx.Exec(ctx, bump, 1)
				require.Error(t, err)
				require.Error(t, tx.QueryRow(ctx, "select 1").Scan(new(int)))
				_, err = tx.Query(ctx, "select 1")
				require.Error(t, err)
				return nil
			})
			require.ErrorIs(t, err, pgx.ErrTxCommitRollback)
			require.ErrorContains(t, err, "return that error")
			require.Equal(t, [2]int{1, 0}, counts(t, pool))
		})
	}

	t.Run("not sent", func(t *testing.T) { // as with any other of pgx's: fn may go on
		const unfit = bump + " and n >= 0"
		opened := pool.Stat().NewConnsCount()
		require.NoError(t, dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, unfit, struct{}{})
			require.ErrorContains(t, err, "encode")
			require.NotContains(t, err.Error(), "batch")
			_, err = tx.Exec(ctx, unfit, 1)
			return err
		}))
		require.Equal(t, [2]int{1, 1}, counts(t, pool))
		for range 3 {
			require.ErrorContains(t, dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, unfit, struct{}{})
				return err
			}), "encode")
		}
		require.LessOrEqual(t, pool.Stat().NewConnsCount(), opened+1)
	})
	t.Run("rows not scanned", func(t *testing.T) {
		require.NoError(t, dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, "select 'x'::text from generate_series(1, $1)", 3)
			require.NoError(t, err)
			require.True(t, rows.Next())
			require.Error(t, rows.Scan(new(int)))
			require.Error(t, rows.Err())
			_, err = tx.Exec(ctx, bump, 1)
			return err
		}))
		require.Equal(t, [2]int{1, 2}, counts(t, pool))
	})
	t.Run("rows left open", func(t *testing.T) {
		require.ErrorContains(t, dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Query(ctx, "select 1 from generate_series(1, $1)", 3)
			require.NoError(t, err)
			_, err = tx.Exec(ctx, bump, 1)
			return err
		}), "busy")
	})
}

// A pooled connection that ended meanwhile shows at the first statement, which is safe to run again.
func TestRunFirstStatementConnectionLost(t *testing.T) {
	ctx := t.Context()
	pool, _ := countedPool(t)
	for i := range 3 {
		require.NoError(t, pool.AcquireFunc(ctx, func(c *pgxpool.Conn) error {
			return c.Conn().PgConn().Conn().(interface{ NetConn() net.Conn }).NetConn().Close()
		}))
		runs := 0
		require.NoError(t, dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
			runs++
			_, err := tx.Exec(ctx, bump, 1)
			return err
		}))
		require.Equal(t, 2, runs)
		require.Equal(t, [2]int{1, i + 1}, counts(t, pool))
	}
}

func TestRunDoesNothing(t *testing.T) {
	pool, sent := countedPool(t)
	before := sent.Load()
	require.NoError(t, dsqltx.Run(t.Context(), pool, func(context.Context, pgx.Tx) error { return nil }))
	require.Equal(t, before, sent.Load())
}

type queryTracer struct{ queries []string }

func (q *queryTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, d pgx.TraceQueryStartData) context.Context {
	q.queries = append(q.queries, d.SQL)
	return ctx
}
func (*queryTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A tracer of queries, which does not hear of batches, hears of the first statement; and the
// simple protocol stays simple.
func TestRunFirstStatementAlone(t *testing.T) {
	tracer := &queryTracer{}
	for name, tune := range map[string]func(*pgxpool.Config){
		"tracer": func(c *pgxpool.Config) { c.ConnConfig.Tracer = tracer },
		"simple": func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeSimpleProtocol },
	} {
		t.Run(name, func(t *testing.T) {
			pool, sent := countedPool(t, tune)
			increment := func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(t.Context(), bump, 1); return err }
			require.NoError(t, dsqltx.Run(t.Context(), pool, increment))
			before := sent.Load()
			require.NoError(t, dsqltx.Run(t.Context(), pool, increment))
			require.EqualValues(t, 3, sent.Load()-before)
			require.Equal(t, [2]int{1, 2}, counts(t, pool))
		})
	}
	require.Contains(t, tracer.queries, bump)
}
