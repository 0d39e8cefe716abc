package main

import (
	"context"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	migrate "github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/database"
	migratepgx "github.com/golang-migrate/migrate/v4/database/pgx/v5"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	require.Contains(t, out.String(), "up: version 3, dirty false\ndown: no version\n")
}

func TestUpAndDown(t *testing.T) {
	pool := open(t)
	m := migrateOn(t, pool, embedded)
	require.NoError(t, m.Up())
	require.Equal(t, []string{"migrate_authors", "migrate_books"}, tables(t, pool))
	require.Equal(t, []string{"true"}, list(t, pool, "select indisvalid::text from pg_index where indexrelid = 'migrate_books_by_author'::regclass"))
	require.Equal(t, []string{"3 false"}, list(t, pool, "select version || ' ' || dirty from "+versionTable))
	require.ErrorIs(t, m.Up(), migrate.ErrNoChange)

	require.NoError(t, m.Steps(-1))
	require.Equal(t, []string{"2 false"}, list(t, pool, "select version || ' ' || dirty from "+versionTable))
	require.NoError(t, m.Down())
	require.Empty(t, tables(t, pool))
	require.Empty(t, list(t, pool, "select version::text from "+versionTable))
	require.Empty(t, list(t, pool, "select owner from "+lockTable))
}

func TestLocked(t *testing.T) {
	pool := open(t)
	first, err := newDriver(t.Context(), pool)
	require.NoError(t, err)
	require.NoError(t, first.Lock())
	m := migrateOn(t, pool, embedded)
	require.ErrorIs(t, m.Up(), database.ErrLocked)
	require.Empty(t, tables(t, pool))
	require.NoError(t, first.Unlock())
	require.NoError(t, m.Up())
}

// A migration that fails leaves nothing but its version, marked dirty, and somebody has to look.
func TestDirty(t *testing.T) {
	for name, test := range map[string]struct{ sql, message string }{
		"two statements of DDL": {"create table a (n int); create table b (n int);", "multiple ddl statements not supported in a transaction (SQLSTATE 0A000)"},
		"DDL and DML":           {"create table a (n int); insert into a values (1);", "ddl and dml are not supported in the same transaction (SQLSTATE 0A000)"},
	} {
		t.Run(name, func(t *testing.T) {
			pool := open(t)
			m := migrateOn(t, pool, fstest.MapFS{"migrations/1_test.up.sql": {Data: []byte(test.sql)}})
			require.ErrorContains(t, m.Up(), test.message)
			require.Empty(t, tables(t, pool))
			require.Equal(t, migrate.ErrDirty{Version: 1}, m.Up())

			m = migrateOn(t, pool, fstest.MapFS{"migrations/1_test.up.sql": {Data: []byte("create table a (n int)")}})
			require.NoError(t, m.Force(database.NilVersion))
			require.NoError(t, m.Up())
			require.Equal(t, []string{"a"}, tables(t, pool))
		})
	}
}

func TestFailedIndex(t *testing.T) {
	pool := open(t)
	m := migrateOn(t, pool, fstest.MapFS{
		"migrations/1_table.up.sql": {Data: []byte("create table a (n int)")},
		"migrations/2_rows.up.sql":  {Data: []byte("insert into a values (1); insert into a values (1)")},
		"migrations/3_index.up.sql": {Data: []byte("create unique index async a_n on a (n)")},
	})
	require.ErrorIs(t, m.Up(), dsqltx.ErrJobFailed)
	require.Equal(t, []string{"3 true"}, list(t, pool, "select version || ' ' || dirty from "+versionTable))
}

// Why there is a driver of one's own.
func TestTheirDriver(t *testing.T) {
	server := dsqltest.New(t)
	db, err := dsql.OpenDB(t.Context(), server.Config())
	require.NoError(t, err)
	defer db.Close()
	_, err = migratepgx.WithInstance(db, &migratepgx.Config{})
	require.ErrorContains(t, err, "function pg_advisory_lock not supported (SQLSTATE 0A000)")

	// What SetVersion would say if there were a way past the lock.
	_, err = db.ExecContext(t.Context(), "truncate "+migratepgx.DefaultMigrationsTable)
	require.ErrorContains(t, err, "(SQLSTATE 0A000)")
}

func open(t *testing.T) *pgxpool.Pool {
	t.Helper()
	pool, err := dsql.NewPool(t.Context(), dsqltest.New(t).Config())
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func migrateOn(t *testing.T, pool *pgxpool.Pool, files fs.FS) *migrate.Migrate {
	t.Helper()
	m, err := newMigrate(t.Context(), pool, files)
	require.NoError(t, err)
	return m
}

// tables are those that migrations made.
func tables(t *testing.T, pool *pgxpool.Pool) []string {
	t.Helper()
	return list(t, pool, "select tablename::text from pg_tables where schemaname = 'public' and tablename not in ('"+versionTable+"', '"+lockTable+"') order by 1")
}

func list(t *testing.T, pool *pgxpool.Pool, query string) []string {
	t.Helper()
	var values []string
	require.NoError(t, dsqltx.Runner{Idempotent: true}.Retry(t.Context(), func(ctx context.Context) error {
		rows, err := pool.Query(ctx, query)
		if err != nil {
			return err
		}
		values, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	}))
	return values
}
