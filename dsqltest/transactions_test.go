package dsqltest

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

func mustExec(tb testing.TB, conn *pgx.Conn, sql string, args ...any) {
	tb.Helper()
	_, err := conn.Exec(tb.Context(), sql, args...)
	require.NoError(tb, err, sql)
}

// failsWith asks that an error of the server is "code: message".
func failsWith(tb testing.TB, err error, want string) {
	tb.Helper()
	var pgErr *pgconn.PgError
	require.ErrorAs(tb, err, &pgErr)
	require.Equal(tb, want, pgErr.Code+": "+pgErr.Message)
}

const (
	conflict       = "40001: change conflicts with another transaction (OC000)"
	schemaConflict = "40001: schema has been updated by another transaction (OC001)"
	unavailable    = "XX000: server unavailable"
)

// modes are the ways in which pgx runs a statement with arguments: with an
// argument for the mode, the extended protocol is used by all but the last.
var modes = []pgx.QueryExecMode{pgx.QueryExecModeCacheStatement, pgx.QueryExecModeExec, pgx.QueryExecModeDescribeExec, pgx.QueryExecModeSimpleProtocol}

func connectIn(tb testing.TB, s *Server, mode pgx.QueryExecMode) *pgx.Conn {
	config := connConfig(tb, s, adminRole)
	config.DefaultQueryExecMode = mode
	return connect(tb, config)
}

// runIn runs a statement in the mode, although it has no arguments.
func runIn(conn *pgx.Conn, mode pgx.QueryExecMode, sql string) error {
	var err error
	if mode == pgx.QueryExecModeSimpleProtocol {
		_, err = conn.Exec(context.Background(), sql)
	} else {
		_, err = conn.PgConn().ExecParams(context.Background(), sql, nil, nil, nil, nil).Close()
	}
	return err
}

// Lock waits are short, and yet 32 writers of one row get on.
func TestContention(t *testing.T) {
	const writers, increments = 32, 20
	s := New(t)
	setup := connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table counters (id int primary key, n int not null)")
	mustExec(t, setup, "insert into counters values (1, 0)")
	before := s.Transactions()

	var writing sync.WaitGroup
	errs := make([]error, writers)
	for w := range writers {
		conn := connect(t, connConfig(t, s, adminRole))
		writing.Go(func() {
			for i := 0; i < increments && errs[w] == nil; i++ {
				errs[w] = retry(func() error { return increment(conn, w) })
			}
		})
	}
	writing.Wait()
	require.NoError(t, errors.Join(errs...))
	require.Equal(t, "640", queryString(t, setup, "select n::text from counters"))
	after := s.Transactions()
	require.Equal(t, writers*increments, after.Applied-before.Applied)
	require.Positive(t, after.Conflicts)
	t.Logf("%d conflicts", after.Conflicts)
}

// increment adds 1 in the ways in which a client may.
func increment(conn *pgx.Conn, way int) error {
	ctx := context.Background()
	switch way % 3 {
	case 0:
		return runIn(conn, pgx.QueryExecModeSimpleProtocol, "update counters set n = n + 1")
	case 1:
		_, err := conn.Exec(ctx, "update counters set n = n + $1", 1)
		return err
	}
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer tx.Rollback(ctx)
	var n int
	if err := tx.QueryRow(ctx, "select n from counters where id = $1", 1).Scan(&n); err != nil {
		return err
	}
	if _, err := tx.Exec(ctx, "update counters set n = $1", n+1); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// retry is the loop that people write.
func retry(do func() error) error {
	for {
		err := do()
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "40001" {
			return err
		}
		time.Sleep(rand.N(10 * time.Millisecond))
	}
}

func TestCommitFaults(t *testing.T) {
	s := New(t)
	watcher := connect(t, connConfig(t, s, adminRole))
	mustExec(t, watcher, "create table t (id int)")
	rows := func() string { return queryString(t, watcher, "select count(*)::text from t") }
	require.Equal(t, "0", rows())

	ways := map[string]func(*pgx.Conn, pgx.QueryExecMode) error{
		"autocommit": func(conn *pgx.Conn, mode pgx.QueryExecMode) error {
			_, err := conn.Exec(context.Background(), "insert into t values ($1)", 1)
			return err
		},
		"transaction": func(conn *pgx.Conn, mode pgx.QueryExecMode) error {
			if err := runIn(conn, mode, "begin"); err != nil {
				return err
			}
			if err := runIn(conn, mode, "insert into t values (1)"); err != nil {
				return err
			}
			return runIn(conn, mode, "commit")
		},
		"several statements": func(conn *pgx.Conn, mode pgx.QueryExecMode) error {
			return runIn(conn, pgx.QueryExecModeSimpleProtocol, "select 1; insert into t values (1); select 2")
		},
		"batch": func(conn *pgx.Conn, mode pgx.QueryExecMode) error {
			var batch pgx.Batch
			batch.Queue("select 1")
			batch.Queue("insert into t values (1)")
			return conn.SendBatch(context.Background(), &batch).Close()
		},
		"batch with a transaction": func(conn *pgx.Conn, mode pgx.QueryExecMode) error {
			var batch pgx.Batch
			batch.Queue("begin")
			batch.Queue("insert into t values (1)")
			batch.Queue("commit")
			return conn.SendBatch(context.Background(), &batch).Close()
		},
		"COPY": func(conn *pgx.Conn, mode pgx.QueryExecMode) error {
			_, err := conn.CopyFrom(context.Background(), pgx.Identifier{"t"}, []string{"id"}, pgx.CopyFromRows([][]any{{1}}))
			return err
		},
	}
	for name, way := range ways {
		for _, mode := range modes {
			t.Run(name+", "+mode.String(), func(t *testing.T) {
				mustExec(t, watcher, "delete from t")
				before := s.Transactions()
				conn := connectIn(t, s, mode)
				require.NoError(t, way(conn, mode))
				require.Equal(t, "1", rows())

				s.ConflictNext(1)
				failsWith(t, way(conn, mode), conflict)
				require.EqualValues(t, 'I', conn.PgConn().TxStatus())
				require.Equal(t, "1", rows())
				require.NoError(t, way(conn, mode), "the session lives on")
				require.Equal(t, "2", rows())

				s.CutNext(1, BeforeCommit)
				err := way(conn, mode)
				require.Error(t, err)
				require.NotErrorAs(t, err, new(*pgconn.PgError))
				require.True(t, conn.IsClosed())
				require.Equal(t, "2", rows())

				conn = connectIn(t, s, mode)
				s.CutNext(1, AfterCommit)
				err = way(conn, mode)
				require.Error(t, err)
				require.NotErrorAs(t, err, new(*pgconn.PgError))
				require.True(t, conn.IsClosed())
				require.Equal(t, "3", rows())

				conn = connectIn(t, s, mode)
				for fault, want := range map[CommitFault]string{UnavailableBeforeCommit: "3", UnavailableAfterCommit: "4"} {
					mustExec(t, watcher, "delete from t")
					mustExec(t, watcher, "insert into t values (1), (2), (3)")
					s.SetCommitFaults(func() CommitFault { return fault })
					failsWith(t, way(conn, mode), unavailable)
					s.SetCommitFaults(nil)
					require.EqualValues(t, 'I', conn.PgConn().TxStatus())
					require.Equal(t, want, rows())
				}
				require.NoError(t, way(conn, mode), "the session lives on")

				after := s.Transactions()
				after.Applied -= 6 // by the watcher, and at last
				require.Equal(t, TransactionCounts{Applied: 3, Conflicts: 1, Cuts: 2}, TransactionCounts{
					Applied: after.Applied - before.Applied, Conflicts: after.Conflicts - before.Conflicts, Cuts: after.Cuts - before.Cuts,
				})
			})
		}
	}

	t.Run("unavailable", func(t *testing.T) {
		for _, mode := range modes {
			conn := connectIn(t, s, mode)
			mustExec(t, conn, "select 1")
			s.UnavailableNext(2)
			_, err := conn.Exec(t.Context(), "select $1::int", 1)
			failsWith(t, err, unavailable)
			_, err = conn.Exec(t.Context(), "insert into t values ($1)", 1)
			failsWith(t, err, unavailable)
			require.EqualValues(t, 'I', conn.PgConn().TxStatus())
			mustExec(t, conn, "begin")
			s.UnavailableNext(1)
			_, err = conn.Exec(t.Context(), "select $1::int", 1)
			failsWith(t, err, unavailable)
			require.EqualValues(t, 'E', conn.PgConn().TxStatus())
			mustExec(t, conn, "rollback")
			mustExec(t, conn, "select 1")
		}
	})

	t.Run("scripted", func(t *testing.T) {
		script := []CommitFault{Conflict, NoFault, AfterCommit}
		asked := 0
		s.SetCommitFaults(func() CommitFault { asked++; return script[asked-1] })
		s.ConflictNext(1)
		conn := connectIn(t, s, modes[0])
		way := ways["transaction"]
		failsWith(t, way(conn, modes[0]), conflict)
		require.Zero(t, asked)
		failsWith(t, way(conn, modes[0]), conflict)
		require.NoError(t, way(conn, modes[0]))
		mustExec(t, conn, "select 1")
		mustExec(t, conn, "begin")
		mustExec(t, conn, "rollback")
		require.Equal(t, 2, asked)
		require.Error(t, way(conn, modes[0]))
		s.ConflictNext(1)
		s.SetCommitFaults(nil)
		require.NoError(t, way(connectIn(t, s, modes[0]), modes[0]))
		require.Equal(t, 3, asked)
	})
}

// broken are the rules, broken in both protocols: what is refused, after what, in which
// words.
var broken = []struct {
	name  string
	given []string
	sql   string
	want  string
}{
	{"savepoint", []string{"begin"}, "savepoint a", "0A000: unsupported transaction statement: SAVEPOINT"},
	{"release", []string{"begin"}, "release a", "0A000: unsupported transaction statement: RELEASE"},
	{"rollback to", []string{"begin"}, "rollback to a", "0A000: unsupported transaction statement: ROLLBACK TO"},
	{"serializable", nil, "begin isolation level serializable", "0A000: Unsupported isolation level: SERIALIZABLE"},
	{"set transaction", []string{"begin"}, "set transaction read only", `0A000: setting configuration parameter "TRANSACTION" not supported`},
	{"setting", nil, "set client_min_messages to error", `0A000: setting configuration parameter "client_min_messages" not supported`},
	{"advisory lock", nil, "select pg_advisory_lock(1)", "0A000: function pg_advisory_lock not supported"},
	{"two DDLs", []string{"begin", "create table a (id int)"}, "create table b (id int)", "0A000: multiple ddl statements not supported in a transaction"},
	{"DDL and grant", []string{"begin", "create table a (id int)"}, "grant select on a to app", "0A000: multiple ddl statements not supported in a transaction"},
	{"DDL, then DML", []string{"begin", "create table a (id int)", "select * from a"}, "insert into a values (1)", "0A000: ddl and dml are not supported in the same transaction"},
	{"DML, then DDL", []string{"begin", "insert into t values (1)"}, "drop table t", "0A000: ddl and dml are not supported in the same transaction"},
	{"rows", []string{"begin", "insert into t select generate_series(1, 2000)"}, "insert into t select generate_series(1, 1001)", "54000: transaction row limit exceeded"},
	{"rows of several kinds", []string{"begin", "insert into t select generate_series(1, 1500)", "update t set id = 0"}, "delete from t where ctid = (select min(ctid) from t)", "54000: transaction row limit exceeded"},
	{"rows in autocommit", nil, "insert into t select generate_series(1, 3001)", "54000: transaction row limit exceeded"},
}

func TestRules(t *testing.T) {
	s := New(t)
	setup := connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int)")
	for _, tt := range broken {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
			t.Run(tt.name+", "+mode.String(), func(t *testing.T) {
				conn := connect(t, connConfig(t, s, adminRole))
				status := byte('I')
				for _, sql := range tt.given {
					require.NoError(t, runIn(conn, mode, sql))
				}
				if conn.PgConn().TxStatus() == 'T' {
					status = 'E'
				}
				failsWith(t, runIn(conn, mode, tt.sql), tt.want)
				require.Equal(t, status, conn.PgConn().TxStatus())
				if status == 'E' {
					require.ErrorContains(t, runIn(conn, mode, "select 1"), "25P02")
					require.NoError(t, runIn(conn, mode, "commit")) // which PostgreSQL answers with ROLLBACK
				}
				require.EqualValues(t, 'I', conn.PgConn().TxStatus())
				require.Equal(t, "0", queryString(t, conn, "select count(*)::text from t"))
				require.Equal(t, "1", queryString(t, conn, "select count(*)::text from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"))
			})
		}
	}

	t.Run("accepted", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, adminRole))
		for _, sql := range []string{
			"begin isolation level repeatable read, read only", "select * from t", "commit",
			"begin", "create table a (id int)", "select * from a", "commit",
			"drop table a",
			"begin", "insert into t select generate_series(1, 3000)", "rollback",
			"begin read write", "insert into t values (1)", "rollback and chain", "commit",
			"set search_path to public",
		} {
			mustExec(t, conn, sql)
		}
	})

	t.Run("several statements", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, adminRole))
		results, err := conn.PgConn().Exec(t.Context(), "select 1; insert into t values (1); savepoint a; select 2").ReadAll()
		failsWith(t, err, "0A000: unsupported transaction statement: SAVEPOINT")
		require.Equal(t, "INSERT 0 1", results[1].CommandTag.String())
		require.Len(t, results, 2)
		require.Equal(t, "0", queryString(t, conn, "select count(*)::text from t"), "it was one transaction")

		_, err = conn.PgConn().Exec(t.Context(), "create table a (id int); insert into a values (1)").ReadAll()
		failsWith(t, err, "0A000: ddl and dml are not supported in the same transaction")

		results, err = conn.PgConn().Exec(t.Context(), "create table a (id int); begin; commit; insert into a values (1); begin; select 1; rollback; drop table a").ReadAll()
		require.NoError(t, err)
		var tags []string
		for _, result := range results {
			tags = append(tags, result.CommandTag.String())
		}
		require.Equal(t, []string{"CREATE TABLE", "BEGIN", "COMMIT", "INSERT 0 1", "BEGIN", "SELECT 1", "ROLLBACK", "DROP TABLE"}, tags)

		_, err = conn.PgConn().Exec(t.Context(), "select 'é'; selec 2").ReadAll()
		var pgErr *pgconn.PgError
		require.ErrorAs(t, err, &pgErr)
		require.EqualValues(t, 13, pgErr.Position)
		require.EqualValues(t, 'I', conn.PgConn().TxStatus())
		require.Equal(t, "1", queryString(t, conn, "select '1'"))
	})

	t.Run("batch", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, adminRole))
		mustExec(t, conn, "begin")
		var batch pgx.Batch
		batch.Queue("insert into t select generate_series(1, $1::int)", 3001)
		batch.Queue("insert into t values (1)")
		batch.Queue("commit")
		batch.Queue("select 1")
		failsWith(t, conn.SendBatch(t.Context(), &batch).Close(), "54000: transaction row limit exceeded")
		require.EqualValues(t, 'E', conn.PgConn().TxStatus())
		mustExec(t, conn, "rollback")

		batch = pgx.Batch{}
		batch.Queue("insert into t values (1)")
		batch.Queue("savepoint a")
		batch.Queue("select 1")
		failsWith(t, conn.SendBatch(t.Context(), &batch).Close(), "0A000: unsupported transaction statement: SAVEPOINT")
		require.EqualValues(t, 'I', conn.PgConn().TxStatus())

		batch = pgx.Batch{}
		batch.Queue("insert into t select generate_series(1, 2000)")
		batch.Queue("insert into t select generate_series(1, 2000)")
		failsWith(t, conn.SendBatch(t.Context(), &batch).Close(), "54000: transaction row limit exceeded")
		require.Equal(t, "0", queryString(t, conn, "select count(*)::text from t"))
	})

	t.Run("COPY", func(t *testing.T) {
		for _, given := range []string{"select 1", "begin"} {
			conn := connect(t, connConfig(t, s, adminRole))
			mustExec(t, conn, given)
			lines := strings.Repeat("1\n", rules.MaxRows+1)
			_, err := conn.PgConn().CopyFrom(t.Context(), strings.NewReader(lines), "copy t from stdin")
			failsWith(t, err, "54000: transaction row limit exceeded")
			mustExec(t, conn, "rollback")

			// An error in the middle, when more data is on its way.
			mustExec(t, conn, given)
			_, err = conn.PgConn().CopyFrom(t.Context(), strings.NewReader("a\n"+strings.Repeat("1\n", 1<<20)), "copy t from stdin")
			require.ErrorContains(t, err, "22P02")
			mustExec(t, conn, "rollback")

			_, err = conn.PgConn().CopyFrom(t.Context(), iotest.ErrReader(errors.New("no more")), "copy t from stdin")
			require.ErrorContains(t, err, "no more")
			mustExec(t, conn, "rollback")
			require.Equal(t, "0", queryString(t, conn, "select count(*)::text from t"))
		}
	})
}

func TestTransactionAge(t *testing.T) {
	var offset atomic.Int64
	s := New(t, WithTransactionAge(30*time.Second), WithClock(func() time.Time { return time.Now().Add(time.Duration(offset.Load())) }))
	const want = "54000: transaction age limit of 30s exceeded"
	setup := connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int)")
	// Both before the clock goes on: the token that they come with does not last.
	for mode, conn := range map[pgx.QueryExecMode]*pgx.Conn{
		pgx.QueryExecModeSimpleProtocol: connect(t, connConfig(t, s, adminRole)),
		pgx.QueryExecModeExec:           connect(t, connConfig(t, s, adminRole)),
	} {
		for _, end := range []string{"select 1", "commit", "rollback"} {
			require.NoError(t, runIn(conn, mode, "begin"))
			offset.Add(int64(29 * time.Second))
			require.NoError(t, runIn(conn, mode, "insert into t values (1)"))
			offset.Add(int64(2 * time.Second))
			switch err := runIn(conn, mode, end); end {
			case "select 1":
				failsWith(t, err, want)
				require.EqualValues(t, 'E', conn.PgConn().TxStatus())
				mustExec(t, conn, "rollback")
			case "commit":
				failsWith(t, err, want)
			default:
				require.NoError(t, err)
			}
			require.EqualValues(t, 'I', conn.PgConn().TxStatus())
			require.Equal(t, "0", queryString(t, conn, "select count(*)::text from t"))
		}
		mustExec(t, conn, "begin")
		offset.Add(int64(time.Hour))
		s.SetTransactionAge(0)
		mustExec(t, conn, "commit")
		s.SetTransactionAge(30 * time.Second)
	}
}

func TestSchemaConflicts(t *testing.T) {
	s := New(t)
	setup := connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int)")
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		conn := connect(t, connConfig(t, s, adminRole))
		check := func(given string, sql string) {
			t.Helper()
			mustExec(t, setup, "comment on table t is 'changed'")
			require.NoError(t, runIn(conn, mode, given))
			failsWith(t, runIn(conn, mode, sql), schemaConflict)
			mustExec(t, conn, "rollback")
			require.NoError(t, runIn(conn, mode, sql), "the first retry clears it")
		}
		mustExec(t, conn, "select 1")
		check("show timezone", "table t")
		check("begin", "table t")
		check("show timezone", "insert into t values (1)")

		// In the middle of a transaction that has not used the table.
		mustExec(t, conn, "begin")
		mustExec(t, conn, "select 1")
		mustExec(t, setup, "grant select on t to app")
		require.NoError(t, runIn(conn, mode, "select 1"))
		failsWith(t, runIn(conn, mode, "table t"), schemaConflict)
		mustExec(t, conn, "rollback")

		// One error for several changes, and none for those before the first statement.
		mustExec(t, setup, "comment on table t is 'changed'")
		mustExec(t, setup, "comment on table t is 'changed'")
		failsWith(t, runIn(conn, mode, "table t"), schemaConflict)
		require.NoError(t, runIn(conn, mode, "table t"))
		require.NoError(t, runIn(connect(t, connConfig(t, s, adminRole)), mode, "table t"))

		// Nothing is said of a change that was rolled back.
		mustExec(t, setup, "begin")
		mustExec(t, setup, "create table u (id int)")
		mustExec(t, setup, "rollback")
		require.NoError(t, runIn(conn, mode, "table t"))

		// Who changes the schema unaware of another's change still hears of that.
		mustExec(t, conn, "begin")
		mustExec(t, conn, "create table u (id int)")
		mustExec(t, setup, "comment on table t is 'changed'")
		mustExec(t, conn, "commit")
		failsWith(t, runIn(conn, mode, "table t"), schemaConflict)
		require.NoError(t, runIn(setup, mode, "table t"))
		failsWith(t, runIn(setup, mode, "table u"), schemaConflict)
		mustExec(t, setup, "drop table u")
	}

	t.Run("lock of a change", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, adminRole))
		mustExec(t, setup, "begin")
		mustExec(t, setup, "alter table t add column n int")
		failsWith(t, runIn(conn, pgx.QueryExecModeSimpleProtocol, "table t"), schemaConflict)
		mustExec(t, setup, "rollback")
		mustExec(t, conn, "table t")
	})
	require.Positive(t, s.Transactions().SchemaConflicts)
}

// What no driver of Go's does, and others do: COPY in the extended protocol,
// where one of two Syncs is read over, and answers that are asked for with Flush.
func TestExtendedProtocol(t *testing.T) {
	s := New(t)
	conn := connect(t, connConfig(t, s, adminRole))
	mustExec(t, conn, "create table t (id int)")
	hijacked, err := conn.PgConn().Hijack()
	require.NoError(t, err)
	require.NoError(t, hijacked.Conn.SetDeadline(time.Now().Add(time.Minute)))
	frontend := hijacked.Frontend
	prepare := func(name, sql string) {
		frontend.Send(&pgproto3.Parse{Name: name, Query: sql})
		frontend.Send(&pgproto3.Bind{PreparedStatement: name})
	}
	// expect sends what there is and returns an error's text where one comes.
	expect := func(want ...pgproto3.BackendMessage) (text string) {
		t.Helper()
		require.NoError(t, frontend.Flush())
		for _, message := range want {
			got, err := frontend.Receive()
			require.NoError(t, err)
			require.IsType(t, message, got)
			if e, ok := got.(*pgproto3.ErrorResponse); ok {
				text = e.Message
			}
		}
		return text
	}
	prepared := []pgproto3.BackendMessage{&pgproto3.ParseComplete{}, &pgproto3.BindComplete{}}
	done, ready := &pgproto3.CommandComplete{}, &pgproto3.ReadyForQuery{}
	failed := &pgproto3.ErrorResponse{}

	for _, tt := range []struct {
		data string
		last pgproto3.BackendMessage
	}{{"1\n", done}, {"x\n", failed}, {strings.Repeat("1\n", rules.MaxRows+1), failed}} {
		prepare("", "copy t from stdin")
		frontend.Send(&pgproto3.Execute{})
		frontend.Send(&pgproto3.Sync{})
		expect(append(prepared, &pgproto3.CopyInResponse{})...)
		frontend.Send(&pgproto3.CopyData{Data: []byte(tt.data)})
		frontend.Send(&pgproto3.CopyDone{})
		frontend.Send(&pgproto3.Sync{})
		expect(tt.last, ready)
	}

	// Flush brings a refusal before Sync, and what follows it is read over.
	frontend.Send(&pgproto3.Query{String: "begin"})
	expect(done, ready)
	prepare("", "savepoint a")
	frontend.Send(&pgproto3.Execute{})
	frontend.Send(&pgproto3.Flush{})
	require.Equal(t, "unsupported transaction statement: SAVEPOINT", expect(append(prepared, failed)...))
	prepare("", "select 1")
	frontend.Send(&pgproto3.Execute{})
	frontend.Send(&pgproto3.Sync{})
	expect(ready)
	frontend.Send(&pgproto3.Query{String: "rollback"})
	expect(done, ready)

	// COMMIT in a series: before, a statement, after, one of a transaction of its own.
	prepare("begin", "begin")
	frontend.Send(&pgproto3.Execute{})
	prepare("write", "insert into t values (2)")
	frontend.Send(&pgproto3.Execute{})
	prepare("commit", "commit")
	frontend.Send(&pgproto3.Execute{})
	frontend.Send(&pgproto3.Flush{})
	frontend.Send(&pgproto3.Close{ObjectType: 'S', Name: "begin"})
	frontend.Send(&pgproto3.Bind{PreparedStatement: "write"})
	frontend.Send(&pgproto3.Execute{})
	frontend.Send(&pgproto3.Sync{})
	expect(append(prepared, done, prepared[0], prepared[1], done, prepared[0], prepared[1], done, &pgproto3.CloseComplete{}, prepared[1], done, ready)...)

	s.ConflictNext(1)
	frontend.Send(&pgproto3.Query{String: "begin"})
	expect(done, ready)
	frontend.Send(&pgproto3.Bind{PreparedStatement: "write"})
	frontend.Send(&pgproto3.Execute{})
	frontend.Send(&pgproto3.Bind{PreparedStatement: "commit"})
	frontend.Send(&pgproto3.Execute{})
	frontend.Send(&pgproto3.Flush{})
	require.Contains(t, conflict, expect(prepared[1], done, prepared[1], failed))
	frontend.Send(&pgproto3.Sync{})
	expect(ready)

	// A statement that failed before a refusal is the one that is told.
	prepare("", "select 1/0")
	frontend.Send(&pgproto3.Execute{})
	prepare("", "savepoint a")
	frontend.Send(&pgproto3.Execute{})
	frontend.Send(&pgproto3.Sync{})
	require.Equal(t, "division by zero", expect(prepared[0], failed, ready)) // at Bind, which plans it

	frontend.Send(&pgproto3.Query{String: "select count(*), sum(id) from t"})
	require.NoError(t, frontend.Flush())
	expect(&pgproto3.RowDescription{})
	row, err := frontend.Receive()
	require.NoError(t, err)
	require.Equal(t, &pgproto3.DataRow{Values: [][]byte{[]byte("3"), []byte("5")}}, row)
	expect(done, ready)
}
