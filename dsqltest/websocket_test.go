package dsqltest

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/internal/wsconn"
)

// webSocketConfig leads pgx to address, where it speaks in the frames of a WebSocket inside TLS.
func webSocketConfig(tb testing.TB, s *Server, address string, wrap func(net.Conn) net.Conn) *pgx.ConnConfig {
	config := connConfig(tb, s, adminRole)
	config.TLSConfig = nil
	config.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		tls := clientTLS(s, s.Endpoint())
		tls.NextProtos = []string{wsconn.Protocol}
		conn, err := dialTLSContext(ctx, address, tls)
		if err != nil {
			return nil, err
		}
		c, err := wsconn.Upgrade(ctx, conn, s.Endpoint())
		if err != nil {
			conn.Close()
			return nil, err
		}
		return wrap(c), nil
	}
	return config
}

func dialTLSContext(ctx context.Context, address string, config *tls.Config) (net.Conn, error) {
	return (&tls.Dialer{Config: config}).DialContext(ctx, "tcp", address)
}

func asItIs(conn net.Conn) net.Conn { return conn }

// inPieces writes a frame for every byte.
type inPieces struct{ net.Conn }

func (p inPieces) Write(b []byte) (int, error) {
	for i := range b {
		if n, err := p.Conn.Write(b[i : i+1]); err != nil {
			return i + n, err
		}
	}
	return len(b), nil
}

// A WebSocket carries sessions as TLS does, on either port, whatever the frames are.
func TestWebSocket(t *testing.T) {
	s := New(t, WithWebSocketAddress("127.0.0.1:0"))
	require.NotEqual(t, s.Addr(), s.WebSocketAddr())
	for name, address := range map[string]string{"port of PostgreSQL": s.Addr(), "port of its own": s.WebSocketAddr()} {
		t.Run(name, func(t *testing.T) {
			for name, wrap := range map[string]func(net.Conn) net.Conn{"frames as written": asItIs, "a frame a byte": func(conn net.Conn) net.Conn { return inPieces{conn} }} {
				t.Run(name, func(t *testing.T) {
					conn := connect(t, webSocketConfig(t, s, address, wrap))
					require.Equal(t, strings.Repeat("long ", 20_000), queryString(t, conn, "select repeat('long ', 20000)"))
					want := Attempt{Address: address, ServerName: s.Endpoint(), TLSVersion: tls.VersionTLS13, ALPN: alpnHTTP, WebSocket: true, User: adminRole, ClusterID: s.ClusterID(), Outcome: "ok"}
					got := lastAttempt(t, s)
					require.NotEmpty(t, got.TokenID)
					want.TokenHost, want.TokenRegion, want.TokenAction, want.TokenID = got.TokenHost, got.TokenRegion, got.TokenAction, got.TokenID
					require.Equal(t, want, got)
				})
			}
		})
	}
	t.Run("cancel request", func(t *testing.T) {
		conn := connect(t, webSocketConfig(t, s, s.WebSocketAddr(), asItIs))
		ended := make(chan error, 1)
		go func() {
			_, err := conn.Exec(context.Background(), "select pg_sleep(60)")
			ended <- err
		}()
		require.Eventually(t, func() bool {
			require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
			select {
			case err := <-ended:
				require.ErrorContains(t, err, "57014")
				return true
			default:
				return false
			}
		}, 30*time.Second, 50*time.Millisecond)
		last := lastAttempt(t, s)
		require.True(t, last.Cancel)
		require.True(t, last.WebSocket)
	})
	t.Run("refusal", func(t *testing.T) {
		config := webSocketConfig(t, s, s.WebSocketAddr(), asItIs)
		config.Password = "no token"
		_, err := pgx.ConnectConfig(t.Context(), config)
		require.ErrorContains(t, err, "unable to accept connection, access denied")
	})
}

// The port for WebSockets takes nothing else, as a web server does.
func TestWebSocketPort(t *testing.T) {
	s := New(t, WithWebSocketAddress("127.0.0.1:0"))
	startup, err := (&pgproto3.StartupMessage{ProtocolVersion: protocolVersion3, Parameters: map[string]string{"user": adminRole}}).Encode(nil)
	require.NoError(t, err)
	for name, c := range map[string]struct {
		protocols []string
		says      string
		answer    string
	}{
		"startup message":              {protocols: []string{alpnHTTP}, says: string(startup)},
		"startup message without ALPN": {says: string(startup)},
		"no upgrade":                   {says: "GET / HTTP/1.1\r\nHost: x\r\n\r\n", answer: "HTTP/1.1 426"},
		"another path":                 {protocols: []string{alpnHTTP}, says: "GET /x HTTP/1.1\r\nHost: x\r\n\r\n", answer: "HTTP/1.1 404"},
	} {
		t.Run(name, func(t *testing.T) {
			config := clientTLS(s, s.Endpoint())
			config.NextProtos = c.protocols
			conn, err := tls.Dial("tcp", s.WebSocketAddr(), config)
			require.NoError(t, err)
			defer conn.Close()
			_, err = conn.Write([]byte(c.says))
			require.NoError(t, err)
			answer, _ := io.ReadAll(conn)
			require.True(t, strings.HasPrefix(string(answer), c.answer) && len(answer) >= len(c.answer), string(answer))
			if c.answer == "" {
				require.Empty(t, answer)
			}
			last := lastAttempt(t, s)
			require.NotEqual(t, "ok", last.Outcome)
			require.False(t, last.WebSocket)
		})
	}
	t.Run("ALPN of PostgreSQL", func(t *testing.T) {
		_, err := tls.Dial("tcp", s.WebSocketAddr(), clientTLS(s, s.Endpoint()))
		var alert *net.OpError
		require.ErrorAs(t, err, &alert)
		require.Equal(t, "remote error", alert.Op)
	})
	t.Run("SSLRequest", func(t *testing.T) {
		conn, err := net.Dial("tcp", s.WebSocketAddr())
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.Write([]byte{0, 0, 0, 8, 4, 210, 22, 47})
		require.NoError(t, err)
		answer, _ := io.ReadAll(conn)
		require.Empty(t, answer)
	})
	t.Run("HTTP where PostgreSQL was agreed", func(t *testing.T) {
		conn, err := tls.Dial("tcp", s.Addr(), clientTLS(s, s.Endpoint()))
		require.NoError(t, err)
		defer conn.Close()
		_, err = conn.Write([]byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n"))
		require.NoError(t, err)
		answer, _ := io.ReadAll(conn)
		require.Empty(t, answer)
	})
}

// Each port has its faults, so the network of the report can be played: 5432 reset, 443 open.
func TestPortFaults(t *testing.T) {
	s := New(t, WithWebSocketAddress("127.0.0.1:0"))
	reset := Always(Fault{Phase: OnClientHello, Effect: Reset})
	s.SetFaults(reset)
	_, err := pgx.ConnectConfig(t.Context(), connConfig(t, s, adminRole))
	require.ErrorIs(t, err, syscall.ECONNRESET)
	connect(t, webSocketConfig(t, s, s.WebSocketAddr(), asItIs))

	s.SetFaults(nil)
	s.SetWebSocketFaults(reset)
	connect(t, connConfig(t, s, adminRole))
	_, err = pgx.ConnectConfig(t.Context(), webSocketConfig(t, s, s.WebSocketAddr(), asItIs))
	require.ErrorIs(t, err, syscall.ECONNRESET)

	c := s.Config()
	require.Empty(t, c.DialAddress)
	for port, address := range map[string]string{"5432": s.Addr(), "443": s.WebSocketAddr()} {
		conn, err := c.DialFunc(t.Context(), "tcp", net.JoinHostPort(s.Endpoint(), port))
		require.NoError(t, err)
		require.Equal(t, address, conn.RemoteAddr().String())
		conn.Close()
	}
}

// A box in between can drop the upgrade as well.
func TestUpgradeFaults(t *testing.T) {
	s := New(t)
	for effect, check := range map[Effect]func(error) bool{
		Reset:   func(err error) bool { return errors.Is(err, syscall.ECONNRESET) },
		HangUp:  func(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) },
		Silence: func(err error) bool { return errors.Is(err, os.ErrDeadlineExceeded) },
		Garbage: func(err error) bool { return errors.Is(err, wsconn.ErrNoWebSocket) },
	} {
		t.Run(effect.String(), func(t *testing.T) {
			f := Fault{Phase: OnUpgrade, Effect: effect}
			s.SetFaults(Always(f))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			config := clientTLS(s, s.Endpoint())
			config.NextProtos = []string{alpnHTTP}
			conn, err := dialTLSContext(ctx, s.Addr(), config)
			require.NoError(t, err)
			defer conn.Close()
			ended := make(chan error, 1)
			go func() {
				_, err := wsconn.Upgrade(ctx, conn, s.Endpoint())
				ended <- err
			}()
			require.Eventually(t, func() bool { return lastAttempt(t, s).Fault == f }, 20*time.Second, time.Millisecond)
			if effect == Silence {
				require.Empty(t, ended)
				cancel()
			}
			err = <-ended
			require.True(t, check(err), err)
			last := lastAttempt(t, s)
			require.Equal(t, f, last.Fault)
			require.Equal(t, f.String(), last.Outcome)
		})
	}
	t.Run("not for PostgreSQL", func(t *testing.T) {
		connect(t, connConfig(t, s, adminRole))
	})
}
