package dsql_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
)

func ExampleWaitForJob() {
	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "create table orders (id uuid primary key, customer text)"); err != nil {
		log.Fatal(err)
	}

	var id string
	if err := conn.QueryRow(ctx, "create index async on orders (customer)").Scan(&id); err != nil {
		log.Fatal(err)
	}
	err = dsql.WaitForJob(ctx, conn, id, func(job dsql.Job) {
		if job.Status == "completed" { // submitted and processing may have come before
			fmt.Println("index", job.Status)
		}
	})
	if err != nil {
		log.Fatal(err)
	}

	if _, err := conn.Exec(ctx, "drop table orders"); err != nil {
		log.Fatal(err)
	}
	// Output: index completed
}

// jobTable makes a table with rows 1 and 1, in a schema of the test's own.
func jobTable(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := dsql.NewPool(t.Context(), server.Schema(t))
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	_, err = pool.Exec(t.Context(), "create table t (id int)")
	require.NoError(t, err)
	_, err = dsql.Exec(t.Context(), pool, "insert into t values (1), (1)", nil)
	require.NoError(t, err)
	return pool
}

func submitJob(t *testing.T, pool *pgxpool.Pool, sql string) (id string) {
	t.Helper()
	require.NoError(t, dsql.Retry(t.Context(), func(ctx context.Context) error {
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
		err = dsql.WaitForJob(ctx, pool, id, func(job dsql.Job) {
			if job.Status == "processing" {
				cancel()
			}
		})
		require.ErrorIs(t, err, context.Canceled)
		require.ErrorContains(t, err, id)

		var states []string
		require.NoError(t, dsql.WaitForJob(t.Context(), pool, id, func(job dsql.Job) {
			require.Equal(t, id, job.ID)
			states = append(states, job.Status)
			reader.Rollback(t.Context())
		}))
		require.Equal(t, []string{"processing", "completed"}, states)
	})

	t.Run("failure", func(t *testing.T) {
		id := submitJob(t, pool, "create unique index async u on t (id)")
		var last dsql.Job
		err := dsql.WaitForJob(t.Context(), pool, id, func(job dsql.Job) { last = job })
		require.ErrorIs(t, err, dsql.ErrJobFailed)
		require.ErrorContains(t, err, id)
		require.ErrorContains(t, err, last.Details)
		require.Equal(t, dsql.Job{ID: id, Status: "failed", Details: "found duplicate key(s) while validating index uniqueness"}, last)
		require.ErrorIs(t, dsql.WaitForJob(t.Context(), pool, id, nil), dsql.ErrJobFailed)
	})

	t.Run("unknown", func(t *testing.T) {
		err := dsql.WaitForJob(t.Context(), pool, "another", nil)
		require.ErrorIs(t, err, pgx.ErrNoRows)
		require.ErrorContains(t, err, `job "another" is not in sys.jobs`)
	})

	t.Run("database/sql", func(t *testing.T) {
		db := stdlib.OpenDBFromPool(pool)
		defer db.Close()
		id := submitJob(t, pool, "create index async k on t (id)")
		require.NoError(t, dsql.WaitForSQLJob(t.Context(), db, id, nil))
		err := dsql.WaitForSQLJob(t.Context(), db, "another", nil)
		require.ErrorIs(t, err, sql.ErrNoRows)
		require.ErrorContains(t, err, `job "another" is not in sys.jobs`)
	})

	t.Run("conflict", func(t *testing.T) {
		id := submitJob(t, pool, "create index async j on t (id)")
		require.NoError(t, dsql.WaitForJob(t.Context(), pool, id, nil))
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		_, err = dsql.Exec(t.Context(), conn, "select 1", nil)
		require.NoError(t, err)
		before := server.Transactions().SchemaConflicts
		_, err = dsql.Exec(t.Context(), pool, "drop index j", nil)
		require.NoError(t, err)
		require.NoError(t, dsql.WaitForJob(t.Context(), conn, id, nil))
		require.Greater(t, server.Transactions().SchemaConflicts, before)
	})

	t.Run("closed connection", func(t *testing.T) {
		conn, err := dsql.Connect(t.Context(), server.Config())
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		require.ErrorContains(t, dsql.WaitForJob(ctx, conn, "x", nil), "closed")
		require.NoError(t, ctx.Err())
	})
}
