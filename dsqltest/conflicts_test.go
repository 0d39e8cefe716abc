package dsqltest

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
)

// execModes are all that pgx has.
var execModes = []pgx.QueryExecMode{
	pgx.QueryExecModeCacheStatement, pgx.QueryExecModeCacheDescribe, pgx.QueryExecModeDescribeExec,
	pgx.QueryExecModeExec, pgx.QueryExecModeSimpleProtocol,
}

// conflictTables has every pair of the tests work on rows of its own.
const conflictTables = `
	create table accounts (id int primary key, owner text unique, n int not null default 0);
	create table entries (id int primary key, account int references accounts);
	create table cascaded (id int primary key, account int references accounts on delete cascade, n int default 0);
	create table nulled (id int primary key, account int references accounts on delete set null, n int default 0);
	create table defaulted (id int primary key, account int default 0 references accounts on delete set default, n int default 0)`

func connectToConflicts(t *testing.T, s *Server) *pgx.Conn {
	setup := connect(t, connConfig(t, s, adminRole))
	for sql := range strings.SplitSeq(conflictTables, ";") {
		mustExec(t, setup, sql)
	}
	return setup
}

func resetConflicts(t *testing.T, setup *pgx.Conn) {
	for _, sql := range []string{
		"delete from entries", "delete from cascaded", "delete from nulled", "delete from defaulted", "delete from accounts",
		"insert into accounts select i, 'owner ' || i from generate_series(0, 4) i",
		"insert into cascaded values (1, 1)", "insert into nulled values (1, 1)", "insert into defaulted values (1, 1)",
	} {
		mustExec(t, setup, sql)
	}
}

// execute runs a statement without arguments in the simple or the extended protocol, and returns
// its tag.
func execute(t *testing.T, conn *pgx.Conn, mode pgx.QueryExecMode, sql string) string {
	t.Helper()
	var tag pgconn.CommandTag
	var err error
	if mode == pgx.QueryExecModeSimpleProtocol {
		tag, err = conn.Exec(t.Context(), sql)
	} else {
		tag, err = conn.PgConn().ExecParams(t.Context(), sql, nil, nil, nil, nil).Close()
	}
	require.NoError(t, err, sql)
	return tag.String()
}

// What conflicts with what: the second session's statements succeed in any case.
func TestConflicts(t *testing.T) {
	s := New(t)
	setup := connectToConflicts(t, s)
	const addOne, lock, keep = "update accounts set n = n + 1 where id = 1", "select n from accounts where id = 1 for update", "select n from accounts where id = 1 for key share"
	for _, tt := range []struct {
		name              string
		first, second     string
		firstTag, lastTag string
		conflict          bool
	}{
		{"write/write", addOne, addOne, "UPDATE 1", "UPDATE 1", true},
		{"a write of several rows", "update accounts set n = 1 where id < 3", "update accounts set n = 2 where id > 1", "UPDATE 3", "UPDATE 3", true},
		{"different rows", addOne, "update accounts set n = n + 1 where id = 2", "UPDATE 1", "UPDATE 1", false},
		{"delete/write", "delete from accounts where id = 4", "update accounts set n = 1 where id = 4", "DELETE 1", "UPDATE 1", true},
		{"FOR UPDATE/write", lock, addOne, "SELECT 1", "UPDATE 1", true},
		{"write/FOR UPDATE", addOne, lock, "UPDATE 1", "SELECT 1", true},
		{"write/FOR UPDATE NOWAIT", addOne, lock + " nowait", "UPDATE 1", "SELECT 1", true},
		{"FOR KEY SHARE/delete", "select n from accounts where id = 4 for key share", "delete from accounts where id = 4", "SELECT 1", "DELETE 1", true},
		{"delete/FOR KEY SHARE", "delete from accounts where id = 4", "select n from accounts where id = 4 for key share", "DELETE 1", "SELECT 1", true},
		{"FOR KEY SHARE/write of no key", keep, addOne, "SELECT 1", "UPDATE 1", false},
		{"parent's delete/child's insert", "delete from accounts where id = 2", "insert into entries values (1, 2)", "DELETE 1", "INSERT 0 1", true},
		{"child's insert/parent's delete", "insert into entries values (1, 2)", "delete from accounts where id = 2", "INSERT 0 1", "DELETE 1", true},
		{"child's insert/parent's other columns", "insert into entries values (1, 1)", addOne, "INSERT 0 1", "UPDATE 1", false},
		{"cascade/child's write", "delete from accounts where id = 1", "update cascaded set n = 1", "DELETE 1", "UPDATE 1", true},
		{"child's write/cascade", "update cascaded set n = 1", "delete from accounts where id = 1", "UPDATE 1", "DELETE 1", true},
		{"set null/child's write", "delete from accounts where id = 1", "update nulled set n = 1", "DELETE 1", "UPDATE 1", true},
		{"set default/child's write", "delete from accounts where id = 1", "update defaulted set n = 1", "DELETE 1", "UPDATE 1", true},
		{"same key", "insert into accounts values (9)", "insert into accounts values (9)", "INSERT 0 1", "INSERT 0 1", true},
		{"same unique value", "insert into accounts values (8, 'same')", "insert into accounts values (9, 'same')", "INSERT 0 1", "INSERT 0 1", true},
		{"upserts", "insert into accounts values (1) on conflict (id) do update set n = 7", "insert into accounts values (1) on conflict (id) do update set n = 8", "INSERT 0 1", "INSERT 0 1", true},
		{"upserts of a new row", "insert into accounts values (9) on conflict do nothing", "insert into accounts values (9) on conflict (id) do update set n = 8", "INSERT 0 1", "INSERT 0 1", true},
	} {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
			t.Run(tt.name+", "+mode.String(), func(t *testing.T) {
				resetConflicts(t, setup)
				before := s.Transactions()
				winner, loser := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
				mustExec(t, winner, "begin")
				mustExec(t, loser, "begin")
				require.Equal(t, tt.firstTag, execute(t, winner, mode, tt.first))
				require.Equal(t, tt.lastTag, execute(t, loser, mode, tt.second))
				require.EqualValues(t, 'T', loser.PgConn().TxStatus())
				require.Equal(t, before, s.Transactions(), "nobody knows yet")
				require.NoError(t, runIn(winner, mode, "commit"))
				err := runIn(loser, mode, "commit")
				require.EqualValues(t, 'I', loser.PgConn().TxStatus())
				after := s.Transactions()
				if !tt.conflict {
					require.NoError(t, err)
					require.Equal(t, before.Applied+2, after.Applied)
					require.Equal(t, before.Conflicts, after.Conflicts)
					return
				}
				failsWith(t, err, conflict)
				require.Equal(t, before.Applied+1, after.Applied)
				require.Equal(t, before.Conflicts+1, after.Conflicts)
			})
		}
	}

	for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
		t.Run("after the other's commit, "+mode.String(), func(t *testing.T) {
			for _, tt := range []struct{ first, second string }{
				{addOne, addOne},
				{"insert into accounts values (9)", "insert into accounts values (9)"},
				{"insert into entries values (1, 3)", "delete from accounts where id = 3"},
				{"delete from accounts where id = 3", "insert into entries values (1, 3)"},
				{"insert into accounts values (9)", "insert into accounts values (9) on conflict (id) do update set n = 1"},
				{"insert into accounts values (9)", "insert into accounts values (9) on conflict do nothing"},
			} {
				resetConflicts(t, setup)
				winner, loser := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
				mustExec(t, loser, "begin")
				require.Equal(t, "5", queryString(t, loser, "select count(*)::text from accounts"))
				execute(t, winner, mode, tt.first)
				execute(t, loser, mode, tt.second)
				failsWith(t, runIn(loser, mode, "commit"), conflict)
			}
		})

		t.Run("in autocommit, "+mode.String(), func(t *testing.T) {
			resetConflicts(t, setup)
			winner, loser := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
			mustExec(t, winner, "begin")
			mustExec(t, winner, addOne)
			failsWith(t, runIn(loser, mode, addOne), conflict)
			require.EqualValues(t, 'I', loser.PgConn().TxStatus())
			mustExec(t, winner, "commit")
			require.NoError(t, runIn(loser, mode, addOne))
		})

		t.Run("errors that are none, "+mode.String(), func(t *testing.T) {
			resetConflicts(t, setup)
			conn := connect(t, connConfig(t, s, adminRole))
			for _, tt := range []struct{ sql, want string }{
				{"update accounts set wrong = 1", `42703: column "wrong" of relation "accounts" does not exist`},
				{"insert into accounts values (1)", `23505: duplicate key value violates unique constraint "accounts_pkey"`},
				{"insert into entries values (1, 100)", `23503: insert or update on table "entries" violates foreign key constraint "entries_account_fkey"`},
				{"update accounts set n = 1/0", "22012: division by zero"},
			} {
				for _, first := range []string{"select 1", addOne} { // a savepoint is prepared, or is there
					mustExec(t, conn, "begin")
					require.NoError(t, runIn(conn, mode, first))
					failsWith(t, runIn(conn, mode, tt.sql), tt.want)
					require.EqualValues(t, 'E', conn.PgConn().TxStatus())
					mustExec(t, conn, "commit") // answers ROLLBACK
				}
			}
			mustExec(t, conn, "begin")
			_, err := conn.Exec(t.Context(), "select 'é'; update accounts set wrong = 1", pgx.QueryExecModeSimpleProtocol)
			var pgErr *pgconn.PgError
			require.ErrorAs(t, err, &pgErr)
			require.EqualValues(t, 33, pgErr.Position)
			mustExec(t, conn, "rollback")
		})
	}

	t.Run("what cannot be carried on", func(t *testing.T) {
		mustExec(t, setup, "create function touch() returns int language sql as 'update accounts set n = n + 1 where id = 1 returning n'")
		mustExec(t, setup, `create table "a ""name""" (id int)`)
		mustExec(t, setup, `insert into "a ""name""" values (1)`)
		resetConflicts(t, setup)
		for _, tt := range []struct{ first, second string }{
			{addOne, "select touch()"},
			{`update "a ""name""" set id = 2`, `update public."a ""name""" set id = 3`},
		} {
			for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeExec} {
				before := s.Transactions()
				winner, loser := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
				mustExec(t, winner, "begin")
				mustExec(t, loser, "begin")
				require.NoError(t, runIn(winner, mode, tt.first))
				failsWith(t, runIn(loser, mode, tt.second), conflict)
				require.EqualValues(t, 'E', loser.PgConn().TxStatus())
				mustExec(t, loser, "commit") // answers ROLLBACK
				require.Equal(t, before.Conflicts+1, s.Transactions().Conflicts)
				mustExec(t, winner, "rollback")
			}
		}
	})

	t.Run("readers do not conflict", func(t *testing.T) {
		resetConflicts(t, setup)
		writer, reader := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
		mustExec(t, writer, "begin")
		mustExec(t, writer, addOne)
		mustExec(t, reader, "begin")
		mustExec(t, reader, "select * from accounts")
		mustExec(t, writer, "commit")
		mustExec(t, reader, "select * from accounts")
		mustExec(t, reader, "commit")
	})
}

// Two sessions update one row, as an application does.
func TestTwoUpdatesOfOneRow(t *testing.T) {
	const update = "update accounts set n = n + $1::int where id = $2 returning n"
	s := New(t)
	setup := connectToConflicts(t, s)

	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			resetConflicts(t, setup)
			winner, loser := connectIn(t, s, mode), connectIn(t, s, mode)
			add := func(conn *pgx.Conn, n int) (value int) {
				t.Helper()
				require.NoError(t, conn.QueryRow(t.Context(), update, n, 1).Scan(&value))
				return value
			}
			for range 3 { // with cached statements, too
				mustExec(t, setup, "update accounts set n = 0")
				mustExec(t, winner, "begin")
				mustExec(t, loser, "begin")
				require.Equal(t, 10, add(winner, 10))
				require.Equal(t, 1, add(loser, 1))
				require.Equal(t, 3, add(loser, 2))
				require.Equal(t, "3", queryString(t, loser, "select n::text from accounts where id = 1"))
				mustExec(t, winner, "commit")
				require.Equal(t, 6, add(loser, 3))
				_, err := loser.Exec(t.Context(), "commit")
				failsWith(t, err, conflict)
				require.Equal(t, "10", queryString(t, loser, "select n::text from accounts where id = 1"))
				mustExec(t, loser, "begin")
				require.Equal(t, 11, add(loser, 1))
				mustExec(t, loser, "commit")
			}
		})
	}

	t.Run("database/sql", func(t *testing.T) {
		resetConflicts(t, setup)
		db, err := dsql.OpenDB(t.Context(), s.Config())
		require.NoError(t, err)
		defer db.Close()
		begin := func() *sql.Tx {
			tx, err := db.BeginTx(t.Context(), nil)
			require.NoError(t, err)
			return tx
		}
		add := func(tx *sql.Tx, n int) (value int) {
			require.NoError(t, tx.QueryRowContext(t.Context(), update, n, 1).Scan(&value))
			return value
		}
		winner, loser := begin(), begin()
		require.Equal(t, 10, add(winner, 10))
		require.Equal(t, 1, add(loser, 1))
		require.NoError(t, winner.Commit())
		require.Equal(t, 2, add(loser, 1))
		failsWith(t, loser.Commit(), conflict)
	})

	t.Run("psql", func(t *testing.T) {
		psql, err := exec.LookPath("psql")
		if err != nil {
			t.Skip("psql is not installed")
		}
		resetConflicts(t, setup)
		winner := connect(t, connConfig(t, s, adminRole))
		mustExec(t, winner, "begin")
		mustExec(t, winner, "update accounts set n = 10 where id = 1")
		command := exec.CommandContext(t.Context(), psql, "-XAt", "-h", "localhost", "-p", s.Addr()[strings.LastIndexByte(s.Addr(), ':')+1:],
			"-U", adminRole, "-d", "postgres")
		command.Env = append(os.Environ(), "PGSSLMODE=require", "PGPASSWORD="+sign(t, s, signing{user: adminRole}),
			"PGOPTIONS=-c amzn-cluster-id="+s.ClusterID())
		command.Stdin = strings.NewReader("begin;\nupdate accounts set n = n + 1 where id = 1 returning n;\nselect n from accounts where id = 1;\ncommit;\n")
		out, err := command.CombinedOutput()
		require.NoError(t, err, string(out))
		require.Equal(t, "BEGIN\n1\nUPDATE 1\n1\nERROR:  change conflicts with another transaction (OC000)\n", string(out))
		mustExec(t, winner, "commit")
	})
}

// A transaction that has lost goes on as one that has not, up to its COMMIT.
func TestAfterHavingLost(t *testing.T) {
	s := New(t)
	setup := connectToConflicts(t, s)
	mustExec(t, setup, "create view balances as select owner, n from accounts")
	mustExec(t, setup, "create table other (id bigint generated by default as identity (cache 1) primary key, note text)")
	mustExec(t, setup, "create schema apart")
	mustExec(t, setup, "create table apart.accounts (id int primary key)")
	mustExec(t, setup, `create table apart."two words" (id int primary key, n int)`)
	mustExec(t, setup, `insert into apart."two words" values (1, 0)`)

	// lose returns a transaction that has written before it lost.
	lose := func(t *testing.T, mode pgx.QueryExecMode) *pgx.Conn {
		resetConflicts(t, setup)
		winner, loser := connect(t, connConfig(t, s, adminRole)), connectIn(t, s, mode)
		mustExec(t, winner, "begin")
		mustExec(t, winner, "update accounts set n = 10 where id = 1")
		mustExec(t, loser, "begin")
		mustExec(t, loser, "update accounts set n = 20 where id = 2")
		mustExec(t, loser, "insert into entries values (1, 2)")
		mustExec(t, loser, "update accounts set n = 30 where id = 1")
		mustExec(t, winner, "commit")
		return loser
	}
	end := func(t *testing.T, conn *pgx.Conn, mode pgx.QueryExecMode) {
		t.Helper()
		require.EqualValues(t, 'T', conn.PgConn().TxStatus())
		failsWith(t, runIn(conn, mode, "commit"), conflict)
		require.Equal(t, "10", queryString(t, conn, "select n::text from accounts where id = 1"))
		require.Equal(t, "0", queryString(t, conn, "select n::text from accounts where id = 2"))
		require.Equal(t, "0", queryString(t, conn, "select count(*)::text from entries"))
	}
	for _, mode := range execModes {
		t.Run(mode.String(), func(t *testing.T) {
			conn := lose(t, mode)
			ids := func() string {
				return queryString(t, conn, "select string_agg(id || ':' || n, ' ' order by id) from accounts")
			}
			require.Equal(t, "0:0 1:30 2:20 3:0 4:0", ids())
			require.Equal(t, "30", queryString(t, conn, "select n::text from balances where owner = 'owner 1'"))
			require.Equal(t, "1", queryString(t, conn, "select count(*)::text from entries join accounts a on a.id = account"))
			require.Equal(t, "public", queryString(t, conn, "select current_schema()::text"))

			_, err := conn.Exec(t.Context(), "insert into accounts values ($1, 'new', 5) on conflict (id) do update set n = excluded.n", 3)
			require.NoError(t, err)
			_, err = conn.Exec(t.Context(), "insert into accounts values ($1, 'newer', 6) on conflict on constraint accounts_pkey do nothing", 6)
			require.NoError(t, err)
			require.Equal(t, "0:0 1:30 2:20 3:5 4:0 6:6", ids())

			mustExec(t, conn, "delete from accounts where id = 1")
			require.Equal(t, "0", queryString(t, conn, "select count(*)::text from cascaded"))
			require.Equal(t, "1", queryString(t, conn, "select count(*)::text from nulled where account is null"))
			require.Equal(t, "1", queryString(t, conn, "select count(*)::text from defaulted where account = 0"))

			n, err := conn.CopyFrom(t.Context(), pgx.Identifier{"accounts"}, []string{"id", "n"}, pgx.CopyFromRows([][]any{{7, 7}, {8, 8}}))
			require.NoError(t, err)
			require.EqualValues(t, 2, n)
			require.Equal(t, "0:0 2:20 3:5 4:0 6:6 7:7 8:8", ids())

			mustExec(t, conn, "update public.accounts set n = $1 where public.accounts.id = 7", 70)
			require.Equal(t, "70", queryString(t, conn, `select "public"."accounts".n::text from "public"."accounts" where id = 7`))
			const notes = "select count(*)::text from other"
			require.Equal(t, "0", queryString(t, conn, notes))
			mustExec(t, conn, "insert into other (note) values ($1)", "not linked")
			require.Equal(t, "1", queryString(t, conn, notes), "although it was planned before the copy was made")
			require.Equal(t, "not linked", queryString(t, conn, "select note from other"))
			end(t, conn, mode)
			require.Equal(t, "0", queryString(t, conn, "select count(*)::text from other"))
		})
	}

	t.Run("is in nobody's way", func(t *testing.T) {
		for _, mode := range execModes {
			resetConflicts(t, setup)
			winner, loser, third := connectIn(t, s, mode), connectIn(t, s, mode), connectIn(t, s, mode)
			mustExec(t, winner, "begin")
			mustExec(t, winner, "update accounts set n = n + $1 where id = 1", 1)
			mustExec(t, loser, "begin")
			mustExec(t, loser, "insert into other (note) values ($1)", "before")
			mustExec(t, loser, "update accounts set n = n + $1 where id = 2", 2)
			mustExec(t, loser, "insert into entries values ($1, 2)", 7)
			mustExec(t, loser, "update accounts set n = n + $1 where id = 1", 2)
			require.Equal(t, "1:2 2:2", queryString(t, loser, "select string_agg(id || ':' || n, ' ' order by id) from accounts where id in (1, 2)"))
			require.Equal(t, "before", queryString(t, loser, "select note from other"))
			require.Equal(t, "2", queryString(t, loser, "select account::text from entries"))

			mustExec(t, winner, "update accounts set n = n + $1 where id = 2", 1)
			mustExec(t, loser, "update accounts set n = n + $1 where id = 3", 2)
			mustExec(t, third, "update accounts set n = n + $1 where id = 3", 1) // in autocommit
			mustExec(t, winner, "commit")
			require.Equal(t, "1:2 2:2 3:2", queryString(t, loser, "select string_agg(id || ':' || n, ' ' order by id) from accounts where id in (1, 2, 3)"))
			_, err := loser.Exec(t.Context(), "commit")
			failsWith(t, err, conflict)
			require.Equal(t, "1:1 2:1 3:1", queryString(t, loser, "select string_agg(id || ':' || n, ' ' order by id) from accounts where id in (1, 2, 3)"))
			require.Equal(t, "0", queryString(t, loser, "select count(*)::text from other"))
		}
	})

	t.Run("loses again elsewhere", func(t *testing.T) {
		for _, mode := range execModes {
			conn := lose(t, mode)
			winner := connect(t, connConfig(t, s, adminRole))
			mustExec(t, winner, `update apart."two words" set n = 1`)
			mustExec(t, conn, `update apart."two words" set n = n + $1`, 5)
			require.Equal(t, "5", queryString(t, conn, `select n::text from apart."two words"`))
			require.Equal(t, "30", queryString(t, conn, "select n::text from accounts where id = 1"))
			end(t, conn, mode)
			mustExec(t, setup, `update apart."two words" set n = 0`)
		}
	})

	t.Run("by COPY", func(t *testing.T) {
		for _, mode := range execModes {
			resetConflicts(t, setup)
			winner, loser := connect(t, connConfig(t, s, adminRole)), connectIn(t, s, mode)
			mustExec(t, winner, "begin")
			mustExec(t, winner, "insert into accounts values (1002)")
			mustExec(t, loser, "begin")
			rows := make([][]any, 1000)
			for i := range rows {
				rows[i] = []any{1000 + i, strings.Repeat("x", 100) + string(rune('a'+i%26)) + strings.Repeat("y", i)}
			}
			n, err := loser.CopyFrom(t.Context(), pgx.Identifier{"accounts"}, []string{"id", "owner"}, pgx.CopyFromRows(rows))
			require.NoError(t, err)
			require.EqualValues(t, len(rows), n)
			require.Equal(t, "1005", queryString(t, loser, "select count(*)::text from accounts"))
			mustExec(t, winner, "commit")
			_, err = loser.Exec(t.Context(), "commit")
			failsWith(t, err, conflict)
			require.Equal(t, "6", queryString(t, loser, "select count(*)::text from accounts"))
		}
	})

	t.Run("an error", func(t *testing.T) {
		for _, mode := range execModes {
			conn := lose(t, mode)
			failsWith(t, runIn(conn, mode, "insert into accounts values (1)"), `23505: duplicate key value violates unique constraint "accounts_pkey"`)
			require.EqualValues(t, 'E', conn.PgConn().TxStatus())
			mustExec(t, conn, "rollback")
			require.Equal(t, "10", queryString(t, conn, "select n::text from accounts where id = 1"))
		}
	})

	t.Run("too many rows", func(t *testing.T) {
		conn := lose(t, execModes[0])
		mustExec(t, conn, "insert into accounts (id) select generate_series(10, 3005)") // and three others
		_, err := conn.Exec(t.Context(), "insert into accounts (id) values (10000), (10001)")
		failsWith(t, err, "54000: transaction row limit exceeded")
		mustExec(t, conn, "rollback")
	})

	t.Run("rolled back", func(t *testing.T) {
		before := s.Transactions().Conflicts
		conn := lose(t, execModes[0])
		mustExec(t, conn, "rollback")
		require.Equal(t, before, s.Transactions().Conflicts)
		mustExec(t, conn, "begin")
		mustExec(t, conn, "update accounts set n = 11 where id = 1")
		mustExec(t, conn, "commit")
	})

	t.Run("by a role that may not do all", func(t *testing.T) {
		resetConflicts(t, setup)
		mustExec(t, setup, "grant select, update on accounts to app")
		winner, loser := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, "app"))
		mustExec(t, winner, "begin")
		mustExec(t, winner, "update accounts set n = 10 where id = 1")
		mustExec(t, loser, "begin")
		mustExec(t, loser, "update accounts set n = 1 where id = 1")
		require.Equal(t, "1", queryString(t, loser, "select n::text from accounts where id = 1"))
		_, err := loser.Exec(t.Context(), "delete from accounts")
		failsWith(t, err, "42501: permission denied for table accounts")
		mustExec(t, loser, "rollback")
		mustExec(t, winner, "rollback")
	})

	t.Run("with faults", func(t *testing.T) {
		for _, fault := range []CommitFault{BeforeCommit, AfterCommit} {
			before := s.Transactions()
			conn := lose(t, execModes[0])
			s.CutNext(1, fault)
			_, err := conn.Exec(t.Context(), "commit")
			require.Error(t, err)
			require.NotErrorAs(t, err, new(*pgconn.PgError))
			require.Equal(t, "0", queryString(t, setup, "select n::text from accounts where id = 2"))
			require.Equal(t, before.Cuts+1, s.Transactions().Cuts)
			require.Equal(t, before.Conflicts, s.Transactions().Conflicts)
		}
	})

	t.Run("in one batch", func(t *testing.T) {
		resetConflicts(t, setup)
		winner, loser := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
		mustExec(t, winner, "begin")
		mustExec(t, winner, "update accounts set n = 10 where id = 1")
		var batch pgx.Batch
		batch.Queue("begin")
		batch.Queue("update accounts set n = n + $1 where id = 1 returning n", 1)
		batch.Queue("update accounts set n = n + $1 where id = 1 returning n", 2)
		batch.Queue("select n from accounts where id = 1")
		results := loser.SendBatch(context.Background(), &batch)
		_, err := results.Exec()
		require.NoError(t, err)
		for _, want := range []int{1, 3, 3} {
			var n int
			require.NoError(t, results.QueryRow().Scan(&n))
			require.Equal(t, want, n)
		}
		require.NoError(t, results.Close())
		mustExec(t, winner, "commit")
		_, err = loser.Exec(t.Context(), "commit")
		failsWith(t, err, conflict)
	})
}

// Other drivers than Go's send COPY in the extended protocol, with a Sync that is read over.
func TestExtendedCopyConflicts(t *testing.T) {
	s := New(t)
	setup := connectToConflicts(t, s)
	for _, conflicts := range []bool{false, true} {
		resetConflicts(t, setup)
		winner := connect(t, connConfig(t, s, adminRole))
		mustExec(t, winner, "begin")
		if conflicts {
			mustExec(t, winner, "insert into accounts values (12)")
		}
		hijacked, err := connect(t, connConfig(t, s, adminRole)).PgConn().Hijack()
		require.NoError(t, err)
		require.NoError(t, hijacked.Conn.SetDeadline(time.Now().Add(time.Minute)))
		frontend := hijacked.Frontend
		expect := func(want ...pgproto3.BackendMessage) (last pgproto3.BackendMessage) {
			t.Helper()
			require.NoError(t, frontend.Flush())
			for _, message := range want {
				last, err = frontend.Receive()
				require.NoError(t, err)
				require.IsType(t, message, last)
			}
			return last
		}
		frontend.SendQuery(&pgproto3.Query{String: "begin"})
		expect(&pgproto3.CommandComplete{}, &pgproto3.ReadyForQuery{})
		for first := 10; first < 30; first += 10 { // the second is after the conflict
			frontend.SendParse(&pgproto3.Parse{Query: "copy accounts (id) from stdin"})
			frontend.SendBind(&pgproto3.Bind{})
			frontend.SendExecute(&pgproto3.Execute{})
			frontend.SendSync(&pgproto3.Sync{})
			expect(&pgproto3.ParseComplete{}, &pgproto3.BindComplete{}, &pgproto3.CopyInResponse{})
			for i := range 5 {
				frontend.Send(&pgproto3.CopyData{Data: fmt.Appendf(nil, "%d\n", first+i)})
			}
			frontend.Send(&pgproto3.CopyDone{})
			frontend.SendSync(&pgproto3.Sync{})
			require.NoError(t, frontend.Flush())
			done := expect(&pgproto3.CommandComplete{})
			require.Equal(t, "COPY 5", string(done.(*pgproto3.CommandComplete).CommandTag))
			require.Equal(t, byte('T'), expect(&pgproto3.ReadyForQuery{}).(*pgproto3.ReadyForQuery).TxStatus)
		}
		mustExec(t, winner, "commit")
		frontend.SendQuery(&pgproto3.Query{String: "commit"})
		if !conflicts {
			expect(&pgproto3.CommandComplete{}, &pgproto3.ReadyForQuery{})
			require.Equal(t, "15", queryString(t, setup, "select count(*)::text from accounts"))
			continue
		}
		failure := expect(&pgproto3.ErrorResponse{}).(*pgproto3.ErrorResponse)
		require.Equal(t, conflict, failure.Code+": "+failure.Message)
		expect(&pgproto3.ReadyForQuery{})
		require.Equal(t, "6", queryString(t, setup, "select count(*)::text from accounts"))
	}
}
