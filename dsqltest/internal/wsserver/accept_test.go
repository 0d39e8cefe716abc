package wsserver

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dsqlgo/dsql/internal/nettest"
	"github.com/dsqlgo/dsql/internal/wsconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial returns the client's end of a WebSocket whose other end serve has.
func dial(t *testing.T, serve func(*Conn)) *wsconn.Conn {
	address := nettest.Listen(t, func(tcp *net.TCPConn) {
		c, err := Accept(tcp, bufio.NewReader(tcp))
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Close()
		serve(c)
	})
	tcp, err := net.Dial("tcp", address)
	require.NoError(t, err)
	c, err := wsconn.Upgrade(t.Context(), tcp, "example.com")
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

func TestStream(t *testing.T) {
	c := dial(t, func(c *Conn) { io.Copy(c, c) })
	data := make([]byte, 3<<20)
	rand.Read(data)
	go func() {
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 1+len(rest)%50_000)
			c.Write(rest[:n])
			rest = rest[n:]
		}
	}()
	got := make([]byte, len(data))
	_, err := io.ReadFull(c, got)
	require.NoError(t, err)
	require.True(t, bytes.Equal(data, got))
}

// A client that goes ends what is read; a server that goes has its last words read.
func TestEnd(t *testing.T) {
	read := make(chan error, 1)
	c := dial(t, func(c *Conn) {
		_, err := io.ReadAll(c)
		read <- err
	})
	require.NoError(t, c.Close())
	require.NoError(t, <-read)

	c = dial(t, func(c *Conn) { c.Write([]byte("bye")) })
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "bye", string(got))

	c = dial(t, func(c *Conn) {
		c.Write([]byte("bye"))
		c.CloseWrite()
		io.Copy(io.Discard, c.Conn) // until the client goes
	})
	got, err = io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "bye", string(got))
}

// A client that does not read does not keep Close from its work.
func TestCloseDuringWrite(t *testing.T) {
	closed := make(chan struct{})
	c := dial(t, func(c *Conn) {
		writing := make(chan error, 1)
		go func() {
			_, err := c.Write(make([]byte, 64<<20))
			writing <- err
		}()
		for len(writing) == 0 && c.mu.TryLock() { // until it writes
			c.mu.Unlock()
		}
		c.Close()
		if <-writing == nil {
			t.Error("everything was written to a client that does not read")
		}
		close(closed)
	})
	<-closed
	_ = c
}

func TestRequests(t *testing.T) {
	const upgrade = "Host: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
	for request, status := range map[string]int{
		"GET / HTTP/1.1\r\n" + upgrade + "\r\n":                                       101,
		"GET / HTTP/1.1\r\nOrigin: https://app.example.com\r\n" + upgrade + "\r\n":    101,
		"GET / HTTP/1.1\r\nSec-WebSocket-Protocol: postgresql\r\n" + upgrade + "\r\n": 101,
		"GET /health HTTP/1.1\r\n" + upgrade + "\r\n":                                 404,
		"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n":                                 426,
		"GET / HTTP/1.1\r\n" + strings.Replace(upgrade, "13", "8", 1) + "\r\n":        426,
		"GET / HTTP/1.1\r\n" + strings.Replace(upgrade, "AAAAAA==", "==", 1) + "\r\n": 400,
		"nonsense\r\n\r\n": 400,
		"POST / HTTP/1.1\r\nContent-Length: 0\r\n" + upgrade + "\r\n": 405,
	} {
		address := nettest.Listen(t, func(tcp *net.TCPConn) {
			if c, err := Accept(tcp, bufio.NewReader(tcp)); err == nil {
				c.Close()
			}
		})
		tcp, err := net.Dial("tcp", address)
		require.NoError(t, err)
		defer tcp.Close()
		_, err = io.WriteString(tcp, request)
		require.NoError(t, err)
		answer, err := http.ReadResponse(bufio.NewReader(tcp), nil)
		require.NoError(t, err)
		require.Equal(t, status, answer.StatusCode, request)
		require.Empty(t, answer.Header.Get("Sec-WebSocket-Protocol"))
	}
}
