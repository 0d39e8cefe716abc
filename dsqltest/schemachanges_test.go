package dsqltest

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

// A schema change elsewhere, in the middle of a transaction that has used what changes.
func TestSchemaChangeInMidTransaction(t *testing.T) {
	s := New(t)
	setup := connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int)")
	mustExec(t, setup, "create table other (id int)")
	mustExec(t, setup, "insert into t values (1)")

	for _, change := range []struct {
		sql   string
		waits bool // for a lock that a reader has
	}{
		{"comment on table t is 'changed'", false},
		{"grant select on t to app", false},
		{"create index async on t (id)", false},
		{"create table child (id int primary key, t int)", false}, // changes nothing that is there
		{"alter table t add column n int", true},
		{"drop table t", true},
	} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
			t.Run(change.sql+", "+mode.String(), func(t *testing.T) {
				changes := change.sql != "create table child (id int primary key, t int)"
				before := s.Transactions()
				reader, writer, bystander, gone := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
				for conn, sql := range map[*pgx.Conn]string{reader: "table t", writer: "insert into t values (2)", bystander: "table other", gone: "table t"} {
					require.NoError(t, runIn(conn, mode, "begin"))
					require.NoError(t, runIn(conn, mode, sql))
				}
				mustExec(t, gone, "rollback")
				mustExec(t, gone, "begin") // another transaction

				require.NoError(t, runIn(setup, mode, change.sql), "it waits for nobody")
				mustExec(t, bystander, "table other")
				mustExec(t, bystander, "commit")
				mustExec(t, gone, "commit")
				if !changes {
					mustExec(t, reader, "commit")
					mustExec(t, writer, "rollback")
					mustExec(t, setup, "drop table child")
					return
				}
				if !change.waits {
					require.NoError(t, runIn(reader, mode, "select 1"))
				}
				failsWith(t, runIn(reader, mode, "commit"), schemaConflict)
				require.EqualValues(t, 'I', reader.PgConn().TxStatus())
				failsWith(t, runIn(writer, mode, "commit"), schemaConflict)
				require.EqualValues(t, 2, s.Transactions().SchemaConflicts-before.SchemaConflicts)
				mustExec(t, reader, "select 1")

				mustExec(t, setup, "drop table if exists t")
				mustExec(t, setup, "create table t (id int)")
				mustExec(t, setup, "insert into t values (1)")
			})
		}
	}
}

// Who holds the lock that a schema change needs, and is between two statements.
func TestDisplacedTransaction(t *testing.T) {
	s := New(t)
	setup := connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int)")
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		for _, given := range []string{"table t", "insert into t values (1)", "comment on table t is 'changed'", "alter table t add column mine int"} {
			for _, explicit := range []bool{false, true} {
				conn := connect(t, connConfig(t, s, adminRole))
				displace := func() {
					require.NoError(t, runIn(conn, mode, "begin"))
					require.NoError(t, runIn(conn, mode, given))
					if explicit {
						require.NoError(t, runIn(setup, mode, "begin"))
					}
					require.NoError(t, runIn(setup, mode, "alter table t add column n int"))
					if explicit {
						require.NoError(t, runIn(setup, mode, "commit"))
					}
					require.EqualValues(t, 'T', conn.PgConn().TxStatus())
				}
				displace()
				failsWith(t, runIn(conn, mode, "select 1"), schemaConflict)
				require.EqualValues(t, 'E', conn.PgConn().TxStatus())
				require.ErrorContains(t, runIn(conn, mode, "select 1"), "25P02")
				mustExec(t, conn, "commit") // answers ROLLBACK
				mustExec(t, setup, "alter table t drop column n")

				conn = connect(t, connConfig(t, s, adminRole)) // has yet to hear of the change
				displace()
				require.NoError(t, runIn(conn, mode, "rollback"))
				require.EqualValues(t, 'I', conn.PgConn().TxStatus())
				mustExec(t, conn, "begin")
				mustExec(t, conn, "commit")
				mustExec(t, setup, "alter table t drop column n")
				require.Equal(t, "0", queryString(t, setup, "select count(*)::text from t"))
			}
		}
	}
}

// A statement that runs for long is not waited for either.
func TestSchemaChangeEndsStatement(t *testing.T) {
	s := New(t)
	setup := connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int)")
	mustExec(t, setup, "insert into t values (1)")
	for _, given := range []string{"select 1", "begin"} {
		reader := connect(t, connConfig(t, s, adminRole))
		mustExec(t, reader, given)
		reading := make(chan error, 1)
		go func() {
			_, err := reader.Exec(context.Background(), "select pg_sleep(600) from t")
			reading <- err
		}()
		for queryString(t, setup, "select count(*)::text from pg_stat_activity where wait_event = 'PgSleep'") == "0" {
		}
		mustExec(t, setup, "alter table t add column n int")
		failsWith(t, <-reading, schemaConflict)
		mustExec(t, reader, "rollback")
		mustExec(t, setup, "alter table t drop column n")
	}
}

// What else becomes of a transaction that has used what changed, where the change waits for
// nothing.
func TestOutdatedTransaction(t *testing.T) {
	s := New(t)
	setup := connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int)")
	mustExec(t, setup, "insert into t values (1)")
	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		conn := connect(t, connConfig(t, s, adminRole))
		outdate := func() {
			require.NoError(t, runIn(conn, mode, "begin"))
			require.NoError(t, runIn(conn, mode, "table t"))
			mustExec(t, setup, "comment on table t is 'changed'")
		}
		outdate()
		require.NoError(t, runIn(conn, mode, "rollback"))
		mustExec(t, conn, "begin")
		mustExec(t, conn, "commit")

		conn = connect(t, connConfig(t, s, adminRole)) // the one before has yet to hear of the change
		outdate()
		require.ErrorContains(t, runIn(conn, mode, "select 1/0"), "22012")
		mustExec(t, conn, "commit") // answers ROLLBACK

		conn = connect(t, connConfig(t, s, adminRole))
		outdate()
		mustExec(t, setup, "alter table t add column n int")
		failsWith(t, runIn(conn, mode, "select 1"), schemaConflict)
		mustExec(t, conn, "rollback")
		mustExec(t, setup, "alter table t drop column n")

		conn = connect(t, connConfig(t, s, adminRole))
		outdate()
		mustExec(t, setup, "update t set id = id")
		before := s.Transactions()
		require.NoError(t, runIn(conn, mode, "update t set id = 2 where current_user <> 't'"))
		failsWith(t, runIn(conn, mode, "commit"), schemaConflict)
		require.Equal(t, before.Conflicts, s.Transactions().Conflicts)
		require.Equal(t, before.SchemaConflicts+1, s.Transactions().SchemaConflicts)
	}
}

// One who has lost a conflict, too, is displaced.
func TestDisplacedLoser(t *testing.T) {
	s := New(t)
	setup, winner, loser := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int)")
	mustExec(t, setup, "insert into t values (1)")
	mustExec(t, winner, "begin")
	mustExec(t, winner, "update t set id = 2")
	mustExec(t, loser, "begin")
	mustExec(t, loser, "update t set id = 3")
	mustExec(t, winner, "commit")
	mustExec(t, setup, "alter table t add column n int")
	_, err := loser.Exec(t.Context(), "commit")
	failsWith(t, err, schemaConflict)
	require.Equal(t, "2", queryString(t, setup, "select id::text from t"))
	mustExec(t, loser, "begin")
	mustExec(t, loser, "update t set id = 4")
	mustExec(t, loser, "commit")
	require.Equal(t, "4", queryString(t, setup, "select id::text from t"))
}
