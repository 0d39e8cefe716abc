package dsqltx_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqltx"
	"github.com/dsqlgo/dsql/internal/counters"
)

// The connection is cut before each message of a transaction or statement, after it, and behind its
// answer, whatever sends it. Nothing is applied twice, nothing is lost, and no unknown outcome is
// called failed.
func TestCutsAtEveryMessage(t *testing.T) {
	const update = "update counters set n = n + $1 where id = $2"
	inTx := func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, update, 1, 0); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, update, 1, 1)
		return err
	}
	mode := func(mode pgx.QueryExecMode) func(*pgxpool.Config) {
		return func(c *pgxpool.Config) { c.ConnConfig.DefaultQueryExecMode = mode }
	}
	onPool := func(do func(ctx context.Context, pool *pgxpool.Pool) error, tune ...func(*pgxpool.Config)) func(*testing.T, *counters.Server) func(context.Context) error {
		return func(t *testing.T, s *counters.Server) func(context.Context) error {
			pool := countersPool(t, s, 1, tune...)
			return func(ctx context.Context) error { return do(ctx, pool) }
		}
	}
	run := func(r dsqltx.Runner) func(ctx context.Context, pool *pgxpool.Pool) error {
		return func(ctx context.Context, pool *pgxpool.Pool) error { return r.Run(ctx, pool, inTx) }
	}
	runSQL := func(queryMode pgx.QueryExecMode) func(*testing.T, *counters.Server) func(context.Context) error {
		return func(t *testing.T, s *counters.Server) func(context.Context) error {
			config := s.ConnConfig()
			config.DefaultQueryExecMode = queryMode
			db := stdlib.OpenDB(*config)
			db.SetMaxOpenConns(1)
			t.Cleanup(func() { require.NoError(t, db.Close()) })
			return func(ctx context.Context) error {
				return dsqltx.RunSQL(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
					if _, err := tx.ExecContext(ctx, update, 1, 0); err != nil {
						return err
					}
					_, err := tx.ExecContext(ctx, update, 1, 1)
					return err
				})
			}
		}
	}
	for name, c := range map[string]struct {
		open   func(*testing.T, *counters.Server) func(context.Context) error
		rows   int64 // that are written
		single bool  // a connection that cannot be replaced
	}{
		"Run":                  {onPool(run(dsqltx.Runner{})), 2, false},
		"Run, BEGIN by itself": {onPool(run(dsqltx.Runner{SeparateBegin: true})), 2, false},
		"Run, cache_describe":  {onPool(run(dsqltx.Runner{}), mode(pgx.QueryExecModeCacheDescribe)), 2, false},
		"Run, describe_exec":   {onPool(run(dsqltx.Runner{}), mode(pgx.QueryExecModeDescribeExec)), 2, false},
		"Run, exec":            {onPool(run(dsqltx.Runner{}), mode(pgx.QueryExecModeExec)), 2, false},
		"Run, simple protocol": {onPool(run(dsqltx.Runner{}), mode(pgx.QueryExecModeSimpleProtocol)), 2, false},
		"RunSQL":               {runSQL(pgx.QueryExecModeCacheStatement), 2, false},
		"RunSQL, exec":         {runSQL(pgx.QueryExecModeExec), 2, false},
		"RunSQL, simple":       {runSQL(pgx.QueryExecModeSimpleProtocol), 2, false},
		"Run, single connection": {func(t *testing.T, s *counters.Server) func(context.Context) error {
			return func(ctx context.Context) error {
				conn, err := pgx.ConnectConfig(ctx, s.ConnConfig())
				require.NoError(t, err)
				defer conn.Close(ctx)
				return dsqltx.Run(ctx, conn, inTx)
			}
		}, 2, true},
		"Exec": {onPool(func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := dsqltx.Exec(ctx, pool, update, 1, 0)
			return err
		}), 1, false},
		"Exec, simple": {onPool(func(ctx context.Context, pool *pgxpool.Pool) error {
			_, err := dsqltx.Exec(ctx, pool, addOne)
			return err
		}), 1, false},
		"DB, a row": {onPool(func(ctx context.Context, pool *pgxpool.Pool) error {
			return dsqltx.Runner{}.Wrap(pool).QueryRow(ctx, addReturning, 0).Scan(new(int))
		}), 1, false},
		"DB, a batch": {onPool(func(ctx context.Context, pool *pgxpool.Pool) error {
			b := &pgx.Batch{}
			b.Queue(addReturning, 0)
			return dsqltx.Runner{}.Wrap(pool).SendBatch(ctx, b).Close()
		}), 1, false},
		"ExecSQL": {func(t *testing.T, s *counters.Server) func(context.Context) error {
			db := countersDB(t, s, 1)
			return func(ctx context.Context) error {
				_, err := dsqltx.ExecSQL(ctx, db, update, 1, 0)
				return err
			}
		}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newCounters(t, 2)
			add := c.open(t, s)
			count := func() int {
				var n atomic.Int32
				s.SetFaults(func(counters.Event) counters.Fault { n.Add(1); return counters.Fault{} })
				require.NoError(t, add(t.Context()))
				return int(n.Load())
			}
			cold, warm := count(), count()
			t.Logf("%d messages, and then %d", cold, warm)
			seen := map[bool]int{}
			for at := 1; at <= max(cold, warm); at++ {
				for _, cut := range []counters.Cut{counters.CutBefore, counters.CutAfter, counters.CutAnswered} {
					for _, prepare := range []bool{true, false} { // with statements known, and on a new connection
						s.SetFaults(nil)
						if prepare {
							require.NoError(t, add(t.Context()))
						} else {
							add = c.open(t, s)
						}
						before := [2]int64{s.Value(0), s.Value(1)}
						var n atomic.Int32
						var struck atomic.Value
						s.SetFaults(func(e counters.Event) counters.Fault {
							if n.Add(1) == int32(at) {
								struck.Store(e)
								return counters.Fault{Cut: cut}
							}
							return counters.Fault{}
						})
						err := add(t.Context())
						s.SetFaults(nil)
						text := fmt.Sprintf("cut %d at message %d %+v, prepared %t: %v", cut, at, struck.Load(), prepare, err)
						landed := s.Value(0) - before[0]
						if c.rows == 2 {
							require.Equal(t, landed, s.Value(1)-before[1], text)
						}
						switch {
						case err == nil:
							require.EqualValues(t, 1, landed, text)
						case errors.Is(err, dsqltx.ErrCommitUnknown):
							require.LessOrEqual(t, landed, int64(1), text)
							e := struck.Load().(counters.Event)
							if c.rows == 2 && cut != counters.CutAnswered { // behind which COMMIT finds a dead connection
								require.True(t, e.Commits, text)
							}
						default:
							require.True(t, c.single, text)
							require.Zero(t, landed, text)
						}
						seen[err == nil]++
					}
				}
			}
			require.Positive(t, seen[true])
			require.Positive(t, seen[false])
		})
	}
}
