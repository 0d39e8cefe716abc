package dsql_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgtype"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

func TestOpenDB(t *testing.T) {
	name := table(t, "id int primary key, name text")
	db, err := dsql.OpenDB(t.Context(), server.Config())
	require.NoError(t, err)
	defer db.Close()

	tx, err := db.BeginTx(t.Context(), nil)
	require.NoError(t, err)
	_, err = tx.ExecContext(t.Context(), "insert into "+name+" values ($1, $2)", 1, "one")
	require.NoError(t, err)
	require.NoError(t, tx.Commit())

	stmt, err := db.PrepareContext(t.Context(), "select name from "+name+" where id = $1")
	require.NoError(t, err)
	defer stmt.Close()
	var got string
	require.NoError(t, stmt.QueryRowContext(t.Context(), 1).Scan(&got))
	require.Equal(t, "one", got)

	conn, err := db.Conn(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.Raw(func(driverConn any) error {
		pgxConn := driverConn.(interface{ Conn() *pgx.Conn }).Conn()
		require.Equal(t, "admin", selectUser(t, pgxConn))
		require.PanicsWithError(t, "interface conversion: interface {} is *dsql.sqlConn, not *stdlib.Conn", func() {
			_ = driverConn.(*stdlib.Conn)
		})
		return nil
	}))
}

// AfterConnect runs on each new connection, behind what tune sets by pgconn's own hook.
func TestAfterConnect(t *testing.T) {
	var calls []string
	called := func(name string) func(*pgx.ConnConfig) {
		return dsql.AfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
			calls = append(calls, name)
			conn.TypeMap().RegisterType(&pgtype.Type{Name: name, OID: pgtype.Int4OID, Codec: pgtype.Int4Codec{}})
			_, err := conn.Exec(ctx, "set application_name = '"+name+"'")
			return err
		})
	}
	tune := []func(*pgx.ConnConfig){
		func(cc *pgx.ConnConfig) {
			cc.AfterConnect = func(context.Context, *pgconn.PgConn) error { calls = append(calls, "pgconn"); return nil }
		},
		called("one"), called("two"),
	}
	check := func(conn *pgx.Conn) {
		require.Equal(t, []string{"pgconn", "one", "two"}, calls)
		_, ok := conn.TypeMap().TypeForName("two")
		require.True(t, ok)
		var name string
		require.NoError(t, conn.QueryRow(t.Context(), "show application_name").Scan(&name))
		require.Equal(t, "two", name)
		calls = nil
	}
	single, err := dsql.Connect(t.Context(), server.Config(), tune...)
	require.NoError(t, err)
	check(single)
	require.NoError(t, single.Close(t.Context()))

	db, err := dsql.OpenDB(t.Context(), server.Config(), tune...)
	require.NoError(t, err)
	defer db.Close()
	for range 2 { // each is a new connection
		conn, err := db.Conn(t.Context())
		require.NoError(t, err)
		defer conn.Close()
		require.NoError(t, conn.Raw(func(driverConn any) error { check(driverConn.(interface{ Conn() *pgx.Conn }).Conn()); return nil }))
	}

	sessions := server.Sessions()
	refused := errors.New("not this one")
	fail := dsql.AfterConnect(func(context.Context, *pgx.Conn) error { return refused })
	_, err = dsql.Connect(t.Context(), server.Config(), fail)
	require.ErrorIs(t, err, refused)
	broken, err := dsql.OpenDB(t.Context(), server.Config(), fail)
	require.NoError(t, err)
	defer broken.Close()
	require.ErrorIs(t, broken.PingContext(t.Context()), refused)
	require.Eventually(t, func() bool { return server.Sessions() <= sessions }, 10*time.Second, time.Millisecond, "closed")
}

func TestOpenDBPool(t *testing.T) {
	c := server.Config()
	c.Params = map[string]string{"pool_max_conns": "3"}
	db, err := dsql.OpenDB(t.Context(), c)
	require.NoError(t, err)
	defer db.Close()
	require.Equal(t, 3, db.Stats().MaxOpenConnections)

	// All stay open; by default database/sql would keep two.
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			_, err := db.ExecContext(t.Context(), "select pg_sleep(0.2)")
			require.NoError(t, err)
		})
	}
	wg.Wait()
	require.Equal(t, 3, db.Stats().Idle)
}

// Connections are closed at the end of their lifetime, when they return to the pool or are taken
// from it.
func TestOpenDBLifetime(t *testing.T) {
	pid := func(t *testing.T, db *sql.DB) (pid int) {
		t.Helper()
		require.NoError(t, db.QueryRowContext(t.Context(), "select pg_backend_pid()").Scan(&pid))
		return pid
	}
	c := server.Config()
	c.Params = map[string]string{"pool_max_conn_lifetime": "1ms", "pool_max_conn_lifetime_jitter": "0s"}
	db, err := dsql.OpenDB(t.Context(), c)
	require.NoError(t, err)
	defer db.Close()
	require.NotEqual(t, pid(t, db), pid(t, db))

	c.Params = nil
	db, err = dsql.OpenDB(t.Context(), c)
	require.NoError(t, err)
	defer db.Close()
	require.Equal(t, pid(t, db), pid(t, db))
}

func TestSQLOpen(t *testing.T) {
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, server.CAPEM(), 0o600))
	t.Setenv("AWS_ACCESS_KEY_ID", server.Credentials().AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", server.Credentials().SecretAccessKey)
	dsn := "dsql://app@" + publicName + "/postgres?dial_address=" + url.QueryEscape(server.Addr()) +
		"&sslrootcert=" + url.QueryEscape(ca) + "&application_name=tools&sslmode=require&tokenDurationSecs=60"
	db, err := sql.Open("dsql", dsn)
	require.NoError(t, err)
	defer db.Close()
	var user, application string
	require.NoError(t, db.QueryRowContext(t.Context(), "select current_user, current_setting('application_name')").Scan(&user, &application))
	require.Equal(t, "app", user)
	require.Equal(t, "tools", application)

	_, err = sql.Open("dsql", "postgres://"+publicName+"/?sslmode=disable")
	require.ErrorIs(t, err, dsql.ErrConfig)
}

func TestSQLConnHonoursContext(t *testing.T) {
	db, err := dsql.OpenDB(t.Context(), server.Config())
	require.NoError(t, err)
	defer db.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = db.ExecContext(ctx, "select pg_sleep(30)")
	require.Error(t, err)
	require.NoError(t, db.PingContext(t.Context()))
}

// A connection ends while a statement commits: database/sql must not run the statement again.
func TestSQLConnAppliesOnce(t *testing.T) {
	s := dsqltest.New(t)
	tables := 0
	for _, mode := range []string{"cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol"} {
		c := s.Config()
		c.Params = map[string]string{"default_query_exec_mode": mode}
		db, err := dsql.OpenDB(t.Context(), c)
		require.NoError(t, err)
		defer db.Close()
		insert := func(ctx context.Context, table string) error {
			_, err := db.ExecContext(ctx, "insert into "+table+" values (1)")
			return err
		}
		for name, write := range map[string]func(ctx context.Context, table string) error{
			"Exec": insert,
			"Exec with an argument": func(ctx context.Context, table string) error {
				_, err := db.ExecContext(ctx, "insert into "+table+" values ($1)", 1)
				return err
			},
			"Query": func(ctx context.Context, table string) error {
				return db.QueryRowContext(ctx, "insert into "+table+" values ($1) returning id", 1).Scan(new(int))
			},
			"a prepared statement": func(ctx context.Context, table string) error {
				stmt, err := db.PrepareContext(ctx, "insert into "+table+" values (1)")
				require.NoError(t, err)
				defer stmt.Close()
				_, err = stmt.ExecContext(ctx)
				return err
			},
			"Retry": func(ctx context.Context, table string) error {
				err := dsqltx.Retry(ctx, func(ctx context.Context) error { return insert(ctx, table) })
				require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
				return err
			},
		} {
			t.Run(mode+" "+name, func(t *testing.T) {
				tables++
				table := fmt.Sprint("once_", tables)
				_, err := db.ExecContext(t.Context(), "create table "+table+" (id int)")
				require.NoError(t, err)
				s.CutNext(1, dsqltest.AfterCommit)
				require.Error(t, write(t.Context(), table))
				var rows int
				require.NoError(t, db.QueryRowContext(t.Context(), "select count(*) from "+table).Scan(&rows))
				require.Equal(t, 1, rows)
			})
		}
	}
}

// The same if no byte of the answer comes. With the simple protocol pgx then takes the query for
// unsent.
func TestSQLConnQueriesOnce(t *testing.T) {
	s := dsqltest.New(t)
	for _, effect := range []dsqltest.Effect{dsqltest.HangUp, dsqltest.Reset, dsqltest.Garbage} {
		for _, mode := range []string{"exec", "simple_protocol"} {
			t.Run(mode+" "+effect.String(), func(t *testing.T) {
				c := s.Config()
				conn, err := dsql.Connect(t.Context(), c)
				require.NoError(t, err)
				defer conn.Close(t.Context())
				_, err = conn.Exec(t.Context(), "drop table if exists once")
				require.NoError(t, err)
				_, err = conn.Exec(t.Context(), "create table once (id int)")
				require.NoError(t, err)

				c.Params = map[string]string{"default_query_exec_mode": mode}
				db, err := dsql.OpenDB(t.Context(), c)
				require.NoError(t, err)
				defer db.Close()
				s.SetFaults(first(dsqltest.Fault{Phase: dsqltest.OnQuery, Effect: effect}))
				require.Error(t, db.QueryRowContext(t.Context(), "insert into once values ($1) returning id", 1).Scan(new(int)))
				var rows int
				require.NoError(t, conn.QueryRow(t.Context(), "select count(*) from once").Scan(&rows))
				require.LessOrEqual(t, rows, 1)
			})
		}
	}
}

// As with pgxpool, a pool_ping_timeout of 0 means no limit.
func TestSQLConnPingUnbounded(t *testing.T) {
	c := server.Config()
	c.Params = map[string]string{"pool_ping_timeout": "0s"}
	connector, err := dsql.NewConnector(t.Context(), c)
	require.NoError(t, err)
	conn, err := connector.Connect(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	require.NoError(t, conn.(driver.SessionResetter).ResetSession(t.Context()))
}

// The ping of a connection that died while idle ends after pool_ping_timeout.
func TestSQLConnPingTimeout(t *testing.T) {
	s := dsqltest.New(t)
	c := s.Config()
	c.Params = map[string]string{"pool_ping_timeout": "100ms"}
	connector, err := dsql.NewConnector(t.Context(), c)
	require.NoError(t, err)
	s.SetFaults(dsqltest.Always(dsqltest.Fault{Phase: dsqltest.OnQuery, Effect: dsqltest.Silence}))
	conn, err := connector.Connect(t.Context())
	require.NoError(t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.ErrorIs(t, conn.(driver.SessionResetter).ResetSession(ctx), driver.ErrBadConn)
	require.NoError(t, ctx.Err())
}
