package dsqltest

import (
	"context"
	"errors"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestBucket(t *testing.T) {
	type step struct {
		after time.Duration // since the step before
		take  int           // how many are asked for
		want  int           // how many are had
	}
	for name, tt := range map[string]struct {
		perSecond float64
		burst     int
		steps     []step
	}{
		"burst, then the rate": {4, 3, []step{{0, 5, 3}, {249 * time.Millisecond, 1, 0}, {2 * time.Millisecond, 2, 1}, {600 * time.Millisecond, 5, 2}, {150 * time.Millisecond, 2, 1}}},
		"never above burst":    {100, 3, []step{{0, 1, 1}, {time.Hour, 10, 3}}},
		"slow":                 {0.5, 1, []step{{0, 2, 1}, {1999 * time.Millisecond, 1, 0}, {time.Millisecond, 2, 1}}},
		"the burst alone":      {0, 2, []step{{0, 3, 2}, {time.Hour, 1, 0}}},
		"no burst":             {100, 0, []step{{0, 1, 0}, {time.Hour, 1, 0}}},
		"burst below 0":        {100, -1, []step{{0, 1, 0}, {time.Hour, 1, 0}}},
		"negative":             {-1, 0, []step{{0, 1000, 1000}, {time.Hour, 1000, 1000}}},
		"not a number":         {math.NaN(), 1, []step{{0, 10, 10}, {0, 10, 10}}},
		"infinite":             {math.Inf(1), 1, []step{{0, 10, 10}, {0, 10, 10}}},
		"clock goes back":      {1, 2, []step{{0, 1, 1}, {-time.Second, 1, 0}, {2 * time.Second, 3, 2}}},
	} {
		t.Run(name, func(t *testing.T) {
			now := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
			b := newBucket(tt.perSecond, tt.burst)
			for i, step := range tt.steps {
				now = now.Add(step.after)
				had := 0
				for range step.take {
					if b.refill(now) {
						b.tokens--
						had++
					}
				}
				require.Equal(t, step.want, had, "step %d", i)
			}
		})
	}
}

// refusedAs tries to log in once, and wants to be refused with r.
func refusedAs(tb testing.TB, s *Server, r Refusal) *pgconn.PgError {
	tb.Helper()
	_, err := pgx.ConnectConfig(tb.Context(), connConfig(tb, s, adminRole))
	var pgErr *pgconn.PgError
	require.ErrorAs(tb, err, &pgErr)
	require.Equal(tb, []string{"FATAL", r.Code, r.Message}, []string{pgErr.Severity, pgErr.Code, pgErr.Message})
	require.Equal(tb, r.Message, lastAttempt(tb, s).Outcome)
	return pgErr
}

func TestConnectQuota(t *testing.T) {
	s := New(t, WithConnectQuota(0, 2))
	connect(t, connConfig(t, s, adminRole))

	// None of these takes part in the quota.
	lost := connConfig(t, s, adminRole)
	lost.TLSConfig.ServerName, lost.TLSConfig.InsecureSkipVerify = s.VPCEndpoint(), true
	_, err := pgx.ConnectConfig(t.Context(), lost)
	require.ErrorContains(t, err, "invalid sni")
	s.SetMaxConnections(0)
	refusedAs(t, s, RefuseConnections)
	s.SetMaxConnections(-1)

	connect(t, connConfig(t, s, adminRole))
	require.Empty(t, refusedAs(t, s, RefuseRate).Hint)
	require.Empty(t, lastAttempt(t, s).TokenID, "refused at the startup message")

	s.SetConnectQuota(0, 1)
	connect(t, connConfig(t, s, adminRole))
	refusedAs(t, s, RefuseRate)

	s.SetConnectQuota(50, 1)
	connect(t, connConfig(t, s, adminRole))
	require.Eventually(t, func() bool {
		conn, err := pgx.ConnectConfig(t.Context(), connConfig(t, s, adminRole))
		if err != nil {
			return false
		}
		return conn.Close(t.Context()) == nil
	}, 10*time.Second, 5*time.Millisecond)

	s.SetConnectQuota(-1, 0)
	for range 5 {
		connect(t, connConfig(t, s, adminRole))
	}
}

// The quotas are what the service's page of them states.
func TestDefaultQuotas(t *testing.T) {
	o, err := newOptions(nil)
	require.NoError(t, err)
	require.Equal(t, newBucket(100, 1000), o.conditions.rate)
	require.Equal(t, 10_000, o.conditions.maxConnections)
	require.Equal(t, time.Hour, o.conditions.lifetime)
	require.Zero(t, o.conditions.roundTrip)
}

func TestMaxConnections(t *testing.T) {
	s := New(t, WithMaxConnections(2))
	first := connect(t, connConfig(t, s, adminRole))
	connect(t, connConfig(t, s, "app"))
	require.Equal(t, 2, s.Sessions())
	require.Empty(t, refusedAs(t, s, RefuseConnections).Hint)
	require.Equal(t, 2, s.Sessions())

	require.NoError(t, first.Close(t.Context()))
	open := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.open
	}
	require.Eventually(t, func() bool { return open() == 1 }, 10*time.Second, time.Millisecond)
	require.Equal(t, 1, s.Sessions())

	// A login that fails gives its place back.
	denied := connConfig(t, s, adminRole)
	denied.Password = "hunter2"
	_, err := pgx.ConnectConfig(t.Context(), denied)
	require.ErrorContains(t, err, "access denied")
	require.Eventually(t, func() bool { return open() == 1 }, 10*time.Second, time.Millisecond)

	connect(t, connConfig(t, s, adminRole))
	refusedAs(t, s, RefuseConnections)
	s.SetMaxConnections(3)
	connect(t, connConfig(t, s, adminRole))
	require.Equal(t, 3, s.Sessions())
	s.SetMaxConnections(1)
	require.Equal(t, 3, s.Sessions(), "what is open stays")
}

// However many come at once, no more get in than may.
func TestQuotasAtOnce(t *testing.T) {
	const clients, most = 60, 20
	s := New(t, WithConnectQuota(0, 40), WithMaxConnections(most))
	config := connConfig(t, s, adminRole)
	var in, full, fast atomic.Int32
	var clientsDone sync.WaitGroup
	for range clients {
		clientsDone.Go(func() {
			conn, err := pgx.ConnectConfig(t.Context(), config)
			var pgErr *pgconn.PgError
			switch {
			case err == nil:
				in.Add(1)
				t.Cleanup(func() { conn.Close(context.Background()) })
			case errors.As(err, &pgErr) && pgErr.Code == RefuseConnections.Code:
				full.Add(1)
			case errors.As(err, &pgErr) && pgErr.Code == RefuseRate.Code:
				fast.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	clientsDone.Wait()
	require.EqualValues(t, most, in.Load())
	require.EqualValues(t, clients-most, full.Load(), "they took nothing of the rate")
	require.Zero(t, fast.Load())
}

func TestWaking(t *testing.T) {
	s := New(t, WithWaking(3), WithConnectQuota(0, 1))
	for range 3 {
		refusedAs(t, s, RefuseWaking)
	}
	connect(t, connConfig(t, s, adminRole))
	refusedAs(t, s, RefuseRate)
}

func TestRefuseNext(t *testing.T) {
	clock := time.Date(2030, 1, 2, 3, 4, 5, 0, time.FixedZone("", 3600))
	s := New(t, WithClock(func() time.Time { return clock }))
	s.RefuseNext(-1, RefuseAccess)
	s.RefuseNext(0, RefuseAccess)
	s.RefuseNext(2, RefuseRate)
	s.RefuseNext(1, RefuseExpired)
	s.RefuseNext(1, RefuseAccess)
	own := Refusal{Code: "XX000", Message: "100% our own", Hint: "look away"}
	s.RefuseNext(1, own)

	refusedAs(t, s, RefuseRate)
	refusedAs(t, s, RefuseRate)
	require.NotEmpty(t, lastAttempt(t, s).TokenID)
	require.Equal(t, "Signature expired: 20300102T020404Z is now earlier than 20300102T020405Z", refusedAs(t, s, RefuseExpired).Hint)
	require.Empty(t, refusedAs(t, s, RefuseAccess).Hint)
	require.Equal(t, own.Hint, refusedAs(t, s, own).Hint)

	// Tokens are signed on the machine's clock: what is due is over, so they are looked at.
	require.Equal(t, "RefuseNext", lastAttempt(t, s).Reason)
	refusedAs(t, s, RefuseAccess)
	require.NotEqual(t, "RefuseNext", lastAttempt(t, s).Reason)
}

func TestSessionLifetime(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	s, err := Start(t.Context(), WithSessionLifetime(-1))
	require.NoError(t, err)
	defer s.Close()
	endless := connect(t, connConfig(t, s, adminRole))

	const lifetime = 200 * time.Millisecond
	s.SetSessionLifetime(lifetime)
	began := time.Now()
	idle := connect(t, connConfig(t, s, adminRole)).PgConn().Conn()
	busy := connect(t, connConfig(t, s, adminRole))
	_, err = busy.Exec(t.Context(), "select pg_sleep(60)")
	require.Error(t, err)
	require.NotErrorAs(t, err, new(*pgconn.PgError))
	require.GreaterOrEqual(t, time.Since(began), lifetime)
	require.True(t, busy.IsClosed())

	require.NoError(t, idle.SetReadDeadline(time.Now().Add(time.Minute)))
	_, err = idle.Read(make([]byte, 1))
	require.Equal(t, io.EOF, err, "TLS is told, too")
	idle.Close()

	// A client that does not read what it asked for is no obstacle.
	deaf, frontend := dialTLS(t, s, s.Endpoint())
	login(t, s, frontend)
	frontend.Send(&pgproto3.Query{String: "select repeat('x', 1000) from generate_series(1, 100000)"})
	require.NoError(t, frontend.Flush())
	require.Eventually(t, func() bool { return s.Sessions() == 1 }, 10*time.Second, time.Millisecond)
	deaf.Close()

	require.Equal(t, "1", queryString(t, endless, "select '1'"))
	require.NoError(t, endless.Close(t.Context()))
	s.SetSessionLifetime(time.Hour)
	last := connect(t, connConfig(t, s, adminRole))
	require.NoError(t, s.Close())
	last.PgConn().Conn().Close()
	goleak.VerifyNone(t, ignore)
}

// login takes frontend to its first ReadyForQuery.
func login(tb testing.TB, s *Server, frontend *pgproto3.Frontend) {
	tb.Helper()
	frontend.Send(&pgproto3.StartupMessage{ProtocolVersion: protocolVersion3, Parameters: map[string]string{"user": adminRole, "database": databaseName}})
	frontend.Send(&pgproto3.PasswordMessage{Password: sign(tb, s, signing{})})
	require.NoError(tb, frontend.Flush())
	for {
		if _, ready := receive(tb, frontend).(*pgproto3.ReadyForQuery); ready {
			return
		}
	}
}
