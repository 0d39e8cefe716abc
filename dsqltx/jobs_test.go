package dsqltx_test

import (
	"context"
	"database/sql"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltx"
)

// jobTable makes a table with rows 1 and 1, in a schema of the test's own.
func jobTable(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := dsql.NewPool(t.Context(), server.Schema(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, err = pool.Exec(t.Context(), "create table t (id int)")
	require.NoError(t, err)
	_, err = dsqltx.Exec(t.Context(), pool, "insert into t values (1), (1)")
	require.NoError(t, err)
	return pool
}

func submitJob(t *testing.T, pool *pgxpool.Pool, sql string) (id string) {
	t.Helper()
	require.NoError(t, dsqltx.Retry(t.Context(), func(ctx context.Context) error {
		return pool.QueryRow(ctx, sql).Scan(&id)
	}))
	return id
}

func TestWaitForJob(t *testing.T) {
	pool := jobTable(t)

	t.Run("progress", func(t *testing.T) {
		// A build waits for older snapshots.
		reader, err := pool.BeginTx(t.Context(), pgx.TxOptions{})
		require.NoError(t, err)
		defer reader.Rollback(context.Background())
		_, err = reader.Exec(t.Context(), "select 1")
		require.NoError(t, err)
		id := submitJob(t, pool, "create index async i on t (id)")

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err = dsqltx.WaitForJob(ctx, pool, id, func(job dsqltx.Job) {
			if job.Status == "processing" {
				cancel()
			}
		})
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, id)

		var states []string
		require.NoError(t, dsqltx.WaitForJob(t.Context(), pool, id, func(job dsqltx.Job) {
			require.Equal(t, id, job.ID)
			states = append(states, job.Status)
			reader.Rollback(t.Context())
		}))
		require.Equal(t, []string{"processing", "completed"}, states)
	})

	t.Run("failure", func(t *testing.T) {
		id := submitJob(t, pool, "create unique index async u on t (id)")
		var last dsqltx.Job
		err := dsqltx.WaitForJob(t.Context(), pool, id, func(job dsqltx.Job) { last = job })
		require.ErrorIs(t, err, dsqltx.ErrJobFailed)
		require.ErrorContains(t, err, id)
		require.ErrorContains(t, err, last.Details)
		require.Equal(t, dsqltx.Job{ID: id, Status: "failed", Details: "found duplicate key(s) while validating index uniqueness"}, last)
		require.ErrorIs(t, dsqltx.WaitForJob(t.Context(), pool, id, nil), dsqltx.ErrJobFailed)
	})

	t.Run("unknown", func(t *testing.T) {
		err := dsqltx.WaitForJob(t.Context(), pool, "another", nil)
		require.ErrorIs(t, err, pgx.ErrNoRows)
		require.ErrorContains(t, err, `job "another" is not in sys.jobs`)
	})

	t.Run("database/sql", func(t *testing.T) {
		db := stdlib.OpenDBFromPool(pool)
		defer db.Close()
		id := submitJob(t, pool, "create index async k on t (id)")
		require.NoError(t, dsqltx.WaitForSQLJob(t.Context(), db, id, nil))
		err := dsqltx.WaitForSQLJob(t.Context(), db, "another", nil)
		require.ErrorIs(t, err, sql.ErrNoRows)
		require.ErrorContains(t, err, `job "another" is not in sys.jobs`)
	})

	t.Run("conflict", func(t *testing.T) {
		id := submitJob(t, pool, "create index async j on t (id)")
		require.NoError(t, dsqltx.WaitForJob(t.Context(), pool, id, nil))
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		_, err = dsqltx.Exec(t.Context(), conn, "select 1")
		require.NoError(t, err)
		before := server.Transactions().SchemaConflicts
		_, err = dsqltx.Exec(t.Context(), pool, "drop index j")
		require.NoError(t, err)
		require.NoError(t, dsqltx.WaitForJob(t.Context(), conn, id, nil))
		require.Greater(t, server.Transactions().SchemaConflicts, before)
	})

	t.Run("closed connection", func(t *testing.T) {
		conn, err := dsql.Connect(t.Context(), server.Config())
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorContains(t, dsqltx.WaitForJob(ctx, conn, "x", nil), "closed")
		require.NoError(t, ctx.Err())
	})
}
