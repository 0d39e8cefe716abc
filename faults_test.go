package dsql_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

var refuseUnavailable = dsqltest.Refusal{Code: "XX000", Message: "server unavailable"}

// connectFuncs are the three ways to connect. Each func runs a query that returns value, on a
// connection of its own.
var connectFuncs = map[string]func(ctx context.Context, c dsql.Config, value int) (int, error){
	"Connect": func(ctx context.Context, c dsql.Config, value int) (got int, err error) {
		conn, err := dsql.Connect(ctx, c)
		if err != nil {
			return 0, err
		}
		defer conn.Close(ctx)
		return got, conn.QueryRow(ctx, "select $1::int", value).Scan(&got)
	},
	"NewPool": func(ctx context.Context, c dsql.Config, value int) (got int, err error) {
		pool, err := dsql.NewPool(ctx, c)
		if err != nil {
			return 0, err
		}
		defer pool.Close()
		return got, pool.QueryRow(ctx, "select $1::int", value).Scan(&got)
	},
	"OpenDB": func(ctx context.Context, c dsql.Config, value int) (got int, err error) {
		db, err := dsql.OpenDB(ctx, c)
		if err != nil {
			return 0, err
		}
		defer db.Close()
		return got, db.QueryRowContext(ctx, "select $1::int", value).Scan(&got)
	},
}

// first returns a func that injects f into the first connection only.
func first(f dsqltest.Fault) func() dsqltest.Fault {
	done := false
	return func() dsqltest.Fault {
		if done {
			return dsqltest.Fault{}
		}
		done = true
		return f
	}
}

var loginPhases = []dsqltest.Phase{dsqltest.OnAccept, dsqltest.OnSSLRequest, dsqltest.OnClientHello, dsqltest.OnStartup, dsqltest.OnPassword}

// A connection that is reset or closed before the login is complete is retried once, whether that
// happens at the beginning of an answer or in the middle.
func TestConnectRetriesAfterFaults(t *testing.T) {
	t.Parallel()
	s := dsqltest.New(t)
	afters := []int{0, 1, 7, 100}
	if testing.Short() {
		afters = []int{0, 7}
	}
	for name, connect := range connectFuncs {
		for _, phase := range loginPhases {
			for _, effect := range []dsqltest.Effect{dsqltest.Reset, dsqltest.HangUp} {
				for _, after := range afters {
					fault := dsqltest.Fault{Phase: phase, Effect: effect, After: after}
					t.Run(fmt.Sprint(name, " ", fault), func(t *testing.T) {
						s.SetFaults(first(fault))
						c := s.Config()
						if phase == dsqltest.OnSSLRequest {
							c.SSLNegotiation = "postgres"
						}
						var retries atomic.Int64
						c.OnRetry = func(e dsql.RetryEvent) {
							retries.Add(1)
							require.Error(t, e.Err)
							require.EqualValues(t, retries.Load(), e.Attempt)
						}
						before := len(s.Attempts())
						got, err := connect(t.Context(), c, 42)
						require.NoError(t, err)
						require.Equal(t, 42, got)
						attempts := s.Attempts()[before:]
						require.EqualValues(t, len(attempts)-1, retries.Load())
						require.LessOrEqual(t, len(attempts), 2)
					})
				}
			}
		}
	}
	require.Eventually(t, func() bool { return s.Sessions() == 0 }, 10*time.Second, time.Millisecond)
}

// A connection that goes silent during the login leaves time for another attempt.
func TestConnectRetriesAfterSilence(t *testing.T) {
	t.Parallel()
	s := dsqltest.New(t)
	var wg sync.WaitGroup
	for name, connect := range connectFuncs {
		wg.Go(func() {
			c := s.Config()
			s.SetFaults(first(dsqltest.Fault{Phase: dsqltest.OnStartup, Effect: dsqltest.Silence}))
			c.ConnectTimeout = 5 * time.Second
			got, err := connect(t.Context(), c, 42)
			require.NoError(t, err, name)
			require.Equal(t, 42, got)
		})
	}
	wg.Wait()
}

// If the server stops answering, the error at the deadline names the phase.
func TestConnectDeadlines(t *testing.T) {
	t.Parallel() // it waits, mostly
	s := dsqltest.New(t)
	says := map[dsqltest.Phase]string{
		dsqltest.OnAccept: "TLS handshake failed", dsqltest.OnSSLRequest: "SSLRequest failed", dsqltest.OnClientHello: "TLS handshake failed",
		dsqltest.OnStartup: "login failed", dsqltest.OnPassword: "login failed",
	}
	for name, connect := range connectFuncs {
		for _, phase := range loginPhases {
			for _, after := range []int{0, 3} {
				fault := dsqltest.Fault{Phase: phase, Effect: dsqltest.Silence, After: after}
				t.Run(fmt.Sprint(name, " ", fault), func(t *testing.T) {
					s.SetFaults(dsqltest.Always(fault))
					c := s.Config()
					if phase == dsqltest.OnSSLRequest {
						if after > 0 {
							t.Skip("the answer is a single byte")
						}
						c.SSLNegotiation = "postgres"
					}
					var err error
					// A busy machine may need more time to reach the phase.
					for _, c.ConnectTimeout = range []time.Duration{300 * time.Millisecond, 3 * time.Second, 20 * time.Second} {
						if _, err = connect(t.Context(), c, 42); strings.Contains(err.Error(), says[phase]) {
							break
						}
					}
					require.ErrorIs(t, err, context.DeadlineExceeded)
					require.ErrorContains(t, err, says[phase])
					require.ErrorContains(t, err, "no answer, until the deadline")
					require.ErrorContains(t, err, s.Addr())
				})
			}
		}
	}
}

// Garbage is not retried: it comes from another kind of server.
func TestConnectGarbage(t *testing.T) {
	t.Parallel()
	s := dsqltest.New(t)
	for name, connect := range connectFuncs {
		for _, phase := range loginPhases {
			if phase == dsqltest.OnAccept {
				continue // the answer to the first bytes, as on ClientHello
			}
			fault := dsqltest.Fault{Phase: phase, Effect: dsqltest.Garbage}
			t.Run(fmt.Sprint(name, " ", fault), func(t *testing.T) {
				s.SetFaults(dsqltest.Always(fault))
				c := s.Config()
				if phase == dsqltest.OnSSLRequest {
					c.SSLNegotiation = "postgres"
				}
				before := len(s.Attempts())
				_, err := connect(t.Context(), c, 42)
				require.Error(t, err)
				require.NotErrorIs(t, err, context.DeadlineExceeded)
				require.Len(t, s.Attempts()[before:], 1)
			})
		}
	}
}

// Cancelling the context ends every wait at once.
func TestConnectCancel(t *testing.T) {
	s := dsqltest.New(t)
	waits := map[string]func(c *dsql.Config){
		"for the server": func(*dsql.Config) {
			s.SetFaults(dsqltest.Always(dsqltest.Fault{Phase: dsqltest.OnStartup, Effect: dsqltest.Silence}))
		},
		"for a retry":     func(*dsql.Config) { s.SetFaults(nil); s.RefuseNext(1000, dsqltest.RefuseWaking) },
		"for the network": func(c *dsql.Config) { c.DialAddress = "127.0.0.1:1" },
	}
	for wait, arrange := range waits {
		for name, connect := range connectFuncs {
			t.Run(name+" "+wait, func(t *testing.T) {
				c := s.Config()
				arrange(&c)
				ctx, cancel := context.WithCancel(t.Context())
				started := make(chan struct{}, 1000)
				c.OnRetry = func(dsql.RetryEvent) { started <- struct{}{} }
				c.OnToken = func(dsql.TokenEvent) { started <- struct{}{} }
				result := make(chan error, 1)
				go func() {
					_, err := connect(ctx, c, 42)
					result <- err
				}()
				<-started
				cancel()
				select {
				case err := <-result:
					require.ErrorIs(t, err, context.Canceled)
				case <-time.After(10 * time.Second): // far below ConnectTimeout
					t.Fatal("still waiting")
				}
			})
		}
	}
}

func TestConnectWhileWaking(t *testing.T) {
	t.Parallel()
	for name, connect := range connectFuncs {
		t.Run(name, func(t *testing.T) {
			s := dsqltest.New(t, dsqltest.WithWaking(5))
			got, err := connect(t.Context(), s.Config(), 42)
			require.NoError(t, err)
			require.Equal(t, 42, got)
			require.Len(t, s.Attempts(), 6)
		})
	}
}

func TestConnectRefusals(t *testing.T) {
	t.Parallel()
	s := dsqltest.New(t)
	for name, connect := range connectFuncs {
		t.Run(name, func(t *testing.T) {
			connect := func(c dsql.Config) ([]dsqltest.Attempt, error) {
				before := len(s.Attempts())
				_, err := connect(t.Context(), c, 42)
				return s.Attempts()[before:], err
			}

			// A token that the server calls expired: one retry, with another token.
			s.RefuseNext(1, dsqltest.RefuseExpired)
			attempts, err := connect(s.Config())
			require.NoError(t, err)
			require.Len(t, attempts, 2)
			require.NotEqual(t, attempts[0].TokenID, attempts[1].TokenID)

			// If it says so again, the clock is wrong.
			s.RefuseNext(2, dsqltest.RefuseExpired)
			attempts, err = connect(s.Config())
			require.ErrorIs(t, err, dsql.ErrTokenExpired)
			require.ErrorIs(t, err, dsql.ErrAccessDenied)
			require.ErrorContains(t, err, "clock")
			require.ErrorContains(t, err, "2 attempts")
			require.Len(t, attempts, 2)

			// Any other refusal of access once, however many addresses the name has.
			s.RefuseNext(1, dsqltest.RefuseAccess)
			c := s.Config()
			_, port, err := net.SplitHostPort(s.Addr())
			require.NoError(t, err)
			c.DialAddress = "localhost:" + port
			attempts, err = connect(c)
			require.ErrorIs(t, err, dsql.ErrAccessDenied)
			require.NotErrorIs(t, err, dsql.ErrTokenExpired)
			var pgErr *pgconn.PgError
			require.ErrorAs(t, err, &pgErr)
			require.Equal(t, "08006", pgErr.Code)
			require.Len(t, attempts, 1)

			// Transient refusals are retried until they end.
			for _, r := range []dsqltest.Refusal{dsqltest.RefuseRate, dsqltest.RefuseConnections, dsqltest.RefuseWaking, refuseUnavailable} {
				s.RefuseNext(3, r)
				c := s.Config()
				c.ConnectRate = -1 // the pacer would wait for seconds
				attempts, err = connect(c)
				require.NoError(t, err)
				require.Len(t, attempts, 4)

			}
		})
	}
}

// At the deadline, the error names the last transient refusal.
func TestConnectRefusedToTheEnd(t *testing.T) {
	t.Parallel()
	for is, r := range map[error]dsqltest.Refusal{
		dsql.ErrUnavailable: refuseUnavailable, dsql.ErrRateExceeded: dsqltest.RefuseRate, dsql.ErrTooManyConnections: dsqltest.RefuseConnections, dsql.ErrClusterWaking: dsqltest.RefuseWaking,
	} {
		s := dsqltest.New(t)
		s.RefuseNext(10_000, r)
		for name, connect := range connectFuncs {
			c := s.Config()
			c.ConnectTimeout, c.ConnectRate = time.Second, -1
			_, err := connect(t.Context(), c, 42)
			require.ErrorIs(t, err, is, name)
			var pgErr *pgconn.PgError
			require.ErrorAs(t, err, &pgErr)
			require.Equal(t, r.Code, pgErr.Code)
			require.Regexp(t, `after \d+ attempts in \d+`, err.Error())
		}
	}
}

// A hook that takes its time holds up its own connect only.
func TestRetryHookSlow(t *testing.T) {
	s := dsqltest.New(t)
	s.RefuseNext(1, dsqltest.RefuseWaking)
	called, release := make(chan struct{}), make(chan struct{})
	c := s.Config()
	c.OnRetry = func(dsql.RetryEvent) { close(called); <-release }
	cc, err := c.ConnConfig(t.Context())
	require.NoError(t, err)
	held := make(chan error, 1)
	connect := func() error {
		conn, err := pgx.ConnectConfig(t.Context(), cc)
		if err == nil {
			err = conn.Close(t.Context())
		}
		return err
	}
	go func() { held <- connect() }()
	<-called
	require.NoError(t, connect())
	close(release)
	require.NoError(t, <-held)
}

// A hook may keep the error of an attempt and read it at any time.
func TestRetryEventsKeep(t *testing.T) {
	t.Parallel()
	s := dsqltest.New(t)
	s.RefuseNext(1000, dsqltest.RefuseConnections)
	c := s.Config()
	c.ConnectTimeout = 300 * time.Millisecond
	var wg sync.WaitGroup
	var mu sync.Mutex
	texts := map[error]string{}
	over := make(chan struct{})
	c.OnRetry = func(e dsql.RetryEvent) {
		mu.Lock()
		defer mu.Unlock()
		texts[e.Err] = e.Err.Error()
		wg.Go(func() {
			for {
				select {
				case <-over:
					return
				default:
					_ = e.Err.Error()
					runtime.Gosched()
				}
			}
		})
	}
	_, err := dsql.Connect(t.Context(), c)
	close(over)
	wg.Wait()
	require.ErrorIs(t, err, dsql.ErrTooManyConnections)
	require.ErrorIs(t, err, context.DeadlineExceeded)
	require.NotEmpty(t, texts)
	for e, text := range texts {
		require.Equal(t, text, e.Error())
	}
}

// The server's clock is 20 minutes ahead, and the error says so.
func TestConnectSkewedClock(t *testing.T) {
	s := dsqltest.New(t, dsqltest.WithClock(func() time.Time { return time.Now().Add(20 * time.Minute) }))
	_, err := dsql.Connect(t.Context(), s.Config())
	require.ErrorIs(t, err, dsql.ErrTokenExpired)
	require.Regexp(t, `\((20m0s|19m59s|20m1s) behind the server's\)`, err.Error())
}

func TestConnectMaxConnections(t *testing.T) {
	t.Parallel()
	s := dsqltest.New(t, dsqltest.WithMaxConnections(1))
	conn, err := dsql.Connect(t.Context(), s.Config())
	require.NoError(t, err)
	c := s.Config()
	c.OnRetry = func(e dsql.RetryEvent) {
		if e.Attempt == 2 { // somebody leaves
			require.NoError(t, conn.Close(context.Background()))
		}
		require.ErrorIs(t, e.Err, dsql.ErrTooManyConnections)
	}
	other, err := dsql.Connect(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, other.Close(t.Context()))
}

func TestEarlyAuth(t *testing.T) {
	t.Parallel()
	s := dsqltest.New(t)
	for name, connect := range connectFuncs {
		t.Run(name, func(t *testing.T) {
			c := s.Config()
			c.EarlyAuth = true
			got, err := connect(t.Context(), c, 42)
			require.NoError(t, err)
			require.Equal(t, 42, got)

			// A refusal is a refusal.
			s.RefuseNext(1, dsqltest.RefuseAccess)
			_, err = connect(t.Context(), c, 42)
			require.ErrorIs(t, err, dsql.ErrAccessDenied)

			// A server that does not ask for the token: another attempt, without sending it early.
			s.SetFaults(dsqltest.Always(dsqltest.Fault{Effect: dsqltest.SkipPassword}))
			before := len(s.Attempts())
			got, err = connect(t.Context(), c, 43)
			require.NoError(t, err)
			require.Equal(t, 43, got)
			require.Len(t, s.Attempts()[before:], 2)
			s.SetFaults(nil)
		})
	}
	t.Run("the server is remembered", func(t *testing.T) {
		s.SetFaults(dsqltest.Always(dsqltest.Fault{Effect: dsqltest.SkipPassword}))
		c := s.Config()
		c.EarlyAuth = true
		db, err := dsql.OpenDB(t.Context(), c)
		require.NoError(t, err)
		defer db.Close()
		before := len(s.Attempts())
		for range 3 {
			conn, err := db.Conn(t.Context())
			require.NoError(t, err)
			defer conn.Close()
		}
		require.Len(t, s.Attempts()[before:], 4)
	})
}

// 600 connections at once, with a quota of 100 a second after a burst of 200: none fails.
func TestBurst(t *testing.T) {
	for _, name := range []string{"NewPool", "OpenDB"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel() // it waits, mostly
			// 600 handshakes are 10 s of CPU time, a third of ConnectTimeout on an idle machine.
			connections, quota := 600, 200
			if testing.Short() {
				connections, quota = 150, 50
			}
			s := dsqltest.New(t, dsqltest.WithConnectQuota(100, quota))
			burst(t, s, name, connections)
			t.Logf("%d attempts", len(s.Attempts()))
		})
	}
}

// burst opens 600 connections at once and holds them until all are open.
func burst(t *testing.T, s *dsqltest.Server, opener string, n int) {
	c := s.Config()
	c.Params = map[string]string{"pool_max_conns": fmt.Sprint(n)}
	hold := make(chan struct{})
	var acquire func(ready func()) error
	switch opener {
	case "NewPool":
		pool, err := dsql.NewPool(t.Context(), c)
		require.NoError(t, err)
		defer pool.Close()
		acquire = func(ready func()) error {
			conn, err := pool.Acquire(t.Context())
			if err != nil {
				return err
			}
			defer conn.Release()
			ready()
			<-hold
			return nil
		}
	case "OpenDB":
		db, err := dsql.OpenDB(t.Context(), c)
		require.NoError(t, err)
		defer db.Close()
		acquire = func(ready func()) error {
			conn, err := db.Conn(t.Context())
			if err != nil {
				return err
			}
			defer conn.Close()
			ready()
			<-hold
			return nil
		}
	}
	var ready, done sync.WaitGroup
	ready.Add(n)
	errs := make(chan error, n)
	for range n {
		done.Go(func() {
			if err := acquire(ready.Done); err != nil {
				errs <- err
				ready.Done()
			}
		})
	}
	ready.Wait()
	close(hold)
	done.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
}

// 2,000 connects under random faults: each gives the right result, or an error that says what
// failed.
func TestConnectsUnderRandomFaults(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	s := dsqltest.New(t, dsqltest.WithConnectQuota(-1, 0), dsqltest.WithFaults(func() dsqltest.Fault {
		if random.IntN(2) == 0 {
			return dsqltest.Fault{}
		}
		effects := []dsqltest.Effect{dsqltest.Reset, dsqltest.HangUp, dsqltest.Reset, dsqltest.HangUp, dsqltest.Garbage, dsqltest.SkipPassword}
		effect := effects[random.IntN(len(effects))]
		if random.IntN(20) == 0 {
			effect = dsqltest.Silence // takes a third of ConnectTimeout
		}
		return dsqltest.Fault{Phase: dsqltest.Phase(random.IntN(int(dsqltest.OnQuery) + 1)), Effect: effect, After: random.IntN(300)}
	}))
	names := []string{"Connect", "NewPool", "OpenDB"}
	var answered, failed atomic.Int64
	var wg sync.WaitGroup
	next := make(chan int)
	for range 16 {
		wg.Go(func() {
			for i := range next {
				c := s.Config()
				c.ConnectRate = -1
				c.EarlyAuth = i%2 == 0
				c.ConnectTimeout = 20 * time.Second
				if i%3 == 0 {
					c.SSLNegotiation = "postgres"
				}
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
				got, err := connectFuncs[names[i%len(names)]](ctx, c, i)
				cancel()
				if err != nil {
					failed.Add(1)
					require.True(t, saysCause(err), "%d: %v", i, err)
					continue
				}
				answered.Add(1)
				require.Equal(t, i, got)
			}
		})
	}
	connects := 2000
	if testing.Short() {
		connects = 150
	}
	for i := range connects {
		next <- i
		if i%200 == 0 {
			s.RefuseNext(5, []dsqltest.Refusal{dsqltest.RefuseWaking, dsqltest.RefuseRate, dsqltest.RefuseExpired, dsqltest.RefuseConnections}[i/200%4])
		}
	}
	close(next)
	wg.Wait()
	t.Logf("%d answered, %d failed", answered.Load(), failed.Load())
	require.Greater(t, answered.Load(), int64(connects/2))
	require.Eventually(t, func() bool { return s.Sessions() == 0 }, 10*time.Second, time.Millisecond)
}

// saysCause reports whether an error says what failed.
func saysCause(err error) bool {
	var pgErr *pgconn.PgError
	switch {
	case errors.As(err, &pgErr):
		return true
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE):
		return true
	}
	// Garbage instead of TLS, or of PostgreSQL's protocol in the login or in the session.
	return strings.Contains(err.Error(), "tls: ") || strings.Contains(err.Error(), "unexpected answer") || strings.Contains(err.Error(), "refused TLS") || strings.Contains(err.Error(), "message type") || strings.Contains(err.Error(), "invalid")
}
