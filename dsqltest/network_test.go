package dsqltest

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dsqlgo/dsql"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// near is one end of a pipe, which can do what TCP does.
type near struct {
	net.Conn
	finished chan struct{} // by CloseWrite
	lingers  int
}

func (n *near) CloseWrite() error { close(n.finished); return nil }

func (n *near) SetLinger(seconds int) error { n.lingers = seconds; return nil }

// distance makes the ends of a connection: the server's, what is below it, and the client's.
func distance(ctx context.Context, roundTrip time.Duration) (*distant, *near, net.Conn) {
	server, client := net.Pipe()
	below := &near{Conn: server, finished: make(chan struct{}), lingers: -1}
	return newDistant(ctx, below, roundTrip, func(f func()) { go f() }), below, client
}

// Times are exact in these tests, since they are a bubble's. It also sees to
// it that no goroutine stays.
func TestDistant(t *testing.T) {
	const roundTrip = 20 * time.Millisecond
	read := func(t *testing.T, conn net.Conn, want string) {
		t.Helper()
		got := make([]byte, len(want))
		_, err := io.ReadFull(conn, got)
		require.NoError(t, err)
		require.Equal(t, want, string(got))
	}
	write := func(t *testing.T, conn net.Conn, text string) {
		t.Helper()
		n, err := conn.Write([]byte(text))
		require.NoError(t, err)
		require.Equal(t, len(text), n)
	}
	for name, test := range map[string]func(*testing.T, *distant, *near, net.Conn, func() time.Duration){
		"there and back": func(t *testing.T, server *distant, _ *near, client net.Conn, elapsed func() time.Duration) {
			write(t, client, "ping")
			read(t, server, "ping")
			require.Equal(t, 3*roundTrip/2, elapsed(), "TCP's handshake first")
			write(t, server, "pong")
			require.Equal(t, 3*roundTrip/2, elapsed(), "a write does not wait")
			read(t, client, "pong")
			require.Equal(t, 2*roundTrip, elapsed())
			write(t, client, "bye")
			read(t, server, "b") // in pieces
			read(t, server, "ye")
			require.Equal(t, 5*roundTrip/2, elapsed())
		},
		"much at once": func(t *testing.T, server *distant, _ *near, client net.Conn, elapsed func() time.Duration) {
			chunk := strings.Repeat("x", 16<<10)
			for range window {
				write(t, server, chunk)
			}
			require.Zero(t, elapsed())
			for range window {
				read(t, client, chunk)
			}
			require.Equal(t, 3*roundTrip/2, elapsed())
			for range window {
				write(t, client, "y")
			}
			read(t, server, strings.Repeat("y", window))
			require.Equal(t, 2*roundTrip, elapsed())
		},
		"close": func(t *testing.T, server *distant, below *near, client net.Conn, elapsed func() time.Duration) {
			write(t, server, "last words")
			// As crypto/tls does.
			require.NoError(t, server.SetWriteDeadline(time.Now()))
			_, err := server.Write([]byte("late"))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.NoError(t, server.Close())
			require.NoError(t, server.Close())
			require.Zero(t, elapsed())
			_, err = server.Read(make([]byte, 1))
			require.ErrorIs(t, err, net.ErrClosed)
			_, err = server.Write([]byte("x"))
			require.ErrorIs(t, err, net.ErrClosed)
			require.ErrorIs(t, server.CloseWrite(), net.ErrClosed)
			rest, err := io.ReadAll(client)
			require.NoError(t, err)
			require.Equal(t, "last words", string(rest))
			require.Equal(t, 3*roundTrip/2, elapsed())
		},
		"half-close": func(t *testing.T, server *distant, below *near, client net.Conn, elapsed func() time.Duration) {
			require.NoError(t, server.CloseWrite())
			<-below.finished
			require.Equal(t, 3*roundTrip/2, elapsed())
			write(t, client, "still here")
			read(t, server, "still here")
		},
		"reset": func(t *testing.T, server *distant, below *near, client net.Conn, elapsed func() time.Duration) {
			reset(server)
			_, err := client.Read(make([]byte, 1))
			require.Error(t, err)
			require.Zero(t, below.lingers)
			require.Equal(t, 3*roundTrip/2, elapsed())
		},
		"client leaves": func(t *testing.T, server *distant, _ *near, client net.Conn, elapsed func() time.Duration) {
			write(t, client, "last words")
			client.Close()
			all, err := io.ReadAll(server)
			require.NoError(t, err)
			require.Equal(t, "last words", string(all))
			require.Equal(t, 3*roundTrip/2, elapsed())
			write(t, server, "unheard")
			<-server.delivered
			_, err = server.Write([]byte("x"))
			require.ErrorIs(t, err, net.ErrClosed)
		},
		"client that does not read": func(t *testing.T, server *distant, _ *near, client net.Conn, elapsed func() time.Duration) {
			for range window {
				write(t, server, "x")
			}
			require.NoError(t, server.SetDeadline(time.Now().Add(time.Minute)))
			write(t, server, "x") // the first is being delivered
			_, err := server.Write([]byte("x"))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			require.Equal(t, time.Minute, elapsed())
			_, err = server.Read(make([]byte, 1))
			require.ErrorIs(t, err, os.ErrDeadlineExceeded)

			require.NoError(t, server.Close())
			<-server.delivered
			require.Equal(t, time.Minute+roundTrip+lingerTimeout, elapsed())
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				server, below, client := distance(t.Context(), roundTrip)
				test(t, server, below, client, func() time.Duration { return time.Since(began) })
				server.Close()
				client.Close()
			})
		})
	}

	t.Run("cut", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			server, _, client := distance(ctx, time.Hour)
			write(t, client, "x")
			write(t, server, "x")
			ended := make(chan error, 1)
			go func() {
				_, err := server.Read(make([]byte, 1))
				ended <- err
			}()
			synctest.Wait()
			began := time.Now()
			cancel()
			require.ErrorIs(t, <-ended, net.ErrClosed)
			_, err := client.Read(make([]byte, 1))
			require.ErrorIs(t, err, io.EOF)
			synctest.Wait()
			_, err = server.Write([]byte("x"))
			require.ErrorIs(t, err, net.ErrClosed)
			require.Zero(t, time.Since(began))
		})
	})
}

// TCP, TLS 1.3 and the login cost the round trips that they cost at the
// service. Only the lower bounds are sure on a loaded machine; the upper ones
// get some tries.
func TestRoundTripTime(t *testing.T) {
	const roundTrip = 60 * time.Millisecond
	s := New(t, WithRoundTripTime(roundTrip))
	for name, tt := range map[string]struct {
		change func(*dsql.Config)
		trips  time.Duration
	}{
		"SSLRequest":     {func(c *dsql.Config) { c.SSLNegotiation = "postgres" }, 5},
		"direct":         {func(*dsql.Config) {}, 4},
		"early password": {func(c *dsql.Config) { c.EarlyAuth = true }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			config := s.Config()
			tt.change(&config)
			for try := 1; ; try++ {
				began := time.Now()
				conn, err := dsql.Connect(t.Context(), config)
				elapsed := time.Since(began)
				require.NoError(t, err)
				require.GreaterOrEqual(t, elapsed, tt.trips*roundTrip)
				require.NoError(t, conn.Close(t.Context()))
				if elapsed < (tt.trips+1)*roundTrip {
					break
				}
				require.Less(t, try, 20, "%v for %d round trips of %v", elapsed, tt.trips, roundTrip)
			}
		})
	}

	t.Run("much at once", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, adminRole))
		rows, err := conn.Query(t.Context(), "select repeat(md5(i::text), 10) from generate_series(1, 50000) i")
		require.NoError(t, err)
		sum := sha256.New()
		var text string
		_, err = pgx.ForEachRow(rows, []any{&text}, func() error {
			_, err := io.WriteString(sum, text)
			return err
		})
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("%x", sum.Sum(nil)), queryString(t, conn,
			"select encode(sha256(string_agg(repeat(md5(i::text), 10), '' order by i)::bytea), 'hex') from generate_series(1, 50000) i"))
	})

	t.Run("refusal", func(t *testing.T) {
		s.RefuseNext(1, RefuseAccess)
		refusedAs(t, s, RefuseAccess)
	})

	t.Run("off", func(t *testing.T) {
		s.SetRoundTripTime(0)
		connect(t, connConfig(t, s, adminRole))
		s.SetRoundTripTime(-1)
		connect(t, connConfig(t, s, adminRole))
	})
}

// Close does not wait for what is on its way.
func TestCloseFarAway(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	s, err := Start(t.Context(), WithRoundTripTime(20*time.Millisecond))
	require.NoError(t, err)
	defer s.Close()
	idle := connect(t, connConfig(t, s, adminRole))
	require.NoError(t, connect(t, connConfig(t, s, adminRole)).Close(t.Context()))
	s.SetRoundTripTime(time.Hour)
	conn, err := net.Dial("tcp", s.Addr())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("hello"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(s.Attempts()) == 3 }, 10*time.Second, time.Millisecond)
	began := time.Now()
	require.NoError(t, s.Close())
	require.Less(t, time.Since(began), 10*time.Second)
	idle.PgConn().Conn().Close()
	goleak.VerifyNone(t, ignore)
}
