package dsqltx_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqltx"
	"github.com/dsqlgo/dsql/internal/counters"
)

const addOne = "update counters set n = n + 1 where id = 0"

// addOneBy are the ways to add one to counter 0.
func addOneBy(t *testing.T, s *counters.Server) map[string]func(ctx context.Context, r dsqltx.Runner) error {
	pool, db := countersPool(t, s, 2), countersDB(t, s, 2)
	return map[string]func(ctx context.Context, r dsqltx.Runner) error{
		"Run": func(ctx context.Context, r dsqltx.Runner) error {
			return r.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, addOne)
				return err
			})
		},
		"RunSQL": func(ctx context.Context, r dsqltx.Runner) error {
			return r.RunSQL(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, addOne)
				return err
			})
		},
		"Exec": func(ctx context.Context, r dsqltx.Runner) error {
			_, err := r.Exec(ctx, pool, addOne)
			return err
		},
		"ExecSQL": func(ctx context.Context, r dsqltx.Runner) error {
			_, err := r.ExecSQL(ctx, db, addOne)
			return err
		},
		"Retry": func(ctx context.Context, r dsqltx.Runner) error {
			return r.Retry(ctx, func(ctx context.Context) error {
				_, err := pool.Exec(ctx, addOne)
				return err
			})
		},
	}
}

// inTx is whether a way begins a transaction, whose COMMIT is the one message that commits.
func inTx(name string) bool { return name == "Run" || name == "RunSQL" }

// Some answers to a COMMIT, or to a statement in autocommit, leave it open whether it was applied.
func TestIndefiniteAnswers(t *testing.T) {
	for _, code := range []string{"08007", "40003", "XX000"} {
		for _, unapplied := range []bool{false, true} {
			s := newCounters(t, 1)
			for name, add := range addOneBy(t, s) {
				t.Run(fmt.Sprintf("%s, %s, unapplied %t", name, code, unapplied), func(t *testing.T) {
					answer := func() {
						var answered atomic.Bool
						s.SetFaults(func(e counters.Event) counters.Fault {
							if (e.Commits || !inTx(name) && e.SQL == addOne) && answered.CompareAndSwap(false, true) {
								return counters.Fault{Error: code, Unapplied: unapplied}
							}
							return counters.Fault{}
						})
					}
					before := s.Value(0)
					landed := int64(1)
					if unapplied {
						landed = 0
					}
					answer()
					require.ErrorIs(t, add(t.Context(), dsqltx.Runner{}), dsqltx.ErrCommitUnknown)
					require.Equal(t, before+landed, s.Value(0), "and not run again")

					before = s.Value(0)
					answer()
					require.NoError(t, add(t.Context(), dsqltx.Runner{CheckCommit: func(context.Context) (bool, error) {
						return s.Value(0) > before, nil
					}}))
					require.Equal(t, before+1, s.Value(0))
				})
			}
		}
	}
}

// A context that ends while COMMIT is on its way is the most common unknown. CheckCommit is asked all
// the same, and has time.
func TestCheckCommitAfterContext(t *testing.T) {
	for _, applied := range []bool{true, false} {
		for _, name := range []string{"Run", "RunSQL", "Exec", "ExecSQL", "Retry"} {
			t.Run(fmt.Sprintf("%s, applied %t", name, applied), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					s := newCounters(t, 1)
					s.SetRoundTrip(10*time.Millisecond, 0)
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					s.SetFaults(func(e counters.Event) counters.Fault {
						if e.Commits || !inTx(name) && e.SQL == addOne {
							cancel()
							return counters.Fault{Error: "XX000", Unapplied: !applied} // which nobody hears
						}
						return counters.Fault{}
					})
					checked := false
					err := addOneBy(t, s)[name](ctx, dsqltx.Runner{CheckCommit: func(check context.Context) (bool, error) {
						checked = true
						time.Sleep(5 * time.Second)
						require.NoError(t, check.Err(), "has time of its own")
						return s.Value(0) == 1, nil
					}})
					require.True(t, checked, "%v", err)
					if applied {
						require.NoError(t, err)
						return
					}
					require.ErrorIs(t, err, context.Canceled)
					require.NotErrorIs(t, err, dsqltx.ErrCommitUnknown)
				})
			})
		}
	}
}

// CheckCommit's own time is not endless.
func TestCheckCommitEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCounters(t, 1)
		s.SetRoundTrip(10*time.Millisecond, 0)
		ctx, cancel := context.WithCancel(t.Context())
		s.SetFaults(func(e counters.Event) counters.Fault {
			if e.Commits {
				cancel()
			}
			return counters.Fault{}
		})
		began := time.Now()
		err := addOneBy(t, s)["Run"](ctx, dsqltx.Runner{CheckCommit: func(check context.Context) (bool, error) {
			<-check.Done()
			return false, check.Err()
		}})
		require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
		require.InDelta(t, 10, time.Since(began).Seconds(), 0.1)
	})
}

// What was never sent is not unknown: here it waits for a connection, or for its turn.
func TestNeverSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCounters(t, 1)
		pool, db := countersPool(t, s, 1), countersDB(t, s, 1)
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		sqlConn, err := db.Conn(t.Context())
		require.NoError(t, err)
		for name, run := range map[string]func(ctx context.Context) error{
			"Exec":    func(ctx context.Context) error { _, err := dsqltx.Exec(ctx, pool, addOne); return err },
			"ExecSQL": func(ctx context.Context) error { _, err := dsqltx.ExecSQL(ctx, db, addOne); return err },
			"Retry, pool": func(ctx context.Context) error {
				return dsqltx.Retry(ctx, func(ctx context.Context) error { _, err := pool.Exec(ctx, addOne); return err })
			},
			"Retry, database/sql": func(ctx context.Context) error {
				return dsqltx.Retry(ctx, func(ctx context.Context) error { _, err := db.ExecContext(ctx, addOne); return err })
			},
			"Retry, database/sql, a query": func(ctx context.Context) error {
				return dsqltx.Retry(ctx, func(ctx context.Context) error {
					return db.QueryRowContext(ctx, addOne+" returning n").Scan(new(int))
				})
			},
			"RunSQL": func(ctx context.Context) error {
				return dsqltx.RunSQL(ctx, db, func(context.Context, *sql.Tx) error { return nil })
			},
			"Run": func(ctx context.Context) error {
				return dsqltx.Run(ctx, pool, func(context.Context, pgx.Tx) error { return nil })
			},
		} {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := run(ctx)
			cancel()
			require.ErrorIs(t, err, context.DeadlineExceeded, name)
			require.NotErrorIs(t, err, dsqltx.ErrCommitUnknown, name)
		}
		conn.Release()
		require.NoError(t, sqlConn.Close())
		require.Zero(t, s.Value(0))
	})
}

// What was sent is unknown when the context ends, also where database/sql returns nothing but the
// context's error: behind the first row of a query, while the statement commits.
func TestRetrySent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newCounters(t, 1)
		db := countersDB(t, s, 1)
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err := dsqltx.Retry(ctx, func(ctx context.Context) error {
			rows, err := db.QueryContext(ctx, addOne+" returning n")
			if err != nil {
				return err
			}
			cancel()
			synctest.Wait() // for database/sql, which closes rows
			defer rows.Close()
			for rows.Next() {
			}
			return rows.Err()
		})
		require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
		require.True(t, errors.Is(err, context.Canceled))
	})
}
