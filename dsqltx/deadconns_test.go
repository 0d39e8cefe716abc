package dsqltx_test

import (
	"context"
	"database/sql"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqltx"
)

// All connections of a pool die together, more than twenty: one attempt fails, and no message of
// 10 MiB is blamed.
func TestDeadPool(t *testing.T) {
	const conns = 50
	s := newCounters(t, 1)
	pool, db := countersPool(t, s, conns), countersDB(t, s, conns)
	open := func() {
		var held []*pgxpool.Conn
		var heldSQL []*sql.Conn
		for range conns {
			c, err := pool.Acquire(t.Context())
			require.NoError(t, err)
			held = append(held, c)
			sc, err := db.Conn(t.Context())
			require.NoError(t, err)
			heldSQL = append(heldSQL, sc)
		}
		for i := range held {
			held[i].Release()
			require.NoError(t, heldSQL[i].Close())
		}
	}
	for name, run := range map[string]func(r dsqltx.Runner) error{
		"Run": func(r dsqltx.Runner) error {
			return r.Run(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
				_, err := tx.Exec(ctx, addOne)
				return err
			})
		},
		"RunSQL": func(r dsqltx.Runner) error {
			return r.RunSQL(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, addOne)
				return err
			})
		},
		"Exec": func(r dsqltx.Runner) error {
			r.Idempotent = true // the dead connection takes the statement
			_, err := r.Exec(t.Context(), pool, "update counters set n = 7 where id = 0")
			return err
		},
		"ExecSQL": func(r dsqltx.Runner) error {
			r.Idempotent = true
			_, err := r.ExecSQL(t.Context(), db, "update counters set n = 7 where id = 0")
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			open()
			s.Reset()
			attempts := 0
			require.NoError(t, run(dsqltx.Runner{MaxAttempts: 3, OnAttempt: func(dsqltx.Attempt) { attempts++ }}))
			require.LessOrEqual(t, attempts, 2)
		})
	}
}

// A single connection cannot be replaced: Run says by what it was lost.
func TestSingleConnectionLost(t *testing.T) {
	s := newCounters(t, 1)
	conn, err := pgx.ConnectConfig(t.Context(), s.ConnConfig())
	require.NoError(t, err)
	attempts := 0
	r := dsqltx.Runner{OnAttempt: func(a dsqltx.Attempt) { attempts++ }}
	err = r.Run(t.Context(), conn, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, addOne); err != nil {
			return err
		}
		s.Reset()
		_, err := tx.Exec(ctx, addOne)
		return err
	})
	require.ErrorContains(t, err, "broken pipe")
	require.ErrorContains(t, err, "run again on another connection")
	require.NotErrorIs(t, err, pgconn.ErrConnClosed)
	require.Equal(t, 1, attempts)
}
