package dsqltest

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// duplicateKeys is what a unique index ends with that cannot be.
const duplicateKeys = "found duplicate key(s) while validating index uniqueness"

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
	require.Regexp(tb, "^[a-z2-7]{26}$", id)
	require.Equal(tb, strings.ToUpper(strings.Join(strings.Fields(sql)[:1], "")), strings.Fields(rows.CommandTag().String())[0])
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
			require.Equal(t, jobRow{"failed", duplicateKeys, "INDEX_BUILD", "public.two", 1259, true}, job(t, conn, id))
			require.Equal(t, "false", queryString(t, conn, "select indisvalid::text from pg_index where indexrelid = 'two'::regclass"))
			mustExec(t, conn, "drop index two")

			require.True(t, wait(t, conn, submit(t, conn, "create index async if not exists one on t (name)")))

			_, err = conn.Exec(t.Context(), "create index async one on t (name)")
			failsWith(t, err, `42P07: relation "one" already exists`)
			_, err = conn.Exec(t.Context(), "create index async on t (nothing)")
			failsWith(t, err, `42703: column "nothing" does not exist`)
			_, err = conn.Exec(t.Context(), "call sys.wait_for_job($1)", "another")
			failsWith(t, err, `22P02: invalid job_id: "another"`)
			unknown := strings.Repeat("a", 26)
			_, err = conn.Exec(t.Context(), "call sys.wait_for_job($1)", unknown)
			failsWith(t, err, `22023: job "`+unknown+`" does not exist`)
		})
	}

	t.Run("refusals", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, adminRole))
		mustExec(t, conn, "create table t (id int)")
		defer mustExec(t, conn, "drop table t")
		for _, sql := range []string{"create index on t (id)", "create unique index i on t (id)", "create index if not exists i on t (id)"} {
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

// holdJobs keeps the jobs of a server from ending until release is called.
func holdJobs(s *Server) (release func()) {
	held := make(chan struct{})
	s.waitForBuild = func(ctx context.Context) {
		select {
		case <-held:
		case <-ctx.Done():
		}
	}
	return sync.OnceFunc(func() { close(held) })
}

// A job that is under way, and what others hear of its end.
func TestJobProgress(t *testing.T) {
	s := New(t)
	release := holdJobs(s)
	setup, other := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int primary key)")
	writer := connect(t, connConfig(t, s, adminRole))
	mustExec(t, writer, "begin")
	mustExec(t, writer, "insert into t values (1)")

	// The submission is DDL, which waits for nobody.
	require.Regexp(t, "^[a-z2-7]{26}$", submit(t, setup, "create index async waiting on t (id)"))
	_, err := writer.Exec(t.Context(), "commit")
	failsWith(t, err, schemaConflict)

	mustExec(t, other, "select 1")
	id := submit(t, setup, "create unique index async i on t (id)")
	require.Eventually(t, func() bool { return job(t, setup, id).Status == "processing" }, 10*time.Second, time.Millisecond)
	_, err = other.Exec(t.Context(), "table t")
	failsWith(t, err, schemaConflict)
	mustExec(t, other, "table t")
	require.Equal(t, "false", queryString(t, setup, "select indisvalid::text from pg_index where indexrelid = 'i'::regclass"))
	_, err = setup.Exec(t.Context(), "alter table t add constraint i unique using index i")
	failsWith(t, err, `55000: index "i" is not valid`)

	waiting := make(chan bool, 1)
	waiter := connect(t, connConfig(t, s, adminRole))
	go func() {
		var succeeded bool
		waiter.QueryRow(context.Background(), "call sys.wait_for_job($1)", id).Scan(&succeeded)
		waiting <- succeeded
	}()
	release()
	require.True(t, <-waiting)
	mustExec(t, other, "select 1")
	_, err = other.Exec(t.Context(), "table t")
	failsWith(t, err, schemaConflict)
	mustExec(t, setup, "alter table t add constraint i unique using index i") // has made the change itself
}

// A build waits for nobody, and holds up no schema change.
func TestSchemaChangesDuringBuild(t *testing.T) {
	s := New(t)
	release := holdJobs(s)
	setup, reader := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int)")
	mustExec(t, setup, "create table dropped (id int)")
	mustExec(t, reader, "begin")
	mustExec(t, reader, "select 1") // a snapshot

	first := submit(t, setup, "create index async first on t (id)")
	second := submit(t, setup, "create index async second on t (id)")
	third := submit(t, setup, "create index async on dropped (id)")
	fourth := submit(t, setup, "create index async cancelled on t (id)")
	mustExec(t, setup, "drop index cancelled")
	mustExec(t, setup, "drop table dropped")
	release()
	for _, id := range []string{first, second, third, fourth} { // "completed is not always success"
		require.True(t, wait(t, setup, id))
	}
	require.Equal(t, "2", queryString(t, setup, "select count(*)::text from pg_index where indrelid = 't'::regclass and indisvalid"))
	require.Equal(t, `relation "dropped" does not exist`, job(t, setup, third).Details)
	require.Equal(t, `relation "public.cancelled" does not exist`, job(t, setup, fourth).Details)
	mustExec(t, reader, "rollback")
	mustExec(t, setup, "alter table t add column name text")
}

func TestValidateConstraint(t *testing.T) {
	s := New(t)
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			conn := connectIn(t, s, mode)
			mustExec(t, conn, "create table parent (id int primary key)")
			mustExec(t, conn, "create table child (id int, parent int)")
			mustExec(t, conn, "insert into parent values (1)")
			mustExec(t, conn, "insert into child values (1, 1)")
			mustExec(t, conn, "alter table child add constraint positive check (id > 0) not valid")
			mustExec(t, conn, "alter table child add constraint known foreign key (parent) references parent (id) not valid")
			mustExec(t, conn, "alter table child add constraint large check (id > 9) not valid")
			valid := func(name string) string {
				return queryString(t, conn, "select convalidated::text from pg_constraint where conname = '"+name+"'")
			}
			for _, name := range []string{"positive", "known"} {
				id := submit(t, conn, "alter table async child validate constraint "+name)
				require.Equal(t, "false", valid(name))
				require.True(t, wait(t, conn, id))
				require.Equal(t, jobRow{"completed", "", "VALIDATE_CONSTRAINT", "public.child", 1259, true}, job(t, conn, id))
				require.Equal(t, "true", valid(name))
			}
			id := submit(t, conn, "ALTER TABLE ASYNC IF EXISTS ONLY child VALIDATE CONSTRAINT large")
			require.False(t, wait(t, conn, id))
			require.Equal(t, `check constraint "large" of relation "child" is violated by some row`, job(t, conn, id).Details)
			require.Equal(t, "false", valid("large"))

			_, err := conn.Exec(t.Context(), "alter table async child validate constraint missing")
			failsWith(t, err, `42704: constraint "missing" of relation "child" does not exist`)
			_, err = conn.Exec(t.Context(), "alter table child validate constraint large")
			failsWith(t, err, "0A000: unsupported ALTER TABLE VALIDATE CONSTRAINT statement")
			mustExec(t, conn, "drop table child")
			mustExec(t, conn, "drop table parent")
		})
	}
}

// Other work of the service shows among the jobs, too.
func TestOtherJobs(t *testing.T) {
	s := New(t)
	conn := connect(t, connConfig(t, s, adminRole))
	mustExec(t, conn, "create table t (id int)")
	jobs := func() string {
		return queryString(t, conn, "select coalesce(string_agg(job_type || ' ' || status || ' ' || object_name, ',' order by start_time), '') from sys.jobs")
	}
	require.Empty(t, jobs())
	tag, err := conn.Exec(t.Context(), "analyze t")
	require.NoError(t, err)
	require.Equal(t, "ANALYZE", tag.String())
	mustExec(t, conn, "drop table t")
	require.Equal(t, "ANALYZE completed public.t,DROP completed public.t", jobs())
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

// Close ends a job, and a start finds that nobody goes on with it.
func TestJobEndsWithServer(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	dir := newDataDir(t)
	s, err := Start(t.Context(), WithDataDir(dir))
	require.NoError(t, err)
	holdJobs(s)
	setup := connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int)")
	id := submit(t, setup, "create index async i on t (id)")
	require.Eventually(t, func() bool { return job(t, setup, id).Status == "processing" }, 10*time.Second, time.Millisecond)
	require.NoError(t, s.Close())
	setup.Close(t.Context())
	goleak.VerifyNone(t, ignore)

	s, err = Start(t.Context(), WithDataDir(dir))
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, "the server was stopped", job(t, connect(t, connConfig(t, s, adminRole)), id).Details)
}
