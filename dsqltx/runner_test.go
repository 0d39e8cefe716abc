package dsqltx_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

// bank is a server of its own with a table of accounts, and both ways to it.
type bank struct {
	server *dsqltest.Server
	pool   *pgxpool.Pool
	db     *sql.DB
}

func newBank(tb testing.TB, accounts, conns int) *bank {
	tb.Helper()
	s := dsqltest.New(tb, dsqltest.WithConnectQuota(-1, 0))
	c := s.Config()
	c.ConnectRate = -1
	c.Params = map[string]string{"pool_max_conns": fmt.Sprint(conns)}
	pool, err := dsql.NewPool(tb.Context(), c)
	require.NoError(tb, err)
	tb.Cleanup(pool.Close)
	db, err := dsql.OpenDB(tb.Context(), c)
	require.NoError(tb, err)
	tb.Cleanup(func() { require.NoError(tb, db.Close()) })
	b := &bank{s, pool, db}
	b.exec(tb, "create table accounts (id int primary key, balance bigint not null)")
	b.exec(tb, "create table notes (id text primary key)")
	for id := range accounts {
		b.exec(tb, "insert into accounts values ($1, 0)", id)
	}
	return b
}

func (b *bank) exec(tb testing.TB, sql string, args ...any) {
	tb.Helper()
	_, err := dsqltx.Exec(tb.Context(), b.pool, sql, args...)
	require.NoError(tb, err)
}

func (b *bank) one(tb testing.TB, sql string, args ...any) (n int64) {
	tb.Helper()
	require.NoError(tb, dsqltx.Runner{Idempotent: true}.Retry(tb.Context(), func(ctx context.Context) error {
		return b.pool.QueryRow(ctx, sql, args...).Scan(&n)
	}))
	return n
}

// The two runners, as one: f gets what executes in the transaction.
type execer func(sql string, args ...any) error

type runFunc func(ctx context.Context, r dsqltx.Runner, f func(execer) error) error

func (b *bank) runners() map[string]runFunc {
	return map[string]runFunc{
		"Run": func(ctx context.Context, r dsqltx.Runner, f func(execer) error) error {
			return r.Run(ctx, b.pool, func(ctx context.Context, tx pgx.Tx) error {
				return f(func(sql string, args ...any) error {
					_, err := tx.Exec(ctx, sql, args...)
					return err
				})
			})
		},
		"RunSQL": func(ctx context.Context, r dsqltx.Runner, f func(execer) error) error {
			return r.RunSQL(ctx, b.db, func(ctx context.Context, tx *sql.Tx) error {
				return f(func(sql string, args ...any) error {
					_, err := tx.ExecContext(ctx, sql, args...)
					return err
				})
			})
		},
	}
}

// randomCuts cuts one commit in rate, at either point, and gives as many a conflict.
func randomCuts(rate int) func() dsqltest.CommitFault {
	return func() dsqltest.CommitFault {
		if rand.IntN(rate) != 0 {
			return dsqltest.NoFault
		}
		return []dsqltest.CommitFault{dsqltest.BeforeCommit, dsqltest.AfterCommit, dsqltest.Conflict}[rand.IntN(3)]
	}
}

// 32 workers increment one row, 200 times each. Each increment also writes a
// note, by which those of unknown outcome are counted afterwards.
func TestIncrements(t *testing.T) {
	workers, each := 32, 200
	if testing.Short() {
		each = 6
	}
	for _, cut := range []bool{false, true} {
		b := newBank(t, 2, workers)
		for account, name := range []string{"Run", "RunSQL"} {
			run := b.runners()[name]
			t.Run(fmt.Sprintf("%s, cut=%v", name, cut), func(t *testing.T) {
				if cut {
					b.server.SetCommitFaults(randomCuts(10))
				}
				var acknowledged, unknown atomic.Int64
				var mu sync.Mutex
				var doubtful []string
				var wg sync.WaitGroup
				for w := range workers {
					wg.Go(func() {
						for i := range each {
							note := fmt.Sprintf("%s %d %d", name, w, i)
							err := run(t.Context(), dsqltx.Runner{}, func(exec execer) error {
								if err := exec("update accounts set balance = balance + 1 where id = $1", account); err != nil {
									return err
								}
								return exec("insert into notes values ($1)", note)
							})
							switch {
							case err == nil:
								acknowledged.Add(1)
							case errors.Is(err, dsqltx.ErrCommitUnknown):
								unknown.Add(1)
								mu.Lock()
								doubtful = append(doubtful, note)
								mu.Unlock()
							default:
								t.Errorf("%s: %v", note, err)
							}
						}
					})
				}
				wg.Wait()
				b.server.SetCommitFaults(nil)
				landed := b.one(t, "select count(*) from notes where id = any($1)", doubtful)
				applied := b.one(t, "select balance from accounts where id = $1", account)
				t.Logf("%d applied: %d acknowledged, %d of %d unknown", applied, acknowledged.Load(), landed, unknown.Load())
				require.Equal(t, acknowledged.Load()+landed, applied)
				require.Equal(t, applied, b.one(t, "select count(*) from notes where id like $1", name+" %"), "none doubled")
				require.EqualValues(t, workers*each, acknowledged.Load()+unknown.Load(), "none lost")
				if !cut {
					require.EqualValues(t, workers*each, applied)
				} else {
					require.Positive(t, unknown.Load())
					require.Positive(t, landed)
					require.Less(t, landed, unknown.Load())
				}
			})
		}
	}
}

// Money moves between 20 accounts under the same faults: no snapshot shows
// another sum.
func TestTransfers(t *testing.T) {
	t.Parallel()
	b := newBank(t, 20, 12)
	b.exec(t, "update accounts set balance = 100")
	for name, run := range b.runners() {
		t.Run(name, func(t *testing.T) {
			b.server.SetCommitFaults(randomCuts(10))
			defer b.server.SetCommitFaults(nil)
			done := make(chan struct{})
			var watching, moving sync.WaitGroup
			watching.Go(func() {
				for {
					select {
					case <-done:
						return
					default:
						require.EqualValues(t, 2000, b.one(t, "select sum(balance) from accounts"))
					}
				}
			})
			for range 8 {
				moving.Go(func() {
					for range 50 {
						from, to := rand.IntN(20), rand.IntN(20)
						err := run(t.Context(), dsqltx.Runner{}, func(exec execer) error {
							if err := exec("update accounts set balance = balance - 1 where id = $1", from); err != nil {
								return err
							}
							return exec("update accounts set balance = balance + 1 where id = $1", to)
						})
						if err != nil {
							require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
						}
					}
				})
			}
			moving.Wait()
			close(done)
			watching.Wait()
			require.EqualValues(t, 2000, b.one(t, "select sum(balance) from accounts"))
		})
	}
}

// The schema changes under 16 readers and writers: none sees an error.
func TestSchemaChange(t *testing.T) {
	t.Parallel()
	b := newBank(t, 16, 20)
	done := make(chan struct{})
	var wg sync.WaitGroup
	var rounds atomic.Int64
	for id := range 16 {
		wg.Go(func() {
			for {
				select {
				case <-done:
					return
				default:
				}
				rounds.Add(1)
				if id%2 == 0 {
					b.one(t, "select balance from accounts where id = $1", id)
					continue
				}
				for name, run := range b.runners() {
					require.NoError(t, run(t.Context(), dsqltx.Runner{}, func(exec execer) error {
						return exec("update accounts set balance = balance + 1 where id = $1", id)
					}), name)
				}
			}
		})
	}
	for i := range 5 {
		at := rounds.Load()
		require.Eventually(t, func() bool { return rounds.Load() > at+32 }, 30*time.Second, time.Millisecond)
		b.exec(t, fmt.Sprintf("alter table accounts add column extra%d int", i))
	}
	close(done)
	wg.Wait()
	require.Positive(t, b.server.Transactions().SchemaConflicts)
}

// A statement whose columns changed since pgx prepared it runs again, in every mode of pgx.
func TestColumnsChange(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 1)
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol} {
		t.Run(mode.String(), func(t *testing.T) {
			pool, err := dsql.NewPool(t.Context(), b.server.Config(), func(c *pgxpool.Config) {
				c.MaxConns = 1
				c.ConnConfig.DefaultQueryExecMode = mode
			})
			require.NoError(t, err)
			defer pool.Close()
			table := "changing_" + strings.ReplaceAll(mode.String(), " ", "_")
			b.exec(t, "create table "+table+" (a int)")
			b.exec(t, "insert into "+table+" values (1)")
			for i, query := range []func() (columns int, err error){
				func() (columns int, err error) { // the first of its transaction
					return columns, dsqltx.Run(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
						rows, _ := tx.Query(t.Context(), "select * from "+table)
						all, err := pgx.CollectRows(rows, pgx.RowToMap)
						if err == nil {
							columns = len(all[0])
						}
						return err
					})
				},
				func() (columns int, err error) { // a later one
					return columns, dsqltx.Run(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
						if _, err := tx.Exec(t.Context(), "update "+table+" set a = $1", 2); err != nil {
							return err
						}
						rows, _ := tx.Query(t.Context(), "select * from "+table)
						all, err := pgx.CollectRows(rows, pgx.RowToMap)
						if err == nil {
							columns = len(all[0])
						}
						return err
					})
				},
				func() (columns int, err error) {
					return columns, dsqltx.Retry(t.Context(), func(ctx context.Context) error {
						rows, _ := pool.Query(ctx, "select * from "+table)
						all, err := pgx.CollectRows(rows, pgx.RowToMap)
						if err == nil {
							columns = len(all[0])
						}
						return err
					})
				},
			} {
				before, err := query()
				require.NoError(t, err)
				b.exec(t, fmt.Sprintf("alter table %s add column c%d int", table, i))
				after, err := query()
				require.NoError(t, err)
				require.Equal(t, before+1, after)
			}
		})
	}
}

// What is known after a commit's connection was cut decides what is done.
func TestCommitUnknown(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 4)
	for name, run := range b.runners() {
		for _, point := range []dsqltest.CommitFault{dsqltest.BeforeCommit, dsqltest.AfterCommit} {
			landed := int64(0)
			if point == dsqltest.AfterCommit {
				landed = 1
			}
			t.Run(fmt.Sprint(name, " ", point), func(t *testing.T) {
				runs := 0
				write := func(note string, r dsqltx.Runner) error {
					runs = 0
					return run(t.Context(), r, func(exec execer) error {
						runs++
						if runs == 1 {
							b.server.CutNext(1, point)
						}
						return exec("insert into notes values ($1) on conflict do nothing", note)
					})
				}
				count := func(note string) int64 { return b.one(t, "select count(*) from notes where id = $1", note) }
				prefix := fmt.Sprint(name, " ", point, " ")

				err := write(prefix+"nothing said", dsqltx.Runner{})
				require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
				require.Equal(t, 1, runs)
				require.Equal(t, landed, count(prefix+"nothing said"))

				require.NoError(t, write(prefix+"idempotent", dsqltx.Runner{Idempotent: true}))
				require.Equal(t, 2, runs)
				require.EqualValues(t, 1, count(prefix+"idempotent"))

				require.NoError(t, write(prefix+"checked", dsqltx.Runner{CheckCommit: func(ctx context.Context) (bool, error) {
					return count(prefix+"checked") == 1, nil
				}}))
				require.EqualValues(t, 2-landed, runs)
				require.EqualValues(t, 1, count(prefix+"checked"))

				broken := errors.New("cannot look")
				err = write(prefix+"check fails", dsqltx.Runner{CheckCommit: func(context.Context) (bool, error) { return false, broken }})
				require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
				require.ErrorIs(t, err, broken)
			})
		}
	}
}

// A session that breaks off anywhere, in whatever way, leaves a write applied once when it was
// acknowledged, and at most once when it was reported unknown. Nothing else comes out.
func TestWritesBreakOffAnywhere(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 1)
	step := 3
	if testing.Short() {
		step = 17
	}
	renew := func() {
		b.pool.Reset()
		b.db.SetMaxIdleConns(0) // closes those there are
		b.db.SetMaxIdleConns(1)
	}
	ways := b.runners()
	ways["Exec"] = func(ctx context.Context, r dsqltx.Runner, f func(execer) error) error {
		return f(func(sql string, args ...any) error {
			_, err := r.Exec(ctx, b.pool, sql, args...)
			return err
		})
	}
	for name, run := range ways {
		seen := map[bool]int{}
		for _, effect := range []dsqltest.Effect{dsqltest.Reset, dsqltest.HangUp, dsqltest.Garbage} {
			for after := 0; after < 120; after += step {
				renew() // so that the next connection is a new one
				faults := 1
				b.server.SetFaults(func() dsqltest.Fault {
					if faults--; faults < 0 {
						return dsqltest.Fault{}
					}
					return dsqltest.Fault{Phase: dsqltest.OnQuery, Effect: effect, After: after}
				})
				note := fmt.Sprint(name, effect, after)
				ctx, cancel := t.Context(), context.CancelFunc(func() {})
				if effect == dsqltest.Garbage { // in the middle of a message it leaves the client waiting
					ctx, cancel = context.WithTimeout(ctx, time.Second)
				}
				err := run(ctx, dsqltx.Runner{}, func(exec execer) error { return exec("insert into notes values ($1)", note) })
				cancel()
				b.server.SetFaults(nil)
				renew() // the fault may not have struck yet
				n := b.one(t, "select count(*) from notes where id = $1", note)
				switch {
				case err == nil:
					require.EqualValues(t, 1, n, note)
				case errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, dsqltx.ErrCommitUnknown):
					require.Zero(t, n, note)
				default:
					require.ErrorIs(t, err, dsqltx.ErrCommitUnknown, note)
				}
				seen[err == nil]++
			}
		}
		require.Positive(t, seen[true], name)
		require.Positive(t, seen[false], name)
	}
}

func TestExecUnknown(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 2)
	b.server.CutNext(1, dsqltest.AfterCommit)
	_, err := dsqltx.Exec(t.Context(), b.pool, "update accounts set balance = balance + 1")
	require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
	require.EqualValues(t, 1, b.one(t, "select balance from accounts"))

	b.server.ConflictNext(3)
	tag, err := dsqltx.Exec(t.Context(), b.pool, "update accounts set balance = balance + $1", 10)
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected())
	require.EqualValues(t, 11, b.one(t, "select balance from accounts"))

	_, err = dsqltx.Exec(t.Context(), b.pool, "update nothing set x = 1")
	var pgErr *pgconn.PgError
	require.ErrorAs(t, err, &pgErr)
	require.Equal(t, "42P01", pgErr.Code)
}

// The connection is lost before COMMIT is sent: run again, on another one.
func TestRunConnectionLostBeforeCommit(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 4)
	for name, run := range b.runners() {
		for _, hidden := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, hidden by fn: %t", name, hidden), func(t *testing.T) {
				before := b.one(t, "select balance from accounts")
				runs := 0
				require.NoError(t, run(t.Context(), dsqltx.Runner{}, func(exec execer) error {
					runs++
					if err := exec("update accounts set balance = balance + 1"); err != nil {
						return err
					}
					if runs > 1 {
						return nil
					}
					err := exec("select pg_terminate_backend(pg_backend_pid())")
					require.Error(t, err)
					if hidden {
						return nil
					}
					return err
				}))
				require.Equal(t, 2, runs)
				require.Equal(t, before+1, b.one(t, "select balance from accounts"))
			})
		}
	}
	t.Run("a single connection", func(t *testing.T) {
		conn, err := dsql.Connect(t.Context(), b.server.Config())
		require.NoError(t, err)
		defer conn.Close(t.Context())
		runs := 0
		err = dsqltx.Run(t.Context(), conn, func(ctx context.Context, tx pgx.Tx) error {
			runs++
			_, err := tx.Exec(t.Context(), "select pg_terminate_backend(pg_backend_pid())")
			return err
		})
		require.Error(t, err)
		require.Equal(t, 1, runs)
	})
}

func TestRunEnds(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 4)
	for name, run := range b.runners() {
		t.Run(name, func(t *testing.T) {
			add := func(exec execer) error { return exec("update accounts set balance = balance + 1") }
			balance := func() int64 { return b.one(t, "select balance from accounts") }
			before := balance()

			// An error of fn is fn's, even one that speaks of a connection.
			for _, mine := range []error{errors.New("not enough"), io.EOF, context.DeadlineExceeded} {
				runs := 0
				err := run(t.Context(), dsqltx.Runner{}, func(exec execer) error {
					runs++
					require.NoError(t, add(exec))
					return mine
				})
				require.Equal(t, mine, err)
				require.Equal(t, 1, runs)
			}

			// A panic goes up, and rolls back.
			require.PanicsWithValue(t, "oh", func() {
				_ = run(t.Context(), dsqltx.Runner{}, func(exec execer) error {
					require.NoError(t, add(exec))
					panic("oh")
				})
			})

			// A statement's failure that fn hides is not hidden.
			err := run(t.Context(), dsqltx.Runner{}, func(exec execer) error {
				_ = exec("select 1/0")
				return nil
			})
			require.ErrorIs(t, err, pgx.ErrTxCommitRollback)
			require.ErrorContains(t, err, "return that error")
			require.Equal(t, before, balance())

			// Attempts: the last conflict, how many, and each told of.
			b.server.ConflictNext(5)
			var events []dsqltx.Attempt
			err = run(t.Context(), dsqltx.Runner{MaxAttempts: 3, OnAttempt: func(a dsqltx.Attempt) { events = append(events, a) }}, add)
			require.True(t, dsqltx.IsConflict(err))
			require.ErrorContains(t, err, "given up after 3 attempts")
			require.ErrorContains(t, err, "OC000")
			require.Len(t, events, 3)
			for i, e := range events {
				require.Equal(t, i+1, e.Number)
				require.Equal(t, "OC000", e.Conflict)
				require.Equal(t, i < 2, e.Again)
			}
			require.NoError(t, run(t.Context(), dsqltx.Runner{}, add)) // takes the other two

			// The context.
			b.server.ConflictNext(1000)
			ctx, cancel := context.WithCancel(t.Context())
			err = run(ctx, dsqltx.Runner{OnAttempt: func(a dsqltx.Attempt) {
				if a.Number == 2 {
					cancel()
				}
			}}, add)
			require.ErrorIs(t, err, context.Canceled)
			require.True(t, dsqltx.IsConflict(err))
			b.server.SetCommitFaults(nil)
			require.Equal(t, before+1, balance())

			// Options that DSQL refuses.
			for _, o := range []pgx.TxOptions{{IsoLevel: pgx.Serializable}, {IsoLevel: pgx.ReadCommitted}, {DeferrableMode: pgx.Deferrable}} {
				require.ErrorContains(t, run(t.Context(), dsqltx.Runner{TxOptions: o}, add), "dsqltx: Runner.TxOptions.")
			}
			require.EqualError(t, run(t.Context(), dsqltx.Runner{MaxAttempts: -1}, add), "dsqltx: Runner.MaxAttempts is -1; set 1 or more, or 0 for 1000")
			err = run(t.Context(), dsqltx.Runner{TxOptions: pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}}, add)
			var pgErr *pgconn.PgError
			require.ErrorAs(t, err, &pgErr)
			require.Equal(t, "25006", pgErr.Code, "read-only")
		})
	}
}

// A context that ends has database/sql roll back on its own goroutine, while RunSQL looks at what happened.
func TestRunSQLContextEnds(t *testing.T) {
	b := newBank(t, 1, 2)
	for range 50 {
		ctx, cancel := context.WithCancel(t.Context())
		err := dsqltx.RunSQL(ctx, b.db, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "update accounts set balance = balance + 1")
			if dsqltx.IsConflict(err) { // with the last round, which is still being rolled back
				return err
			}
			require.NoError(t, err)
			cancel()
			return ctx.Err()
		})
		require.ErrorIs(t, err, context.Canceled)
	}
	require.Zero(t, b.one(t, "select balance from accounts"))
}

func TestRunOwnsItsTransaction(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 2)
	require.NoError(t, dsqltx.Run(t.Context(), b.pool, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Begin(t.Context())
		require.ErrorContains(t, err, "no savepoints")
		require.ErrorContains(t, pgx.BeginFunc(t.Context(), tx, func(pgx.Tx) error { return nil }), "no savepoints")
		require.ErrorContains(t, tx.Commit(t.Context()), "Run commits")
		require.ErrorContains(t, tx.Rollback(t.Context()), "Run commits")
		_, err = tx.Exec(t.Context(), "update accounts set balance = 7")
		return err
	}))
	require.EqualValues(t, 7, b.one(t, "select balance from accounts"))

	err := dsqltx.RunSQL(t.Context(), b.db, func(ctx context.Context, tx *sql.Tx) error { return tx.Commit() })
	require.ErrorContains(t, err, "fn ended the transaction")

	_, err = b.db.BeginTx(t.Context(), &sql.TxOptions{Isolation: sql.LevelSerializable})
	require.ErrorIs(t, err, dsql.ErrConfig)
	require.ErrorContains(t, err, "Serializable")
}

// What may have been applied stays so, whatever comes after it.
func TestUnknownStays(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 4)
	conflict := &pgconn.PgError{Severity: "ERROR", Code: "40001", Message: "schema has been updated by another transaction (OC001)"}
	mine := errors.New("not again")

	t.Run("a check that meets a conflict", func(t *testing.T) {
		b.server.CutNext(1, dsqltest.AfterCommit)
		runs := 0
		before := b.one(t, "select balance from accounts")
		err := dsqltx.Retry(t.Context(), func(ctx context.Context) error {
			runs++
			r := dsqltx.Runner{CheckCommit: func(context.Context) (bool, error) { return false, conflict }}
			_, err := r.Exec(ctx, b.pool, "update accounts set balance = balance + 1")
			return err
		})
		require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
		require.False(t, dsqltx.IsConflict(err))
		require.Equal(t, 1, runs)
		require.Equal(t, before+1, b.one(t, "select balance from accounts"))
	})
	for name, run := range b.runners() {
		t.Run(name+", an error of the next run", func(t *testing.T) {
			b.server.CutNext(1, dsqltest.AfterCommit)
			runs := 0
			err := run(t.Context(), dsqltx.Runner{Idempotent: true}, func(exec execer) error {
				if runs++; runs > 1 {
					return mine
				}
				return exec("update accounts set balance = balance + 1")
			})
			require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
			require.ErrorIs(t, err, mine)
		})
		t.Run(name+", no attempt left", func(t *testing.T) {
			b.server.CutNext(1, dsqltest.AfterCommit)
			r := dsqltx.Runner{Idempotent: true, MaxAttempts: 1}
			err := run(t.Context(), r, func(exec execer) error { return exec("update accounts set balance = balance + 1") })
			require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
		})
	}
	t.Run("rows on a single connection", func(t *testing.T) {
		conn, err := dsql.Connect(t.Context(), b.server.Config())
		require.NoError(t, err)
		defer conn.Close(t.Context())
		before := b.one(t, "select count(*) from notes")
		b.server.CutNext(1, dsqltest.AfterCommit)
		w := dsqltx.Writer{Table: pgx.Identifier{"notes"}, Columns: []string{"id"}, Runner: dsqltx.Runner{Idempotent: true}}
		report, err := w.Write(t.Context(), conn, [][]any{{"one"}})
		require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
		require.Equal(t, dsqltx.BatchUnknown, report.Batches[0].State)
		require.Equal(t, before+1, b.one(t, "select count(*) from notes"))
	})
}

// What was never sent is not unknown.
func TestExecUnsent(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 1)
	over, cancel := context.WithCancel(t.Context())
	cancel()
	conn, err := b.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	single, err := dsql.Connect(t.Context(), b.server.Config())
	require.NoError(t, err)
	require.NoError(t, single.Close(t.Context()))
	const add = "update accounts set balance = balance + 1"
	for name, run := range map[string]func() error{
		"Exec, ctx is over":   func() error { _, err := dsqltx.Exec(over, b.pool, add); return err },
		"Exec, pool is empty": func() error { _, err := dsqltx.Exec(soon, b.pool, add); return err },
		"Exec, closed": func() error {
			_, err := dsqltx.Runner{Idempotent: true}.Exec(t.Context(), single, add)
			return err
		},
		"Retry, ctx is over": func() error {
			return dsqltx.Retry(over, func(ctx context.Context) error { _, err := b.db.ExecContext(ctx, add); return err })
		},
	} {
		err := run()
		require.Error(t, err, name)
		require.NotErrorIs(t, err, dsqltx.ErrCommitUnknown, name)
	}
}

// A single connection that is closed does not come back, however it is given.
func TestClosedConnection(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 1)
	conn, err := b.pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	require.NoError(t, conn.Conn().Close(t.Context()))
	attempts := 0
	count := dsqltx.Runner{Idempotent: true, OnAttempt: func(dsqltx.Attempt) { attempts++ }}
	for _, single := range []interface {
		dsqltx.Beginner
		dsqltx.Execer
		dsqltx.Querier
	}{conn, conn.Conn()} {
		attempts = 0
		require.ErrorIs(t, count.Run(t.Context(), single, func(context.Context, pgx.Tx) error { return nil }), pgconn.ErrConnClosed)
		require.Equal(t, 1, attempts)
		_, err = count.Exec(t.Context(), single, "select 1")
		require.ErrorIs(t, err, pgconn.ErrConnClosed)
		require.Equal(t, 2, attempts)
		require.ErrorContains(t, dsqltx.WaitForJob(t.Context(), single, "x", nil), "wait again on another")
	}
}

// A transaction that loses each of its connections loses them by what it does.
func TestConnectionLostEveryTime(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 4)
	for name, run := range b.runners() {
		t.Run(name, func(t *testing.T) {
			runs := 0
			err := run(t.Context(), dsqltx.Runner{}, func(exec execer) error {
				runs++
				return exec("select pg_terminate_backend(pg_backend_pid())")
			})
			require.ErrorContains(t, err, "10 MiB")
			require.Equal(t, 20, runs)
		})
	}
}

func TestRunOpenRows(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 2)
	for _, statement := range []string{"select 1", "update accounts set balance = balance + 1 returning id"} {
		err := dsqltx.Run(t.Context(), b.pool, func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(t.Context(), "select 1"); err != nil { // begins
				return err
			}
			_, err := tx.Query(t.Context(), statement)
			return err
		})
		require.ErrorContains(t, err, "rows of a query were open")
	}
	require.Zero(t, b.one(t, "select balance from accounts"))
	r := dsqltx.Runner{TxOptions: pgx.TxOptions{BeginQuery: "begin read only"}}
	require.ErrorContains(t, r.RunSQL(t.Context(), b.db, func(context.Context, *sql.Tx) error { return nil }), "Runner.TxOptions has a BeginQuery")
}

// An attempt that ctx cuts short does not hide why there was another.
func TestConflictShowsBehindContext(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 4)
	for name, run := range b.runners() {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			b.server.ConflictNext(1)
			runs := 0
			err := run(ctx, dsqltx.Runner{}, func(exec execer) error {
				if runs++; runs > 1 {
					cancel()
				}
				return exec("update accounts set balance = balance + 1")
			})
			require.ErrorIs(t, err, context.Canceled)
			require.True(t, dsqltx.IsConflict(err), "%v", err)
			require.ErrorContains(t, err, "given up after 2 attempts")
		})
	}
}

func TestIsConflict(t *testing.T) {
	for _, c := range []struct {
		err error
		is  bool
	}{
		{nil, false}, {io.EOF, false},
		{&pgconn.PgError{Code: "40001", Message: "change conflicts with another transaction (OC000)"}, true},
		{&pgconn.PgError{Code: "40001", Message: "schema has been updated by another transaction (OC001)"}, true},
		{fmt.Errorf("wrapped: %w", &pgconn.PgError{Code: "OC000"}), true},
		{&pgconn.PgError{Code: "OC001"}, true},
		{&pgconn.PgError{Code: "40001"}, true},
		{&pgconn.PgError{Code: "54000", Message: "OC000"}, false},
		{&pgconn.PgError{Code: "0A000", Message: "cached plan must not change result type"}, true},
		{&pgconn.PgError{Code: "0A000", Message: "unsupported transaction statement: SAVEPOINT"}, false},
		{&pgconn.PgError{Code: "08P01", Message: "bind message has 2 result formats but query has 3 columns"}, true},
		{&pgconn.PgError{Code: "08P01", Message: "invalid message"}, false},
	} {
		require.Equal(t, c.is, dsqltx.IsConflict(c.err), "%v", c.err)
	}
}

// 50,000 rows, with faults: after the caller went on from the report, each is
// in exactly once.
func TestWriteRows(t *testing.T) {
	t.Parallel()
	b := newBank(t, 1, 4)
	const total = 50_000
	for _, insert := range []bool{false, true} {
		t.Run(fmt.Sprint("insert=", insert), func(t *testing.T) {
			table := fmt.Sprint("rows_", insert)
			// No key: a row that is written twice is there twice.
			b.exec(t, "create table "+table+" (id int, text text)")
			w := dsqltx.Writer{Table: pgx.Identifier{table}, Columns: []string{"id", "text"}, Insert: insert, BatchRows: 2000}
			progress := 0
			w.OnBatch = func(b dsqltx.Batch) {
				if b.State == dsqltx.BatchIn {
					progress += b.To - b.From
				}
			}
			rows := make([][]any, total)
			for i := range rows {
				rows[i] = []any{i, fmt.Sprint("row ", i)}
			}
			b.server.SetCommitFaults(randomCuts(4))
			defer b.server.SetCommitFaults(nil)
			b.server.CutNext(1, dsqltest.AfterCommit) // one at least
			stops := 0
			for rest := rows; len(rest) > 0; {
				report, err := w.Write(t.Context(), b.pool, rest)
				out := report.Rows(rest, dsqltx.BatchOut)
				if unknown := report.Rows(rest, dsqltx.BatchUnknown); len(unknown) > 0 {
					require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
					stops++
					if b.one(t, "select count(*) from "+table+" where id = $1", unknown[0][0]) == 0 {
						out = append(unknown, out...)
					} else {
						progress += len(unknown)
					}
				} else {
					require.NoError(t, err)
				}
				rest = out
			}
			require.Positive(t, stops)
			require.Equal(t, total, progress)
			require.EqualValues(t, total, b.one(t, "select count(*) from "+table))
			require.EqualValues(t, total, b.one(t, "select count(distinct id) from "+table))

			// With a check nobody has to go on.
			w.Check = func(ctx context.Context, rows [][]any) (bool, error) {
				return b.one(t, "select count(*) from "+table+" where id = $1", rows[0][0]) > 0, nil
			}
			for i := range rows {
				rows[i][0] = total + i
			}
			report, err := w.Write(t.Context(), b.pool, rows[:total/5])
			require.NoError(t, err)
			require.Len(t, report.Rows(rows, dsqltx.BatchIn), total/5)
			require.EqualValues(t, total+total/5, b.one(t, "select count(*) from "+table))
		})
	}
}
