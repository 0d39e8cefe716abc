package dsqltest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

func TestSession(t *testing.T) {
	s := New(t)

	t.Run("big result", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, adminRole))
		rows, err := conn.Query(t.Context(), "select i, repeat(md5(i::text), 1 + i % 9) from generate_series(1, 100000) i")
		require.NoError(t, err)
		sum, n := sha256.New(), 0
		var i int
		var text string
		_, err = pgx.ForEachRow(rows, []any{&i, &text}, func() error {
			n++
			_, err := io.WriteString(sum, text)
			return err
		})
		require.NoError(t, err)
		require.Equal(t, 100_000, n)
		require.Equal(t, fmt.Sprintf("%x", sum.Sum(nil)), queryString(t, conn,
			"select encode(sha256(string_agg(repeat(md5(i::text), 1 + i % 9), '' order by i)::bytea), 'hex') from generate_series(1, 100000) i"))
	})

	t.Run("COPY both ways", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, adminRole))
		_, err := conn.Exec(t.Context(), "create table copied (line text)")
		require.NoError(t, err)
		lines := strings.Repeat(strings.Repeat("x", 1665)+"\n", rules.MaxRows)
		tag, err := conn.PgConn().CopyFrom(t.Context(), strings.NewReader(lines), "copy copied from stdin")
		require.NoError(t, err)
		require.EqualValues(t, rules.MaxRows, tag.RowsAffected())
		var out bytes.Buffer
		_, err = conn.PgConn().CopyTo(t.Context(), &out, "copy copied to stdout")
		require.NoError(t, err)
		require.True(t, lines == out.String(), "what came out is not what went in")
	})

	t.Run("pipeline and prepared statements", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, adminRole))
		var batch pgx.Batch
		for i := range 1000 {
			batch.Queue("select $1::int + 1", i)
		}
		results := conn.SendBatch(t.Context(), &batch)
		for i := range 1000 {
			var got int
			require.NoError(t, results.QueryRow().Scan(&got))
			require.Equal(t, i+1, got)
		}
		require.NoError(t, results.Close())
	})

	t.Run("errors and notices pass", func(t *testing.T) {
		config := connConfig(t, s, adminRole)
		notices := make(chan string, 1)
		config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices <- n.Message }
		conn := connect(t, config)
		_, err := conn.Exec(t.Context(), "select 1/0")
		require.ErrorContains(t, err, "22012")
		_, err = conn.Exec(t.Context(), "drop table if exists missing")
		require.NoError(t, err)
		require.Equal(t, `table "missing" does not exist, skipping`, <-notices)
		_, err = conn.Exec(t.Context(), "set timezone to 'Asia/Tokyo'")
		require.NoError(t, err)
		require.Equal(t, "Asia/Tokyo", conn.PgConn().ParameterStatus("TimeZone"))
	})

	t.Run("cancel", func(t *testing.T) {
		for _, negotiation := range []string{"direct", "postgres"} {
			config := connConfig(t, s, adminRole)
			config.SSLNegotiation = negotiation
			conn := connect(t, config)
			ended := make(chan error, 1)
			go func() {
				_, err := conn.Exec(context.Background(), "select pg_sleep(30)")
				ended <- err
			}()
			watcher := connect(t, connConfig(t, s, adminRole))
			require.Eventually(t, func() bool {
				return queryString(t, watcher, "select count(*)::text from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'") == "1"
			}, 10*time.Second, 10*time.Millisecond)
			s.mu.Lock()
			session := s.sessions[conn.PgConn().PID()]
			s.mu.Unlock()
			require.False(t, relayHost{session}.Canceled())
			require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
			require.ErrorContains(t, <-ended, "57014")
			require.True(t, relayHost{session}.Canceled(), "its 57014 is no conflict")
			last := lastAttempt(t, s)
			require.True(t, last.Cancel)
			require.Equal(t, "ok", last.Outcome)
			require.Equal(t, negotiation == "postgres", last.SSLRequest)
			require.Equal(t, "1", queryString(t, conn, "select '1'"), "the session lives on")
		}
	})

	t.Run("cancel in plain text", func(t *testing.T) {
		conn, watcher := connect(t, connConfig(t, s, adminRole)), connect(t, connConfig(t, s, adminRole))
		ended := make(chan error, 1)
		go func() {
			_, err := conn.Exec(context.Background(), "select pg_sleep(31)")
			ended <- err
		}()
		require.Eventually(t, func() bool {
			return queryString(t, watcher, "select count(*)::text from pg_stat_activity where query = 'select pg_sleep(31)' and state = 'active'") == "1"
		}, 10*time.Second, 10*time.Millisecond)
		raw, err := net.Dial("tcp", s.Addr())
		require.NoError(t, err)
		defer raw.Close()
		request, err := (&pgproto3.CancelRequest{ProcessID: conn.PgConn().PID(), SecretKey: conn.PgConn().SecretKey()}).Encode(nil)
		require.NoError(t, err)
		_, err = raw.Write(request)
		require.NoError(t, err)
		require.ErrorContains(t, <-ended, "57014")
		require.Equal(t, "ok", lastAttempt(t, s).Outcome)
	})

	t.Run("cancel with the wrong key", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, adminRole))
		require.NoError(t, conn.Ping(t.Context()))
		wrong := bytes.Clone(conn.PgConn().SecretKey())
		wrong[0]++
		for _, request := range []pgproto3.CancelRequest{
			{ProcessID: conn.PgConn().PID(), SecretKey: wrong},
			{ProcessID: conn.PgConn().PID() + 1, SecretKey: conn.PgConn().SecretKey()},
		} {
			raw, frontend := dialTLS(t, s, s.Endpoint())
			frontend.Send(&request)
			require.NoError(t, frontend.Flush())
			answer, err := io.ReadAll(raw)
			require.NoError(t, err)
			require.Empty(t, answer)
			require.Contains(t, lastAttempt(t, s).Outcome, "cancel request: no session")
		}
	})

	t.Run("10 MiB and not more", func(t *testing.T) {
		const maxRequest = 10 << 20
		conn := connect(t, connConfig(t, s, adminRole))
		// The length counts itself and the final NUL.
		query := func(length int) string {
			const begin, end = "select length('", "')::text"
			return begin + strings.Repeat("x", length-5-len(begin)-len(end)) + end
		}
		results, err := conn.PgConn().Exec(t.Context(), query(maxRequest)).ReadAll()
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint(maxRequest-5-23), string(results[0].Rows[0][0]))

		_, err = conn.PgConn().Exec(t.Context(), query(maxRequest+1)).ReadAll()
		require.Error(t, err)
		require.NotErrorAs(t, err, new(*pgconn.PgError))
		require.True(t, conn.IsClosed())
	})

	t.Run("setting that PostgreSQL refuses", func(t *testing.T) {
		config := connConfig(t, s, adminRole)
		config.RuntimeParams["timezone"] = "Nowhere"
		conn := connect(t, config)
		err := conn.Ping(t.Context())
		var pgErr *pgconn.PgError
		require.ErrorAs(t, err, &pgErr)
		require.Equal(t, "FATAL", pgErr.Severity)
		require.Equal(t, "22023", pgErr.Code)
		require.True(t, conn.IsClosed())
	})

	t.Run("backend ends", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, "app"))
		require.NoError(t, conn.Ping(t.Context()))
		require.NoError(t, s.postgres.Exec(t.Context(), "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'"))
		_, err := conn.Exec(t.Context(), "select 1")
		require.Error(t, err)
		require.True(t, conn.IsClosed())
	})

	t.Run("client ends", func(t *testing.T) {
		watcher := connect(t, connConfig(t, s, adminRole))
		for _, end := range []func(*pgx.Conn){
			func(c *pgx.Conn) { c.Close(context.Background()) },
			func(c *pgx.Conn) { c.PgConn().Conn().Close() },
		} {
			conn := connect(t, connConfig(t, s, "app"))
			require.NoError(t, conn.Ping(t.Context()))
			end(conn)
			require.Eventually(t, func() bool { return backends(t, watcher, "app") == "0" }, 10*time.Second, 10*time.Millisecond)
		}
		require.Eventually(t, func() bool {
			s.mu.Lock()
			defer s.mu.Unlock()
			for _, session := range s.sessions {
				if session.startup.user == "app" {
					return false
				}
			}
			return true
		}, 10*time.Second, time.Millisecond)
	})
}

func backends(tb testing.TB, conn *pgx.Conn, user string) string {
	return queryString(tb, conn, "select count(*)::text from pg_stat_activity where usename = '"+user+"'")
}

// A session has no backend before it speaks, and none when all it says is goodbye.
func TestIdleSessions(t *testing.T) {
	s := New(t)
	const sessions, atOnce = 500, 8
	config := connConfig(t, s, "app")
	conns := make([]*pgx.Conn, sessions)
	errs := make([]error, sessions)
	var dialling sync.WaitGroup
	for worker := range atOnce {
		dialling.Go(func() {
			for i := worker; i < sessions; i += atOnce {
				conns[i], errs[i] = pgx.ConnectConfig(t.Context(), config)
			}
		})
	}
	dialling.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	watcher := connect(t, connConfig(t, s, adminRole))
	require.Equal(t, "0", backends(t, watcher, "app"))

	require.Equal(t, "app", queryString(t, conns[sessions-1], "select current_user"))
	require.Equal(t, "1", backends(t, watcher, "app"))

	s.mu.Lock()
	silent := s.sessions[conns[0].PgConn().PID()]
	s.mu.Unlock()
	conns[0].Close(t.Context())
	require.Eventually(t, func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.sessions[silent.processID] == nil
	}, 10*time.Second, time.Millisecond)
	require.Nil(t, silent.backendKey)
	for _, conn := range conns {
		conn.Close(t.Context())
	}
}

// The login reports settings as the session has them, whatever the spelling of the startup message.
func TestReportedSettings(t *testing.T) {
	s := New(t)
	for _, settings := range []map[string]string{
		{},
		{"client_encoding": "'utf-8'", "DateStyle": "ISO", "TimeZone": "utc", "IntervalStyle": "Postgres"},
		{"client_encoding": "Unicode", "DateStyle": "german", "TimeZone": "Europe/Paris", "IntervalStyle": "ISO_8601"},
		{"client_encoding": "iso-8859-1", "DateStyle": "SQL, dmy", "application_name": "psql"},
		{"client_encoding": "SQL_ASCII", "DateStyle": "European, postgres"},
		{"client_encoding": "WIN1252", "DateStyle": "us"},
		{"DateStyle": "ymd", "options": "-c IntervalStyle=SQL_standard -c search_path=a"},
	} {
		config := connConfig(t, s, adminRole)
		for name, value := range settings {
			config.RuntimeParams[name] = value
		}
		conn := connect(t, config)
		for _, name := range []string{"client_encoding", "DateStyle", "TimeZone", "IntervalStyle", "application_name"} {
			require.Equal(t, queryString(t, conn, "show "+name), conn.PgConn().ParameterStatus(name), "%s in %v", name, settings)
		}
	}
}
