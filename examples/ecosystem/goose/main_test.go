package main

import (
	"context"
	"database/sql"
	"io"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	const want = `index   completed
status  1 applied
status  2 applied
status  3 applied
status  1 pending
status  2 pending
status  3 pending
`
	require.True(t, strings.HasSuffix(out.String(), want), out.String())
}

func TestUpAndDown(t *testing.T) {
	db := open(t)
	provider, err := newProvider(db, files(t), goose.WithGoMigrations(booksByAuthor(io.Discard)))
	require.NoError(t, err)
	require.NoError(t, up(t.Context(), provider))
	require.Equal(t, []string{"goose_authors", "goose_books"}, tables(t, db))
	require.Equal(t, []int64{0, 1, 2, 3}, versions(t, db))
	require.True(t, valid(t, db, "goose_books_by_author"))

	require.NoError(t, up(t.Context(), provider))
	require.Equal(t, []int64{0, 1, 2, 3}, versions(t, db))

	require.NoError(t, downAll(t.Context(), provider))
	require.Empty(t, tables(t, db))
	require.Equal(t, []int64{0}, versions(t, db))
}

// Deployments that start together take turns.
func TestTwoAtOnce(t *testing.T) {
	server := dsqltest.New(t)
	ended := make(chan error)
	for range 2 {
		db := openAt(t, server)
		provider, err := newProvider(db, files(t), goose.WithGoMigrations(booksByAuthor(io.Discard)))
		require.NoError(t, err)
		go func() { ended <- up(t.Context(), provider) }()
	}
	require.NoError(t, <-ended)
	require.NoError(t, <-ended)
	require.Equal(t, []int64{0, 1, 2, 3}, versions(t, openAt(t, server)))
}

// A failed build of an index is no applied migration, and the next run begins anew.
func TestFailedIndex(t *testing.T) {
	db := open(t)
	for _, sql := range []string{"create table t (n int)", "insert into t values (1), (1)"} {
		_, err := db.ExecContext(t.Context(), sql)
		require.NoError(t, err)
	}
	provider, err := newProvider(db, nil, goose.WithGoMigrations(goose.NewGoMigration(1, &goose.GoFunc{
		RunDB: func(ctx context.Context, db *sql.DB) error {
			return onConn(ctx, db, func(conn *pgx.Conn) error {
				return buildIndex(ctx, conn, "t_n", "create unique index async t_n on t (n)", io.Discard)
			})
		},
	}, nil)))
	require.NoError(t, err)
	require.ErrorIs(t, up(t.Context(), provider), dsqltx.ErrJobFailed)
	require.Equal(t, []int64{0}, versions(t, db))
	require.False(t, valid(t, db, "t_n"))

	_, err = dsqltx.ExecSQL(t.Context(), db, "delete from t") // again, where the index has changed t
	require.NoError(t, err)
	require.NoError(t, up(t.Context(), provider))
	require.Equal(t, []int64{0, 1}, versions(t, db))
	require.True(t, valid(t, db, "t_n"))
}

// What does not work, and what it leaves.
func TestBreaks(t *testing.T) {
	for name, test := range map[string]struct {
		migration string
		opts      []goose.ProviderOption
		message   string
		tables    []string
	}{
		"DDL and the version's row in a transaction, goose's default": {
			migration: "create table a (n int);",
			opts:      []goose.ProviderOption{goose.WithIsolateDDL(false)},
			message:   "ddl and dml are not supported in the same transaction (SQLSTATE 0A000)",
		},
		"two statements of DDL sent as one": {
			migration: "-- +goose StatementBegin\ncreate table a (n int);\ncreate table b (n int);\n-- +goose StatementEnd\n",
			message:   "multiple ddl statements not supported in a transaction (SQLSTATE 0A000)",
		},
		// Each of them is a transaction, so a migration that fails at the second is half done: it is not
		// recorded, and runs into "already exists" the next time.
		"two statements of DDL sent one by one": {
			migration: "create table a (n int);\ncreate table b (n nonsense);",
			message:   `type "nonsense" does not exist (SQLSTATE 42704)`,
			tables:    []string{"a"},
		},
		"an index without ASYNC": {
			migration: "create table a (n int);\ncreate index on a (n);",
			message:   "(SQLSTATE 0A000)",
			tables:    []string{"a"},
		},
		"goose's usual locker": {
			migration: "create table a (n int);",
			opts:      []goose.ProviderOption{goose.WithSessionLocker(sessionLocker(t))},
			message:   "function pg_try_advisory_lock not supported (SQLSTATE 0A000)",
		},
	} {
		t.Run(name, func(t *testing.T) {
			db := open(t)
			first, err := newProvider(db, fstest.MapFS{}, goose.WithGoMigrations(goose.NewGoMigration(1, nil, nil)))
			require.NoError(t, err)
			require.NoError(t, up(t.Context(), first), "which makes the table of versions")

			provider, err := goose.NewProvider(goose.DialectAuroraDSQL, db, fstest.MapFS{
				"00001_first.sql": {Data: []byte("-- +goose Up\n")},
				"00002_test.sql":  {Data: []byte("-- +goose Up\n" + test.migration)},
			}, append([]goose.ProviderOption{goose.WithTableName(versionTable), goose.WithIsolateDDL(true)}, test.opts...)...)
			require.NoError(t, err)
			require.ErrorContains(t, up(t.Context(), provider), test.message)
			require.Equal(t, test.tables, tables(t, db))
			require.Equal(t, []int64{0, 1}, versions(t, db))
		})
	}
}

func sessionLocker(t *testing.T) lock.SessionLocker {
	t.Helper()
	locker, err := lock.NewPostgresSessionLocker()
	require.NoError(t, err)
	return locker
}

func files(t *testing.T) fs.FS {
	t.Helper()
	files, err := fs.Sub(embedded, "migrations")
	require.NoError(t, err)
	return files
}

func open(t *testing.T) *sql.DB {
	t.Helper()
	return openAt(t, dsqltest.New(t))
}

func openAt(t *testing.T, server *dsqltest.Server) *sql.DB {
	t.Helper()
	db, err := dsql.OpenDB(t.Context(), server.Config())
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// tables are those that migrations made, and not goose.
func tables(t *testing.T, db *sql.DB) []string {
	t.Helper()
	return list[string](t, db, "select tablename from pg_tables where schemaname = 'public' and tablename not in ('"+versionTable+"', '"+lockTable+"') order by 1")
}

func versions(t *testing.T, db *sql.DB) []int64 {
	t.Helper()
	return list[int64](t, db, "select version_id from "+versionTable+" order by id")
}

func valid(t *testing.T, db *sql.DB, index string) bool {
	t.Helper()
	values := list[bool](t, db, "select indisvalid from pg_index where indexrelid = to_regclass('"+index+"')")
	require.Len(t, values, 1)
	return values[0]
}

func list[T any](t *testing.T, db *sql.DB, query string) []T {
	t.Helper()
	var values []T
	require.NoError(t, dsqltx.Runner{Idempotent: true}.Retry(t.Context(), func(ctx context.Context) error {
		values = nil
		rows, err := db.QueryContext(ctx, query)
		if err != nil {
			return err
		}
		defer rows.Close()
		for rows.Next() {
			var v T
			if err := rows.Scan(&v); err != nil {
				return err
			}
			values = append(values, v)
		}
		return rows.Err()
	}))
	return values
}
