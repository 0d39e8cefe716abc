package dsql_test

import (
	"context"
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqldoctor"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

// TestLive checks, on the cluster that $DSQL_URL names and as the role that it names, what this
// library promises and a live cluster can show:
//
//	DSQL_LIVE=1 DSQL_URL=dsql://admin@<id>.dsql.<region>.on.aws go test -run '^TestLive$' -v .
//
// It opens some forty connections and makes one table, which it drops. The AWS environment has to be in variables
// (aws configure export-credentials --format env): the tests of this package look at no files.
func TestLive(t *testing.T) {
	if os.Getenv("DSQL_LIVE") == "" {
		t.Skip("set DSQL_LIVE=1, and DSQL_URL, to run it against a cluster")
	}
	c, err := dsql.ParseConfig(os.Getenv("DSQL_URL"))
	require.NoError(t, err)
	for name, value := range awsEnvironment {
		t.Setenv(name, value)
	}
	live(t, c)
}

// TestLiveLocally shows that TestLive itself works.
func TestLiveLocally(t *testing.T) {
	s := dsqltest.New(t)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, s.CAPEM(), 0o600))
	for name, value := range map[string]string{
		"AWS_ACCESS_KEY_ID": s.Credentials().AccessKeyID, "AWS_SECRET_ACCESS_KEY": s.Credentials().SecretAccessKey, "AWS_SESSION_TOKEN": s.Credentials().SessionToken,
	} {
		t.Setenv(name, value)
	}
	c, err := dsql.ParseConfig("dsql://admin@" + s.Endpoint() + "?" + url.Values{"dial_address": {s.Addr()}, "sslrootcert": {ca}}.Encode())
	require.NoError(t, err)
	live(t, c)
}

func live(t *testing.T, c dsql.Config) {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	endpoint, err := c.Endpoint(ctx)
	require.NoError(t, err)
	pool, err := dsql.NewPool(ctx, c)
	require.NoError(t, err)
	defer pool.Close()
	table := fmt.Sprintf("dsql_live_%x", rand.Uint64())
	exec := func(sql string, args ...any) {
		t.Helper()
		_, err := dsqltx.Exec(ctx, pool, fmt.Sprintf(sql, table), args...)
		require.NoError(t, err)
	}
	exec("create table %s (id int primary key, n int not null)")
	defer func() { // also when the time is up
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		_, err := dsqltx.Exec(ctx, pool, "drop table "+table)
		require.NoError(t, err)
	}()
	refused := func(t *testing.T, code string, err error) {
		t.Helper()
		var pgErr *pgconn.PgError
		require.ErrorAs(t, err, &pgErr)
		require.Equal(t, code, pgErr.Code, pgErr.Message)
	}

	for name, set := range map[string]func(*dsql.Config){
		"direct TLS": func(*dsql.Config) {},
		"SSLRequest": func(c *dsql.Config) { c.SSLNegotiation = "postgres" },
		"EarlyAuth":  func(c *dsql.Config) { c.EarlyAuth = true },
	} {
		t.Run(name, func(t *testing.T) {
			c := c
			set(&c)
			conn, err := dsql.Connect(ctx, c)
			require.NoError(t, err)
			defer conn.Close(ctx)
			state := conn.PgConn().Conn().(interface{ ConnectionState() tls.ConnectionState }).ConnectionState()
			require.Equal(t, endpoint.ServerName, state.ServerName)
			require.NotEmpty(t, state.VerifiedChains)
			require.GreaterOrEqual(t, state.Version, uint16(tls.VersionTLS12))
			require.Empty(t, conn.Config().Password)
		})
	}

	t.Run("tokens", func(t *testing.T) {
		if testing.Short() {
			t.Skip("it waits for a token to end")
		}
		var signed atomic.Int32 // OnToken may be called on any goroutine
		c := c
		c.TokenLifetime = 5 * time.Second
		c.OnToken = func(dsql.TokenEvent) { signed.Add(1) }
		conn, err := c.ConnConfig(ctx)
		require.NoError(t, err)
		began := time.Now()
		for time.Since(began) < 7*time.Second { // over the end of a token
			one, err := pgx.ConnectConfig(ctx, conn)
			require.NoError(t, err)
			require.NoError(t, one.Close(ctx))
			time.Sleep(time.Second) // the cluster's clock is not ours to turn
		}
		require.Greater(t, signed.Load(), int32(1))
		require.Less(t, signed.Load(), int32(7))
	})

	t.Run("refusals", func(t *testing.T) {
		other := c
		other.User = "nobody_is_mapped_to_this"
		_, err := dsql.Connect(ctx, other)
		require.ErrorIs(t, err, dsql.ErrAccessDenied)
		other = c
		other.Host, other.ServerName, other.ClusterID = "aaaaaaaaaaaaaaaaaaaaaaaaaa"+endpoint.ServerName[26:], "", ""
		other.DialAddress = endpoint.DialAddress
		_, err = dsql.Connect(ctx, other)
		require.True(t, errors.Is(err, dsql.ErrInvalidSNI) || errors.Is(err, dsql.ErrAccessDenied), err)
		other = c
		other.Database = "another"
		_, err = dsql.Connect(ctx, other)
		require.Error(t, err)
		r := dsqldoctor.Diagnose(ctx, other, nil)
		require.Equal(t, dsqldoctor.VerdictConfig, r.Verdict, r)
		require.Contains(t, r.String(), `Database is "another"`)
	})

	t.Run("transactions", func(t *testing.T) {
		exec("insert into %s values (1, 0)")
		require.NoError(t, dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "update "+table+" set n = n + $1 where id = 1", 1)
			require.EqualValues(t, 'T', tx.Conn().PgConn().TxStatus(), "BEGIN went out with the first statement")
			return err
		}))
		undone := errors.New("undone")
		require.Equal(t, undone, dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
			_, err := tx.Exec(ctx, "update "+table+" set n = n + $1 where id = 1", 100)
			require.NoError(t, err)
			return undone
		}))

		// A conflict: another commits between this one's read and its write.
		var attempts []dsqltx.Attempt
		runner := dsqltx.Runner{OnAttempt: func(a dsqltx.Attempt) { attempts = append(attempts, a) }}
		require.NoError(t, runner.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
			var n int
			if err := tx.QueryRow(ctx, "select n from "+table+" where id = $1", 1).Scan(&n); err != nil {
				return err
			}
			if len(attempts) == 0 {
				exec("update %s set n = n + 10 where id = 1")
			}
			_, err := tx.Exec(ctx, "update "+table+" set n = n + 1 where id = $1", 1)
			return err
		}))
		require.Equal(t, "OC000", attempts[0].Conflict)
		var n int
		require.NoError(t, pool.QueryRow(ctx, "select n from "+table+" where id = 1").Scan(&n))
		require.Equal(t, 12, n)

		db, err := dsql.OpenDB(ctx, c)
		require.NoError(t, err)
		defer db.Close()
		require.NoError(t, dsqltx.RunSQL(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
			_, err := tx.ExecContext(ctx, "update "+table+" set n = n * $1 where id = 1", 2)
			return err
		}))
		require.NoError(t, dsqltx.Runner{Idempotent: true}.Retry(ctx, func(ctx context.Context) error {
			return db.QueryRowContext(ctx, "select n from "+table+" where id = 1").Scan(&n)
		}))
		require.Equal(t, 24, n)
	})

	t.Run("schema change", func(t *testing.T) {
		conn, err := pool.Acquire(ctx)
		require.NoError(t, err)
		defer conn.Release()
		read := func(ctx context.Context) error {
			rows, _ := conn.Query(ctx, "select * from "+table)
			_, err := pgx.CollectRows(rows, pgx.RowToMap)
			return err
		}
		require.NoError(t, dsqltx.Retry(ctx, read))
		exec("alter table %s add column added int")
		var met []string
		runner := dsqltx.Runner{OnAttempt: func(e dsqltx.Attempt) {
			if e.Again {
				met = append(met, e.Conflict)
			}
		}}
		require.NoError(t, runner.Retry(ctx, read))
		// That a read meets OC001 is on record; that it must, is not.
		for _, conflict := range met {
			require.Equal(t, "OC001", conflict)
		}
		t.Logf("the first read after the change met %q", met)
	})

	t.Run("what DSQL lacks", func(t *testing.T) {
		conn, err := dsql.Connect(ctx, c)
		require.NoError(t, err)
		defer conn.Close(ctx)
		_, err = conn.Exec(ctx, "begin isolation level serializable")
		refused(t, "0A000", err)
		_, err = conn.Exec(ctx, "set default_transaction_isolation = 'serializable'")
		refused(t, "0A000", err)
		tx, err := conn.Begin(ctx)
		require.NoError(t, err)
		_, err = tx.Begin(ctx)
		refused(t, "0A000", err)
		require.NoError(t, tx.Rollback(ctx))
		_, err = conn.Exec(ctx, "create index on "+table+" (n)")
		refused(t, "0A000", err)
	})

	t.Run("large writes", func(t *testing.T) {
		rows := make([][]any, 4000)
		for i := range rows {
			rows[i] = []any{1000 + i, i}
		}
		for _, insert := range []bool{false, true} {
			w := dsqltx.Writer{Table: pgx.Identifier{table}, Columns: []string{"id", "n"}, Insert: insert}
			_, err := w.Write(ctx, pool, rows)
			require.NoError(t, err)
			for i := range rows {
				rows[i][0] = 10_000 + i
			}
		}
		var n int
		require.NoError(t, dsqltx.Runner{Idempotent: true}.Retry(ctx, func(ctx context.Context) error {
			return pool.QueryRow(ctx, "select count(*) from "+table+" where id >= 1000").Scan(&n)
		}))
		require.Equal(t, 8000, n)
	})

	t.Run("jobs", func(t *testing.T) {
		var id string
		require.NoError(t, dsqltx.Retry(ctx, func(ctx context.Context) error {
			return pool.QueryRow(ctx, "create index async on "+table+" (n)").Scan(&id)
		}))
		seen := map[string]bool{}
		require.NoError(t, dsqltx.WaitForJob(ctx, pool, id, func(job dsqltx.Job) { seen[job.Status] = true }))
		require.Contains(t, slices.Collect(maps.Keys(seen)), "completed")
	})

	t.Run("diagnosis", func(t *testing.T) {
		r := dsqldoctor.Diagnose(ctx, c, nil)
		require.Equal(t, dsqldoctor.VerdictOK, r.Verdict, r)
		t.Log(r)
	})

	t.Run("many connections", func(t *testing.T) {
		pool, err := dsql.NewPool(ctx, c, func(c *pgxpool.Config) { c.MaxConns = 10 })
		require.NoError(t, err)
		defer pool.Close()
		var conns []*pgxpool.Conn
		for range 10 {
			conn, err := pool.Acquire(ctx)
			require.NoError(t, err)
			conns = append(conns, conn)
		}
		for _, conn := range conns {
			conn.Release()
		}
	})
}
