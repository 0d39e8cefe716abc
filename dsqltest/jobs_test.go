package dsqltest

import (
	"context"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

type jobRow struct {
	Status, Details, JobType, ObjectName string
	ClassID                              int
	Known                                bool // the object
}

func job(tb testing.TB, conn *pgx.Conn, id string) jobRow {
	tb.Helper()
	const query = "select j.status, coalesce(j.details, ''), j.job_type, coalesce(j.object_name, ''), j.class_id::int, c.oid is not null" +
		" from sys.jobs j left join pg_class c on c.oid = j.object_id where j.job_id = $1 and j.update_time >= j.start_time"
	var row jobRow
	err := conn.QueryRow(tb.Context(), query, id).Scan(&row.Status, &row.Details, &row.JobType, &row.ObjectName, &row.ClassID, &row.Known)
	require.NoError(tb, err)
	return row
}

// submit runs a statement that makes a job and returns its ID.
func submit(tb testing.TB, conn *pgx.Conn, sql string) (id string) {
	tb.Helper()
	rows, err := conn.Query(tb.Context(), sql)
	require.NoError(tb, err)
	id, err = pgx.CollectExactlyOneRow(rows, pgx.RowTo[string])
	require.NoError(tb, err, sql)
	require.Len(tb, rows.FieldDescriptions(), 1)
	require.Equal(tb, "job_id", rows.FieldDescriptions()[0].Name)
	require.Regexp(tb, "^[a-z0-9]{26}$", id)
	return id
}

func wait(tb testing.TB, conn *pgx.Conn, id string) (succeeded bool) {
	tb.Helper()
	require.NoError(tb, conn.QueryRow(tb.Context(), "call sys.wait_for_job($1)", id).Scan(&succeeded))
	return succeeded
}

// A session may submit another job before the first is taken.
func TestJobsInARow(t *testing.T) {
	s := New(t)
	conn := connectIn(t, s, modes[0])
	mustExec(t, conn, "create table t (id int)")
	var ids []string
	for _, name := range []string{"a", "b", "c"} {
		ids = append(ids, submit(t, conn, "create index async "+name+" on t (id)"))
	}
	for _, id := range ids {
		require.True(t, wait(t, conn, id))
		require.Equal(t, "completed", job(t, conn, id).Status)
	}
}

func TestJobs(t *testing.T) {
	s := New(t)
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			conn := connectIn(t, s, mode)
			mustExec(t, conn, "create table t (id int, name text)")
			defer mustExec(t, conn, "drop table t")
			mustExec(t, conn, "insert into t values (1, 'a'), (2, 'a')")

			for sql, object := range map[string]string{
				"create index async on t (id)":                                 "public.t_id_idx",
				"CREATE UNIQUE INDEX ASYNC IF NOT EXISTS one ON t (id)":        "public.one",
				"create /* ' */ index -- async\n async \"T'w$$o\" on t (name)": "public.T'w$$o",
			} {
				id := submit(t, conn, sql)
				require.True(t, wait(t, conn, id), sql)
				require.Equal(t, jobRow{"completed", "", "INDEX_BUILD", object, 1259, true}, job(t, conn, id))
			}
			require.Equal(t, "true", queryString(t, conn, "select indisvalid::text from pg_index where indexrelid = 'one'::regclass"))
			_, err := conn.Exec(t.Context(), "insert into t values (1, 'b')")
			require.ErrorContains(t, err, "23505")

			id := submit(t, conn, "create unique index async two on t (name)")
			require.False(t, wait(t, conn, id))
			require.Equal(t, jobRow{"failed", rules.DuplicateKeys, "INDEX_BUILD", "public.two", 1259, true}, job(t, conn, id))
			require.Equal(t, "false", queryString(t, conn, "select indisvalid::text from pg_index where indexrelid = 'two'::regclass"))
			mustExec(t, conn, "drop index two")

			require.True(t, wait(t, conn, submit(t, conn, "create index async if not exists one on t (name)")))

			_, err = conn.Exec(t.Context(), "create index async one on t (name)")
			failsWith(t, err, `42P07: relation "one" already exists`)
			_, err = conn.Exec(t.Context(), "create index async on t (nothing)")
			failsWith(t, err, `42703: column "nothing" does not exist`)
			_, err = conn.Exec(t.Context(), "call sys.wait_for_job($1)", "another")
			failsWith(t, err, `22023: job "another" does not exist`)
		})
	}

	t.Run("refusals", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, adminRole))
		mustExec(t, conn, "create table t (id int)")
		defer mustExec(t, conn, "drop table t")
		for _, sql := range []string{"create index on t (id)", "create unique index i on t (id)", "create index concurrently i on t (id)", "create index if not exists i on t (id)"} {
			_, err := conn.Exec(t.Context(), sql)
			failsWith(t, err, "0A000: unsupported mode. please use CREATE INDEX ASYNC.")
		}
		_, err := conn.Exec(t.Context(), "select sys.wait_for_job('x')")
		require.ErrorContains(t, err, "42809")
		const wrong = "select 'é'; create index async on t id"
		_, err = conn.Exec(t.Context(), wrong)
		var pgErr *pgconn.PgError
		require.ErrorAs(t, err, &pgErr)
		require.Equal(t, `syntax error at or near "id"`, pgErr.Message)
		require.Equal(t, utf8.RuneCountInString(wrong)-1, int(pgErr.Position))
		require.Empty(t, pgErr.InternalQuery+pgErr.Where)
	})

	t.Run("transactions", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, adminRole))
		mustExec(t, conn, "create table t (id int)")
		defer mustExec(t, conn, "drop table t")
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		var id string
		require.NoError(t, tx.QueryRow(t.Context(), "create index async i on t (id)").Scan(&id))
		require.NoError(t, tx.Rollback(t.Context()))
		require.Equal(t, "0", queryString(t, conn, "select count(*)::text from sys.jobs where job_id = '"+id+"'"))

		for _, other := range []string{"create index async j on t (id)", "insert into t values (1)"} {
			tx, err = conn.Begin(t.Context())
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), "create index async i on t (id)")
			require.NoError(t, err)
			_, err = tx.Exec(t.Context(), other)
			require.ErrorContains(t, err, "0A000")
			require.NoError(t, tx.Rollback(t.Context()))
		}

		tx, err = conn.Begin(t.Context())
		require.NoError(t, err)
		require.NoError(t, tx.QueryRow(t.Context(), "create index async i on t (id)").Scan(&id))
		require.NoError(t, tx.Commit(t.Context()))
		require.True(t, wait(t, conn, id))

		tx, err = conn.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), "call sys.wait_for_job('"+id+"')")
		require.ErrorContains(t, err, "0A000")
		require.NoError(t, tx.Rollback(t.Context()))

		s.ConflictNext(1)
		_, err = conn.Exec(t.Context(), "create index async k on t (id)")
		failsWith(t, err, conflict)
		require.Equal(t, "0", queryString(t, conn, "select count(*)::text from sys.jobs where object_name = 'public.k'"))
	})

	t.Run("by another role", func(t *testing.T) {
		admin, app := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, "app"))
		mustExec(t, admin, "create table t (id int)")
		mustExec(t, admin, "create schema apps")
		mustExec(t, admin, "grant all on schema apps to app")
		_, err := app.Exec(t.Context(), "create index async on t (id)")
		failsWith(t, err, "42501: must be owner of table t")
		mustExec(t, app, "set search_path to apps")
		mustExec(t, app, "create table t (id int)")
		id := submit(t, app, "create index async on t (id)")
		require.True(t, wait(t, app, id))
		require.Equal(t, "apps.t_id_idx", job(t, app, id).ObjectName)
	})
}

// A job that is under way, and what others hear of its end.
func TestJobProgress(t *testing.T) {
	s := New(t)
	setup, other := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int primary key)")
	writer := connect(t, connConfig(t, s, adminRole))
	mustExec(t, writer, "begin")
	mustExec(t, writer, "insert into t values (1)")

	// The build waits for the writer; the submission is DDL, which waits for a lock that
	// the writer's table does not give it.
	_, err := setup.Exec(t.Context(), "create index async i on t (id)")
	failsWith(t, err, schemaConflict)
	mustExec(t, writer, "commit")

	// A reader's snapshot is all that a build waits for.
	mustExec(t, writer, "begin")
	mustExec(t, writer, "select 1")
	id := submit(t, setup, "create index async i on t (id)")
	require.Eventually(t, func() bool { return job(t, setup, id).Status == "processing" }, 10*time.Second, time.Millisecond)
	mustExec(t, other, "select 1")

	waiting := make(chan bool, 1)
	waiter := connect(t, connConfig(t, s, adminRole))
	go func() {
		var succeeded bool
		waiter.QueryRow(context.Background(), "call sys.wait_for_job($1)", id).Scan(&succeeded)
		waiting <- succeeded
	}()
	mustExec(t, writer, "rollback")
	require.True(t, <-waiting)
	_, err = other.Exec(t.Context(), "select 1")
	failsWith(t, err, schemaConflict)
	mustExec(t, setup, "select 1") // has made the change itself
}

// A build that is under way holds up no schema change, and is there in the end.
func TestSchemaChangesDuringBuild(t *testing.T) {
	s := New(t)
	setup, reader := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
	status := func(id string) string { return job(t, setup, id).Status }
	mustExec(t, setup, "create table t (id int)")
	mustExec(t, setup, "create table dropped (id int)")
	mustExec(t, reader, "begin")
	mustExec(t, reader, "select 1") // a snapshot, which every build waits for

	first := submit(t, setup, "create index async first on t (id)")
	require.Eventually(t, func() bool {
		return queryString(t, setup, "select count(*)::text from pg_locks where not granted") == "1"
	}, 10*time.Second, time.Millisecond)
	second := submit(t, setup, "create index async second on t (id)")
	mustExec(t, setup, "alter table t add column name text")
	third := submit(t, setup, "create index async on dropped (id)")
	mustExec(t, setup, "drop table dropped")
	require.Equal(t, "processing", status(first))

	mustExec(t, reader, "rollback")
	for _, id := range []string{first, second} {
		require.True(t, wait(t, setup, id))
	}
	require.Equal(t, "2", queryString(t, setup, "select count(*)::text from pg_index where indrelid = 't'::regclass and indisvalid"))
	require.True(t, wait(t, setup, third)) // "completed is not always success"
	require.Equal(t, `relation "dropped" does not exist`, job(t, setup, third).Details)
}

// A session that waited for a job knows of the change.
func TestWaitingForJobShowsItsChange(t *testing.T) {
	s := New(t)
	setup, waiter := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int)")
	mustExec(t, waiter, "select * from t")
	require.True(t, wait(t, waiter, submit(t, setup, "create index async on t (id)")))
	mustExec(t, waiter, "select * from t")
}

// Close ends a build, and a start finds that nobody goes on with it.
func TestJobEndsWithServer(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	dir := newDataDir(t)
	s, err := Start(t.Context(), WithDataDir(dir))
	require.NoError(t, err)
	setup, reader := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int)")
	mustExec(t, reader, "begin")
	mustExec(t, reader, "select 1")
	id := submit(t, setup, "create index async i on t (id)")
	require.Eventually(t, func() bool { return job(t, setup, id).Status == "processing" }, 10*time.Second, time.Millisecond)
	require.NoError(t, s.Close())
	setup.Close(t.Context())
	reader.Close(t.Context())
	goleak.VerifyNone(t, ignore)

	s, err = Start(t.Context(), WithDataDir(dir))
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, "the server was stopped", job(t, connect(t, connConfig(t, s, adminRole)), id).Details)
}
