package dsql_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/internal/nettest"
)

// twoPorts starts a server that has the two ports of a cluster.
func twoPorts(t *testing.T, options ...dsqltest.Option) *dsqltest.Server {
	t.Helper()
	return dsqltest.New(t, append(options, dsqltest.WithWebSocketAddress("127.0.0.1:0"), dsqltest.WithConnectQuota(-1, 0))...)
}

// attemptsAt counts the connections that came to one of s's ports.
func attemptsAt(s *dsqltest.Server, address string) (n int) {
	for _, a := range s.Attempts() {
		if a.Address == address {
			n++
		}
	}
	return n
}

var stopTLS = dsqltest.Always(dsqltest.Fault{Phase: dsqltest.OnClientHello, Effect: dsqltest.Reset})

// Each transport carries sessions, whatever opens them.
func TestTransports(t *testing.T) {
	t.Parallel()
	s := twoPorts(t)
	for name, connect := range connectFuncs {
		for transport, webSocket := range map[string]bool{"": false, "tcp": false, "websocket": true, "auto": false} {
			for _, early := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s, transport %q, EarlyAuth %v", name, transport, early), func(t *testing.T) {
					c := s.Config()
					c.Transport, c.EarlyAuth = transport, early
					got, err := connect(t.Context(), c, 42)
					require.NoError(t, err)
					require.Equal(t, 42, got)
					attempts := s.Attempts()
					last := attempts[len(attempts)-1]
					require.Equal(t, webSocket, last.WebSocket)
					require.Equal(t, s.Endpoint(), last.ServerName)
					require.Equal(t, "ok", last.Outcome)
				})
			}
		}
	}
	t.Run("same port", func(t *testing.T) {
		c := s.Config()
		c.Transport, c.DialFunc, c.DialAddress = "websocket", nil, s.Addr()
		conn, err := dsql.Connect(t.Context(), c)
		require.NoError(t, err)
		defer conn.Close(t.Context())
		require.Equal(t, "websocket", conn.PgConn().Conn().RemoteAddr().Network())
	})
}

// The network of the report: TLS on 5432 is reset, 443 is open. "tcp" fails; "auto" gets through, and a
// hundred connects after the first try 5432 no more.
func TestAutoTransport(t *testing.T) {
	t.Parallel()
	for name, connect := range connectFuncs {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := twoPorts(t)
			s.SetFaults(stopTLS)
			c := s.Config()
			c.ConnectTimeout = 300 * time.Millisecond
			var reset atomic.Int64
			c.OnRetry = func(e dsql.RetryEvent) {
				if strings.HasPrefix(e.Err.Error(), "dsql: TLS handshake failed: ") && e.Transport == "tcp" {
					reset.Add(1)
				}
			}
			_, err := connect(t.Context(), c, 1)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NotZero(t, reset.Load())
			require.Zero(t, attemptsAt(s, s.WebSocketAddr()))

			c = s.Config()
			c.Transport = "auto"
			before := attemptsAt(s, s.Addr())
			var retries []dsql.RetryEvent
			c.OnRetry = func(e dsql.RetryEvent) { retries = append(retries, e) }
			for i := range 101 {
				got, err := connect(t.Context(), c, i)
				require.NoError(t, err)
				require.Equal(t, i, got)
			}
			require.Equal(t, before+1, attemptsAt(s, s.Addr()))
			require.Len(t, retries, 1)
			require.Equal(t, "tcp", retries[0].Transport)
			require.Zero(t, retries[0].Wait)
			require.ErrorContains(t, retries[0].Err, "TLS handshake failed over tcp: "+s.Endpoint()+":5432")

			// When the WebSocket is stopped instead, TCP is tried again.
			s.SetFaults(nil)
			s.SetWebSocketFaults(stopTLS)
			got, err := connect(t.Context(), c, 7)
			require.NoError(t, err)
			require.Equal(t, 7, got)
			require.Equal(t, "websocket", retries[1].Transport)
		})
	}
}

// Whatever way a network has to stop PostgreSQL, a WebSocket is next.
func TestStoppedNetworks(t *testing.T) {
	t.Parallel()
	fault := func(phase dsqltest.Phase, effect dsqltest.Effect) func(*dsqltest.Server, *dsql.Config) {
		return func(s *dsqltest.Server, c *dsql.Config) {
			s.SetFaults(dsqltest.Always(dsqltest.Fault{Phase: phase, Effect: effect}))
			if phase == dsqltest.OnSSLRequest {
				c.SSLNegotiation = "postgres"
			}
		}
	}
	dial := func(tcp pgconn.DialFunc) func(*dsqltest.Server, *dsql.Config) {
		return func(s *dsqltest.Server, c *dsql.Config) {
			toServer := c.DialFunc
			c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
				if strings.HasSuffix(address, ":5432") {
					return tcp(ctx, network, address)
				}
				return toServer(ctx, network, address)
			}
		}
	}
	for name, stop := range map[string]func(*dsqltest.Server, *dsql.Config){
		"reset at the ClientHello":   fault(dsqltest.OnClientHello, dsqltest.Reset),
		"hang-up at the ClientHello": fault(dsqltest.OnClientHello, dsqltest.HangUp),
		"silence at the ClientHello": fault(dsqltest.OnClientHello, dsqltest.Silence),
		"reset at the SSLRequest":    fault(dsqltest.OnSSLRequest, dsqltest.Reset),
		"silence at the SSLRequest":  fault(dsqltest.OnSSLRequest, dsqltest.Silence),
		"reset at once":              fault(dsqltest.OnAccept, dsqltest.Reset),
		"silence from the beginning": fault(dsqltest.OnAccept, dsqltest.Silence),
		"port closed": dial(func(context.Context, string, string) (net.Conn, error) {
			return new(net.Dialer).Dial("tcp", "127.0.0.1:1")
		}),
		"port filtered": dial(func(ctx context.Context, _, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, ctx.Err()
		}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := twoPorts(t)
			c := s.Config()
			c.Transport = "auto"
			stop(s, &c)
			var retries atomic.Int64
			c.OnRetry = func(dsql.RetryEvent) { retries.Add(1) }
			for range 3 {
				conn, err := dsql.Connect(t.Context(), c)
				require.NoError(t, err)
				require.Equal(t, "websocket", conn.PgConn().Conn().RemoteAddr().Network())
				require.NoError(t, conn.Close(t.Context()))
			}
			require.EqualValues(t, 1, retries.Load())
		})
	}
}

// What a cluster says, and who shows another certificate on 5432, is no reason to try another port.
func TestRefusalsDoNotSwitch(t *testing.T) {
	t.Parallel()
	_, otherRoots := nettest.Issue(t, "another", "example.com")
	for name, change := range map[string]func(*dsqltest.Server, *dsql.Config){
		"access denied":     func(_ *dsqltest.Server, c *dsql.Config) { c.User = "nobody" },
		"another authority": func(_ *dsqltest.Server, c *dsql.Config) { c.RootCAs = otherRoots },
		"reset in the login": func(s *dsqltest.Server, _ *dsql.Config) {
			s.SetFaults(first(dsqltest.Fault{Phase: dsqltest.OnStartup, Effect: dsqltest.Reset}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := twoPorts(t)
			c := s.Config()
			c.Transport = "auto"
			change(s, &c)
			conn, err := dsql.Connect(t.Context(), c)
			if strings.HasPrefix(name, "reset") {
				require.NoError(t, err)
				require.NoError(t, conn.Close(t.Context()))
			} else {
				require.ErrorContains(t, err, " over tcp: "+s.Endpoint()+":5432")
			}
			require.Zero(t, attemptsAt(s, s.WebSocketAddr()))
			require.NotZero(t, attemptsAt(s, s.Addr()))
		})
	}
}

// Where neither transport gets through, the error says so of both.
func TestBothStopped(t *testing.T) {
	t.Parallel()
	s := twoPorts(t)
	s.SetFaults(stopTLS)
	for name, c := range map[string]struct {
		fault dsqltest.Fault
		says  string
	}{
		"reset":         {dsqltest.Fault{Phase: dsqltest.OnClientHello, Effect: dsqltest.Reset}, "TLS handshake failed over websocket: " + s.Endpoint() + ":443"},
		"upgrade ended": {dsqltest.Fault{Phase: dsqltest.OnUpgrade, Effect: dsqltest.HangUp}, "WebSocket upgrade failed over websocket: " + s.Endpoint() + ":443"},
		"no WebSocket":  {dsqltest.Fault{Phase: dsqltest.OnUpgrade, Effect: dsqltest.Garbage}, "the answer to the upgrade is no WebSocket's"},
	} {
		t.Run(name, func(t *testing.T) {
			s.SetWebSocketFaults(dsqltest.Always(c.fault))
			config := s.Config()
			config.Transport, config.ConnectTimeout = "auto", time.Second
			_, err := dsql.Connect(t.Context(), config)
			require.ErrorContains(t, err, "TLS handshake failed over tcp: "+s.Endpoint()+":5432")
			require.ErrorContains(t, err, c.says)
			require.ErrorIs(t, err, context.DeadlineExceeded, "it is as persistent as tcp")
		})
	}
	t.Run("websocket alone ends at once", func(t *testing.T) {
		s.SetWebSocketFaults(dsqltest.Always(dsqltest.Fault{Phase: dsqltest.OnUpgrade, Effect: dsqltest.Garbage}))
		config := s.Config()
		config.Transport = "websocket"
		_, err := dsql.Connect(t.Context(), config)
		require.ErrorContains(t, err, "the answer to the upgrade is no WebSocket's")
		require.NotErrorIs(t, err, context.DeadlineExceeded)
	})
}

// A proxy that opens TLS shows its own certificate, and gets no token.
func TestOpenedTLS(t *testing.T) {
	t.Parallel()
	s := twoPorts(t)
	_, otherRoots := nettest.Issue(t, "another", "example.com")
	c := s.Config()
	c.Transport, c.RootCAs = "websocket", otherRoots
	_, err := dsql.Connect(t.Context(), c)
	require.ErrorContains(t, err, "TLS handshake failed over websocket")
	require.ErrorContains(t, err, "set RootCAs")
	require.Empty(t, s.Attempts()[0].TokenID)
}

// Connections by WebSocket are tried again as those by TCP are.
func TestWebSocketRetriesAfterFaults(t *testing.T) {
	t.Parallel()
	s := twoPorts(t)
	for _, phase := range []dsqltest.Phase{dsqltest.OnAccept, dsqltest.OnClientHello, dsqltest.OnUpgrade, dsqltest.OnStartup, dsqltest.OnPassword} {
		for _, effect := range []dsqltest.Effect{dsqltest.Reset, dsqltest.HangUp} {
			for _, after := range []int{0, 7} {
				fault := dsqltest.Fault{Phase: phase, Effect: effect, After: after}
				t.Run(fault.String(), func(t *testing.T) {
					s.SetWebSocketFaults(first(fault))
					c := s.Config()
					c.Transport = "websocket"
					before := len(s.Attempts())
					conn, err := dsql.Connect(t.Context(), c)
					require.NoError(t, err)
					require.NoError(t, conn.Close(t.Context()))
					require.LessOrEqual(t, len(s.Attempts())-before, 2)
				})
			}
		}
	}
}

// Refusals mean the same, and tokens are renewed.
func TestWebSocketRefusals(t *testing.T) {
	t.Parallel()
	s := twoPorts(t)
	c := s.Config()
	c.Transport = "websocket"
	s.RefuseNext(1, dsqltest.RefuseExpired)
	conn, err := dsql.Connect(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))

	c.User = "nobody"
	_, err = dsql.Connect(t.Context(), c)
	require.ErrorIs(t, err, dsql.ErrAccessDenied)
	require.ErrorContains(t, err, "dsql: access denied over websocket: "+s.Endpoint()+":443")
}

// A cancel request goes by the transport of the session, inside TLS.
func TestCancelByTransport(t *testing.T) {
	t.Parallel()
	for name, webSocket := range map[string]bool{"tcp": false, "websocket": true, "auto": false, "auto, stopped": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := twoPorts(t)
			if strings.HasSuffix(name, "stopped") {
				s.SetFaults(stopTLS)
			}
			c := s.Config()
			c.Transport, _, _ = strings.Cut(name, ",")
			conn, err := dsql.Connect(t.Context(), c)
			require.NoError(t, err)
			defer conn.Close(context.Background())
			ended := make(chan error, 1)
			go func() {
				_, err := conn.Exec(t.Context(), "select pg_sleep(600)")
				ended <- err
			}()
			require.Eventually(t, func() bool { // the first may come too early
				require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
				return len(ended) > 0
			}, 30*time.Second, 50*time.Millisecond)
			var pgErr *pgconn.PgError
			require.ErrorAs(t, <-ended, &pgErr)
			require.Equal(t, "57014", pgErr.Code)
			var cancels []dsqltest.Attempt
			for _, a := range s.Attempts() {
				if a.Cancel {
					cancels = append(cancels, a)
				}
			}
			last := cancels[len(cancels)-1]
			require.Equal(t, webSocket, last.WebSocket)
			require.Equal(t, "ok", last.Outcome)
		})
	}
}

// With a WebSocket, pgx knows nothing of TLS. So nothing may be sent that pgx would send without it.
func TestTunedWebSocket(t *testing.T) {
	t.Parallel()
	s := twoPorts(t)
	c := s.Config()
	for _, c.Transport = range []string{"websocket", "auto"} {
		tcp := s.Config()
		withTLS, err := tcp.ConnConfig(t.Context())
		require.NoError(t, err)
		for name, tune := range map[string]func(*pgx.ConnConfig){
			"TLSConfig": func(cc *pgx.ConnConfig) { cc.TLSConfig = withTLS.TLSConfig },
			"DialFunc":  func(cc *pgx.ConnConfig) { cc.DialFunc = tcp.DialFunc },
		} {
			_, err := dsql.Connect(t.Context(), c, tune)
			require.ErrorIs(t, err, dsql.ErrConfig, name)
			require.ErrorContains(t, err, "set Config.RootCAs or Config.DialFunc")
		}
		cc, err := c.ConnConfig(t.Context())
		require.NoError(t, err)
		require.Nil(t, cc.TLSConfig)
		cc.AfterNetConnect = nil
		_, err = pgx.ConnectConfig(t.Context(), cc)
		require.ErrorContains(t, err, "AfterNetConnect was replaced")

		_, err = dsql.Connect(t.Context(), c, func(cc *pgx.ConnConfig) { cc.User = "app" })
		require.ErrorIs(t, err, dsql.ErrConfig)
		require.ErrorContains(t, err, "ConnConfig.User")
	}
	require.EventuallyWithT(t, func(c *assert.CollectT) {
		for _, a := range s.Attempts() {
			assert.Equal(c, "waiting for TLS: EOF", a.Outcome, "something was sent")
		}
	}, 10*time.Second, time.Millisecond)
}

// The log says which transport was used.
func TestTransportIsLogged(t *testing.T) {
	t.Parallel()
	s := twoPorts(t)
	s.SetFaults(stopTLS)
	var log lockedBuilder
	c := s.Config()
	c.Transport, c.Logger = "auto", slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	conn, err := dsql.Connect(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	require.Contains(t, log.String(), `msg="dsql: retrying to connect" attempt=1 transport=tcp`)
	require.Contains(t, log.String(), `msg="dsql: connected" transport=websocket attempts=2`)
}

type lockedBuilder struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuilder) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuilder) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Many connects at once pay for a silent network together: one tries TCP, and all get through.
func TestManyOnStoppedNetwork(t *testing.T) {
	t.Parallel()
	s := twoPorts(t)
	s.SetFaults(dsqltest.Always(dsqltest.Fault{Phase: dsqltest.OnClientHello, Effect: dsqltest.Silence}))
	c := s.Config()
	c.Transport = "auto"
	var connects sync.WaitGroup
	for range 20 {
		connects.Go(func() {
			conn, err := dsql.Connect(t.Context(), c)
			if assert.NoError(t, err) {
				assert.NoError(t, conn.Close(t.Context()))
			}
		})
	}
	connects.Wait()
	require.Equal(t, 1, attemptsAt(s, s.Addr()))
}

// HTTPS_PROXY leads WebSockets through a proxy, and their cancel requests too. The environment is read
// once by net/http, so the client is a process of its own.
func TestEnvironmentProxy(t *testing.T) {
	if dsn := os.Getenv("DSQL_TEST_PROXIED"); dsn != "" {
		connectProxied(t, dsn)
		return
	}
	t.Parallel()
	s := dsqltest.New(t)
	const password = "proxy-passw0rd"
	var requests atomic.Int64
	proxy := nettest.Listen(t, func(conn *net.TCPConn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil || !assert.Equal(t, "CONNECT "+s.Endpoint()+":443", r.Method+" "+r.RequestURI) {
			return
		}
		_, given, _ := parseProxyAuthorization(r)
		assert.Equal(t, password, given)
		onward, err := net.Dial("tcp", s.Addr())
		if !assert.NoError(t, err) {
			return
		}
		defer onward.Close()
		requests.Add(1)
		_, _ = io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		go func() { _, _ = io.Copy(onward, conn); onward.Close() }()
		_, _ = io.Copy(conn, onward)
	})
	roots := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(roots, s.CAPEM(), 0o600))
	key := s.Credentials()
	client := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestEnvironmentProxy$")
	client.Env = append(os.Environ(), "HTTPS_PROXY=http://someone:"+password+"@"+proxy, "NO_PROXY=",
		"DSQL_TEST_PROXIED=dsql://"+s.Endpoint()+"?transport=websocket&sslrootcert="+roots,
		"DSQL_TEST_KEY="+key.AccessKeyID, "DSQL_TEST_SECRET="+key.SecretAccessKey)
	output, err := client.CombinedOutput()
	require.NoError(t, err, string(output))
	require.NotContains(t, string(output), password)
	require.EqualValues(t, 2, requests.Load())
	require.True(t, lastCancel(t, s).WebSocket)
}

func parseProxyAuthorization(r *http.Request) (user, password string, ok bool) {
	return (&http.Request{Header: http.Header{"Authorization": r.Header["Proxy-Authorization"]}}).BasicAuth()
}

func lastCancel(t *testing.T, s *dsqltest.Server) (last dsqltest.Attempt) {
	require.Eventually(t, func() bool {
		for _, a := range s.Attempts() {
			if a.Cancel {
				last = a
			}
		}
		return last.Cancel
	}, 10*time.Second, time.Millisecond)
	return last
}

func connectProxied(t *testing.T, dsn string) {
	c, err := dsql.ParseConfig(dsn)
	require.NoError(t, err)
	c.Credentials = credentials.NewStaticCredentialsProvider(os.Getenv("DSQL_TEST_KEY"), os.Getenv("DSQL_TEST_SECRET"), "")
	conn, err := dsql.Connect(t.Context(), c)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	require.Equal(t, "admin", selectUser(t, conn))
	require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
}
