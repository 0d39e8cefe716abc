package login

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/internal/nettest"
)

func encodeStartup(t *testing.T, version uint32, parameters map[string]string) []byte {
	t.Helper()
	b, err := (&pgproto3.StartupMessage{ProtocolVersion: version, Parameters: parameters}).Encode(nil)
	require.NoError(t, err)
	return b
}

// openedSession returns a session whose answers are as given, and the server's end of it.
func openedSession(t *testing.T, answers string) (*Session, net.Conn) {
	t.Helper()
	certificate, roots := nettest.Issue(t, "login", "server.test")
	near, far := net.Pipe()
	server := tls.Server(far, &tls.Config{Certificates: []tls.Certificate{certificate}})
	client := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: "server.test"})
	t.Cleanup(func() { near.Close(); far.Close() })
	done := make(chan error, 1)
	go func() { done <- server.Handshake() }()
	require.NoError(t, client.Handshake())
	require.NoError(t, <-done)
	return &Session{Conn: client, tcp: near, tls: client.ConnectionState(), opened: time.Now(), answers: []byte(answers)}, server
}

// rawConn is what pgx dialled, which is never used.
type rawConn struct {
	net.Conn
	closed chan struct{}
}

func newRawConn() *rawConn              { return &rawConn{closed: make(chan struct{})} }
func (r *rawConn) Close() error         { close(r.closed); return nil }
func (r *rawConn) LocalAddr() net.Addr  { return &net.TCPAddr{} }
func (r *rawConn) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(1, 2, 3, 4), Port: 5432} }

// The session is opened with the message that was written, whatever its parameters and however it is
// split. What was written after it goes to the server.
func TestConnOpens(t *testing.T) {
	for name, startup := range map[string][]byte{
		"protocol 3.0": encodeStartup(t, pgproto3.ProtocolVersion30, map[string]string{"user": "admin"}),
		"protocol 3.2": encodeStartup(t, pgproto3.ProtocolVersion32, map[string]string{"user": "admin", "_pq_.new": "1", "another": "x"}),
	} {
		for _, piece := range []int{1, 7, 1000} {
			t.Run(name, func(t *testing.T) {
				session, server := openedSession(t, "answers")
				var got []byte
				c := NewConn(t.Context(), newRawConn(), func(_ context.Context, startup []byte) (*Session, error) {
					got = startup
					go func() { _, _ = server.Write([]byte(" and more")) }()
					return session, nil
				})
				require.Zero(t, c.Opened())
				require.Equal(t, "1.2.3.4:5432", c.RemoteAddr().String())
				require.NoError(t, c.SetDeadline(time.Now().Add(-time.Hour))) // during connect, pgx may set
				require.NoError(t, c.SetDeadline(time.Time{}))                // and reset it

				written := append(bytes.Clone(startup), "early"...)
				for len(written) > 0 {
					n, err := c.Write(written[:min(piece, len(written))])
					require.NoError(t, err)
					written = written[n:]
				}
				early := make([]byte, 5)
				read := make(chan error, 1)
				go func() { _, err := io.ReadFull(server, early); read <- err }()
				all := make([]byte, len("answers and more"))
				_, err := io.ReadFull(c, all)
				require.NoError(t, err)
				require.Equal(t, "answers and more", string(all))
				require.NoError(t, <-read)
				require.Equal(t, "early", string(early))
				require.Equal(t, startup, got)
				require.NotZero(t, c.Opened())
				require.Equal(t, "server.test", c.ConnectionState().ServerName)
				go func() { _, _ = io.Copy(io.Discard, server) }() // takes the alert of the close
				require.NoError(t, c.Close())
			})
		}
	}
}

func TestConnFails(t *testing.T) {
	refused := errors.New("refused")
	opened := 0
	c := NewConn(t.Context(), newRawConn(), func(context.Context, []byte) (*Session, error) { opened++; return nil, refused })
	_, err := c.Write(encodeStartup(t, pgproto3.ProtocolVersion30, map[string]string{"user": "admin"}))
	require.NoError(t, err)
	for range 2 {
		_, err = c.Read(make([]byte, 1))
		require.ErrorIs(t, err, refused)
		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, refused)
	}
	require.Equal(t, 1, opened)
	require.Equal(t, FailedNetwork, c.RemoteAddr().Network())
	require.NoError(t, c.SetDeadline(time.Now()))
	require.NoError(t, c.Close())
	<-c.raw.(*rawConn).closed
}

// A new pgx may begin with another request, which this package cannot answer.
func TestConnOtherMessage(t *testing.T) {
	for name, message := range map[string][]byte{
		"SSLRequest": SSLRequest,
		"protocol 4": {0, 0, 0, 8, 0, 4, 0, 0},
		"too long":   {0, 1, 0, 0, 0, 3, 0, 0},
		"HTTP":       []byte("GET / HTTP/1.1\r\n"),
	} {
		t.Run(name, func(t *testing.T) {
			c := NewConn(t.Context(), newRawConn(), func(context.Context, []byte) (*Session, error) {
				t.Error("opened")
				return nil, io.EOF
			})
			_, err := c.Write(message)
			require.ErrorContains(t, err, "no startup message")
			_, err = c.Read(make([]byte, 1))
			require.ErrorContains(t, err, "no startup message")
		})
	}
}

// Close, and the end of the context, end a Read in each of the states before the session is open.
func TestConnEnds(t *testing.T) {
	for _, startup := range [][]byte{nil, encodeStartup(t, pgproto3.ProtocolVersion30, map[string]string{"user": "admin"})} {
		for name, is := range map[string]error{"Close": net.ErrClosed, "context": context.Canceled} {
			t.Run(name, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				opening := make(chan struct{})
				c := NewConn(ctx, newRawConn(), func(ctx context.Context, _ []byte) (*Session, error) {
					close(opening)
					<-ctx.Done()
					return nil, ctx.Err()
				})
				_, err := c.Write(startup)
				require.NoError(t, err)
				read := make(chan error, 1)
				go func() { _, err := c.Read(make([]byte, 1)); read <- err }()
				if startup != nil {
					<-opening
				}
				if name == "Close" {
					require.NoError(t, c.Close())
				} else {
					cancel()
				}
				require.ErrorIs(t, <-read, is)
			})
		}
	}
}

// A session that is opened while the Conn is closed is closed as well.
func TestConnClosedWhileOpening(t *testing.T) {
	session, server := openedSession(t, "")
	var c *Conn
	c = NewConn(t.Context(), newRawConn(), func(context.Context, []byte) (*Session, error) {
		go func() { _, _ = io.Copy(io.Discard, server) }() // takes the alert of the close
		require.NoError(t, c.Close())
		return session, nil
	})
	_, err := c.Write(encodeStartup(t, pgproto3.ProtocolVersion30, map[string]string{"user": "admin"}))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = session.Conn.Write([]byte("x"))
	require.Error(t, err)
}

// pgx reads in the background, sets deadlines from another goroutine, and closes.
func TestConnConcurrently(t *testing.T) {
	session, server := openedSession(t, "answers")
	c := NewConn(t.Context(), newRawConn(), func(context.Context, []byte) (*Session, error) { return session, nil })
	startup := encodeStartup(t, pgproto3.ProtocolVersion30, map[string]string{"user": "admin"})
	var wg sync.WaitGroup
	wg.Go(func() { _, _ = io.Copy(io.Discard, server) })
	wg.Go(func() {
		all := make([]byte, len("answers"))
		_, err := io.ReadFull(c, all)
		require.NoError(t, err)
		require.Equal(t, "answers", string(all))
	})
	wg.Go(func() {
		for _, b := range startup {
			_, err := c.Write([]byte{b})
			require.NoError(t, err)
		}
	})
	wg.Go(func() {
		for range 100 {
			_ = c.SetDeadline(time.Now().Add(time.Hour))
			_, _ = c.RemoteAddr(), c.LocalAddr()
			_, _ = c.Opened(), c.ConnectionState()
		}
	})
	wgWait := make(chan struct{})
	go func() { wg.Wait(); close(wgWait) }()
	require.Eventually(t, func() bool { return !c.Opened().IsZero() }, 10*time.Second, time.Millisecond)
	require.NoError(t, c.Close())
	<-wgWait
}

func TestSessionAnswersInPieces(t *testing.T) {
	s := &Session{answers: []byte("abc")}
	var got []byte
	for range 3 {
		var b [1]byte
		n, err := s.Read(b[:])
		require.NoError(t, err)
		got = append(got, b[:n]...)
	}
	require.Equal(t, "abc", string(got))
}

// When the connection ends after a message that is too large, which DSQL does in silence, the error says
// so. It stays what it was for errors.Is.
func TestSessionMessageTooLarge(t *testing.T) {
	message := func(size int) []byte {
		return append(binary.BigEndian.AppendUint32([]byte{'Q'}, uint32(size-1)), make([]byte, size-5)...)
	}
	for name, c := range map[string]struct {
		written []byte
		says    bool
	}{
		"too large":               {message(maxSessionMessage + 1), true},
		"as large as may be":      {message(maxSessionMessage), false},
		"several, one too large":  {append(message(100), message(maxSessionMessage+1)...), true},
		"several, none too large": {append(message(6<<20), message(6<<20)...), false},
	} {
		t.Run(name, func(t *testing.T) {
			session, server := openedSession(t, "")
			go func() {
				_, _ = io.CopyN(io.Discard, server, int64(len(c.written)))
				server.(*tls.Conn).NetConn().Close()
			}()
			_, err := session.Write(c.written)
			require.NoError(t, err)
			_, err = session.Read(make([]byte, 1))
			require.Error(t, err)
			require.Equal(t, c.says, strings.Contains(err.Error(), "after a message of 10.0 MiB; DSQL ends"), err)
			if c.says {
				require.ErrorIs(t, err, io.ErrUnexpectedEOF)
			}
		})
	}
	t.Run("answered", func(t *testing.T) {
		session, server := openedSession(t, "")
		large := message(maxSessionMessage + 1)
		go func() {
			_, _ = io.CopyN(io.Discard, server, int64(len(large)))
			_, _ = server.Write([]byte("x"))
			server.(*tls.Conn).NetConn().Close()
		}()
		_, err := session.Write(large)
		require.NoError(t, err)
		_, err = session.Read(make([]byte, 1))
		require.NoError(t, err)
		_, err = session.Read(make([]byte, 1))
		require.Error(t, err)
		require.NotContains(t, err.Error(), "MiB")
	})
}
