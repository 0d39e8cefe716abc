package dsqltx_test

import (
	"context"
	"errors"
	"fmt"
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
	"github.com/dsqlgo/dsql/internal/counters"
)

// dbtx is what sqlc generates code for (emit_methods_with_db_argument and the like), with all that
// pgx/v5 has.
type dbtx interface {
	Exec(context.Context, string, ...interface{}) (pgconn.CommandTag, error)
	Query(context.Context, string, ...interface{}) (pgx.Rows, error)
	QueryRow(context.Context, string, ...interface{}) pgx.Row
	CopyFrom(ctx context.Context, tableName pgx.Identifier, columnNames []string, rowSrc pgx.CopyFromSource) (int64, error)
	SendBatch(context.Context, *pgx.Batch) pgx.BatchResults
}

var _ dbtx = (*dsqltx.DB)(nil)

const addReturning = "update counters set n = n + 1 where id = $1 returning n"

// statements are the ways of a DB to add one to counter 0.
var statements = map[string]func(ctx context.Context, db *dsqltx.DB) error{
	"Exec": func(ctx context.Context, db *dsqltx.DB) error { _, err := db.Exec(ctx, addOne); return err },
	"Query": func(ctx context.Context, db *dsqltx.DB) error {
		rows, _ := db.Query(ctx, addReturning, 0)
		_, err := pgx.CollectRows(rows, pgx.RowTo[int])
		return err
	},
	"Query without rows": func(ctx context.Context, db *dsqltx.DB) error {
		rows, err := db.Query(ctx, "update counters set n = n + $1 where id = 0", 1)
		rows.Close()
		return errors.Join(err, rows.Err())
	},
	"QueryRow": func(ctx context.Context, db *dsqltx.DB) error {
		var n int64
		return db.QueryRow(ctx, addReturning, 0).Scan(&n)
	},
	"SendBatch, Close": func(ctx context.Context, db *dsqltx.DB) error {
		b := &pgx.Batch{}
		b.Queue(addReturning, 0)
		return db.SendBatch(ctx, b).Close()
	},
	"SendBatch, Exec": func(ctx context.Context, db *dsqltx.DB) error {
		b := &pgx.Batch{}
		b.Queue(addReturning, 0)
		results := db.SendBatch(ctx, b)
		_, err := results.Exec()
		return errors.Join(err, results.Close())
	},
	"SendBatch, QueryRow": func(ctx context.Context, db *dsqltx.DB) error {
		b := &pgx.Batch{}
		b.Queue(addReturning, 0)
		results := db.SendBatch(ctx, b)
		err := results.QueryRow().Scan(new(int64))
		return errors.Join(err, results.Close())
	},
}

// failNext makes the next n executions of a statement on counters fail.
func failNext(s *counters.Server, n int32, fault counters.Fault) {
	var left atomic.Int32
	left.Store(n)
	s.SetFaults(func(e counters.Event) counters.Fault {
		if (e.Name == "Execute" || e.Name == "Query") && e.SQL != "begin" && left.Add(-1) >= 0 {
			return fault
		}
		return counters.Fault{}
	})
}

// requireReleased waits until all connections are back. The pool destroys closed ones on its own
// goroutines.
func requireReleased(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	require.Eventually(t, func() bool { return pool.Stat().AcquiredConns() == 0 }, 10*time.Second, time.Millisecond)
}

// Conflicts, changed schemas and dead connections are tried again; what may have been applied is not.
func TestDBStatements(t *testing.T) {
	s := newCounters(t, 1)
	pool := countersPool(t, s, 2)
	for name, add := range statements {
		t.Run(name, func(t *testing.T) {
			attempts := 0
			db := dsqltx.Runner{OnAttempt: func(dsqltx.Attempt) { attempts++ }}.Wrap(pool)
			before := s.Value(0)
			require.NoError(t, add(t.Context(), db))
			for _, code := range []string{"40001", "OC001"} {
				attempts = 0
				failNext(s, 3, counters.Fault{Error: code, Unapplied: true})
				require.NoError(t, add(t.Context(), db))
				require.Equal(t, 4, attempts)
			}
			require.Equal(t, before+3, s.Value(0))

			failNext(s, 1, counters.Fault{Cut: counters.CutAfter})
			err := add(t.Context(), db)
			require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
			require.False(t, dsqltx.IsConflict(err))

			failNext(s, 1, counters.Fault{Error: "XX000"})
			require.ErrorIs(t, add(t.Context(), db), dsqltx.ErrCommitUnknown)

			failNext(s, 1, counters.Fault{Cut: counters.CutBefore})
			require.NoError(t, add(t.Context(), dsqltx.Runner{Idempotent: true}.Wrap(pool)))

			failNext(s, 1, counters.Fault{Error: "22012", Unapplied: true})
			var pgErr *pgconn.PgError
			require.ErrorAs(t, add(t.Context(), db), &pgErr)
			require.Equal(t, "22012", pgErr.Code)
			s.SetFaults(nil)

			require.ErrorContains(t, add(t.Context(), dsqltx.Runner{MaxAttempts: -1}.Wrap(pool)), "Runner.MaxAttempts is -1")
			requireReleased(t, pool)
		})
	}
}

// A read whose connection was lost is no unknown commit.
func TestDBRead(t *testing.T) {
	s := newCounters(t, 1)
	pool := countersPool(t, s, 1)
	db := dsqltx.Runner{}.Wrap(pool)
	const get = "select n from counters where id = $1"
	require.NoError(t, db.QueryRow(t.Context(), get, 0).Scan(new(int)))
	failNext(s, 1, counters.Fault{Cut: counters.CutAfter})
	err := db.QueryRow(t.Context(), get, 0).Scan(new(int))
	require.Error(t, err)
	require.NotErrorIs(t, err, dsqltx.ErrCommitUnknown)
	require.ErrorIs(t, db.QueryRow(t.Context(), get, 7).Scan(new(int)), pgx.ErrNoRows)
	require.NoError(t, db.QueryRow(t.Context(), get, 0).Scan(new(int)))
}

// What was handed out is not tried again.
func TestDBHandedOut(t *testing.T) {
	s := newCounters(t, 1)
	pool := countersPool(t, s, 1)
	db := dsqltx.Runner{}.Wrap(pool)
	t.Run("a callback", func(t *testing.T) {
		calls := 0
		b := &pgx.Batch{}
		b.Queue(addReturning, 0).QueryRow(func(row pgx.Row) error { calls++; return row.Scan(new(int)) })
		b.Queue(addReturning, 0)
		var executed atomic.Int32
		s.SetFaults(func(e counters.Event) counters.Fault {
			if e.Name == "Execute" && executed.Add(1) == 2 {
				return counters.Fault{Error: "40001", Unapplied: true}
			}
			return counters.Fault{}
		})
		require.True(t, dsqltx.IsConflict(db.SendBatch(t.Context(), b).Close()))
		require.Equal(t, 1, calls)
		s.SetFaults(nil)
	})
	t.Run("a batch that begins", func(t *testing.T) {
		b := &pgx.Batch{}
		b.BeginTx(pgx.TxOptions{})
		b.Queue(addReturning, 0)
		require.ErrorContains(t, db.SendBatch(t.Context(), b).Close(), "use Run")
	})
	requireReleased(t, pool)
}

// Dead connections of a pool are no reason to fail, for Begin too, whose Commit knows the unknown.
func TestDBBegin(t *testing.T) {
	s := newCounters(t, 1)
	pool := countersPool(t, s, 30)
	db := dsqltx.Runner{}.Wrap(pool)
	var held []*pgxpool.Conn
	for range 30 {
		c, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		held = append(held, c)
	}
	for _, c := range held {
		c.Release()
	}
	s.Reset()
	tx, err := db.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), addOne)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	require.ErrorIs(t, tx.Rollback(t.Context()), pgx.ErrTxClosed)

	require.NoError(t, pgx.BeginFunc(t.Context(), db, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), addOne)
		return err
	}))
	require.EqualValues(t, 2, s.Value(0))

	tx, err = db.Begin(t.Context())
	require.NoError(t, err)
	_, err = tx.Exec(t.Context(), addOne)
	require.NoError(t, err)
	s.SetFaults(func(e counters.Event) counters.Fault {
		if e.Commits {
			return counters.Fault{Cut: counters.CutAfter}
		}
		return counters.Fault{}
	})
	require.ErrorIs(t, tx.Commit(t.Context()), dsqltx.ErrCommitUnknown)
	require.EqualValues(t, 3, s.Value(0))
	requireReleased(t, pool)
}

// On PostgreSQL: rows, batches, COPY, and statements whose columns changed.
func TestDBOnServer(t *testing.T) {
	s := dsqltest.New(t)
	pool, err := dsql.NewPool(t.Context(), s.Config(), func(c *pgxpool.Config) { c.MaxConns = 2 })
	require.NoError(t, err)
	defer pool.Close()
	db := dsqltx.Runner{}.Wrap(pool)
	_, err = db.Exec(t.Context(), "create table t (a int primary key, b text)")
	require.NoError(t, err)

	rows := make([][]any, 500)
	for i := range rows {
		rows[i] = []any{i, fmt.Sprint("row ", i)}
	}
	s.ConflictNext(2)
	n, err := db.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"a", "b"}, pgx.CopyFromRows(rows))
	require.NoError(t, err)
	require.EqualValues(t, 500, n)

	got, err := db.Query(t.Context(), "select a, b from t where a < $1 order by a", 3)
	require.NoError(t, err)
	found, err := pgx.CollectRows(got, pgx.RowToMap)
	require.NoError(t, err)
	require.Equal(t, map[string]any{"a": int32(2), "b": "row 2"}, found[2])

	s.ConflictNext(1)
	var b string
	require.NoError(t, db.QueryRow(t.Context(), "update t set b = b || '!' where a = $1 returning b", 7).Scan(&b))
	require.Equal(t, "row 7!", b)

	batch := &pgx.Batch{}
	batch.Queue("select b from t where a = $1", 1)
	batch.Queue("select b from t where a = $1", 1000)
	batch.Queue("delete from t where a = $1", 2)
	results := db.SendBatch(t.Context(), batch)
	require.NoError(t, results.QueryRow().Scan(&b))
	require.ErrorIs(t, results.QueryRow().Scan(&b), pgx.ErrNoRows)
	tag, err := results.Exec()
	require.NoError(t, err)
	require.EqualValues(t, 1, tag.RowsAffected())
	require.NoError(t, results.Close())

	columns := func() int {
		rows, err := db.Query(t.Context(), "select * from t limit 1")
		require.NoError(t, err)
		all, err := pgx.CollectRows(rows, pgx.RowToMap)
		require.NoError(t, err)
		return len(all[0])
	}
	for range 4 { // on both connections
		require.Equal(t, 2, columns())
	}
	_, err = db.Exec(t.Context(), "alter table t add column c int")
	require.NoError(t, err)
	for range 4 {
		require.Equal(t, 3, columns())
	}
	requireReleased(t, pool)
}
