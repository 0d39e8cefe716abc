package latency

import (
	"context"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
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
func distance(ctx context.Context, roundTrip time.Duration) (*Conn, *near, net.Conn) {
	server, client := net.Pipe()
	below := &near{Conn: server, finished: make(chan struct{}), lingers: -1}
	return New(ctx, below, roundTrip, func(f func()) { go f() }), below, client
}

// Times are exact in these tests, since they are a bubble's. It also sees to
// it that no goroutine stays.
func TestConn(t *testing.T) {
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
	for name, test := range map[string]func(*testing.T, *Conn, *near, net.Conn, func() time.Duration){
		"there and back": func(t *testing.T, server *Conn, _ *near, client net.Conn, elapsed func() time.Duration) {
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
		"much at once": func(t *testing.T, server *Conn, _ *near, client net.Conn, elapsed func() time.Duration) {
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
		"close": func(t *testing.T, server *Conn, below *near, client net.Conn, elapsed func() time.Duration) {
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
		"half-close": func(t *testing.T, server *Conn, below *near, client net.Conn, elapsed func() time.Duration) {
			require.NoError(t, server.CloseWrite())
			<-below.finished
			require.Equal(t, 3*roundTrip/2, elapsed())
			write(t, client, "still here")
			read(t, server, "still here")
		},
		"reset": func(t *testing.T, server *Conn, below *near, client net.Conn, elapsed func() time.Duration) {
			server.SetLinger(0)
			server.Close()
			_, err := client.Read(make([]byte, 1))
			require.Error(t, err)
			require.Zero(t, below.lingers)
			require.Equal(t, 3*roundTrip/2, elapsed())
		},
		"client leaves": func(t *testing.T, server *Conn, _ *near, client net.Conn, elapsed func() time.Duration) {
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
		"client that does not read": func(t *testing.T, server *Conn, _ *near, client net.Conn, elapsed func() time.Duration) {
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
			require.Equal(t, time.Minute+roundTrip+drainTimeout, elapsed())
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
