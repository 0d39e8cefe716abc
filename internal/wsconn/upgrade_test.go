package wsconn

import (
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/internal/nettest"
)

// upgrade makes one to a server that has answer for it.
func upgrade(t *testing.T, ctx context.Context, serve func(net.Conn)) (*Conn, error) {
	address := nettest.Listen(t, func(conn *net.TCPConn) { serve(conn) })
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close() })
	return Upgrade(ctx, conn, "example.com")
}

// The request is the one that AWS's connector for postgres.js sends: nothing in it is for a proxy
// or a browser.
func TestUpgradeRequest(t *testing.T) {
	requests := make(chan *http.Request, 1)
	c, err := upgrade(t, t.Context(), func(conn net.Conn) {
		requests <- accept(conn)
		io.Copy(io.Discard, conn)
	})
	require.NoError(t, err)
	defer c.Close()
	r := <-requests
	require.Equal(t, "GET / HTTP/1.1", r.Method+" "+r.RequestURI+" "+r.Proto)
	require.Equal(t, "example.com", r.Host)
	require.Equal(t, "13", r.Header.Get("Sec-WebSocket-Version"))
	for _, absent := range []string{"Authorization", "Origin", "Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions"} {
		require.NotContains(t, r.Header, absent)
	}
}

func TestUpgradeAnswers(t *testing.T) {
	const switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
	cases := map[string]struct {
		answer string
		status *StatusError
		is     error
	}{
		"forbidden":       {answer: "HTTP/1.1 403 Forbidden\r\nServer: squid/6.1\r\nContent-Length: 1000000\r\n\r\n<html>", status: &StatusError{Code: 403, Status: "403 Forbidden", Server: "squid/6.1"}},
		"OK":              {answer: "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", status: &StatusError{Code: 200, Status: "200 OK"}},
		"redirect":        {answer: "HTTP/1.1 302 Found\r\nLocation: https://login.example.com/\r\n\r\n", status: &StatusError{Code: 302, Status: "302 Found"}},
		"unavailable":     {answer: "HTTP/1.1 503 Service Unavailable\r\n\r\n", status: &StatusError{Code: 503, Status: "503 Service Unavailable"}},
		"no Accept":       {answer: switching + "\r\n", is: ErrNoWebSocket},
		"wrong Accept":    {answer: switching + "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n", is: ErrNoWebSocket},
		"another upgrade": {answer: "HTTP/1.1 101 Switching Protocols\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n", is: ErrNoWebSocket},
		"no HTTP":         {answer: "SSH-2.0-OpenSSH_9.2\r\n", is: ErrNoWebSocket},
		"endless head":    {answer: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", maxHead), is: ErrNoWebSocket},
		"hang-up":         {is: io.EOF},
	}
	for name, want := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := upgrade(t, t.Context(), func(conn net.Conn) {
				conn.Read(make([]byte, 4096))
				conn.Write([]byte(want.answer))
				conn.(*net.TCPConn).CloseWrite()
				io.Copy(io.Discard, conn)
			})
			if want.status == nil {
				require.ErrorIs(t, err, want.is)
				return
			}
			var status *StatusError
			require.ErrorAs(t, err, &status)
			require.Equal(t, want.status, status)
			require.ErrorContains(t, err, want.status.Status)
			require.ErrorContains(t, err, want.status.Server)
		})
	}
}

// Frames that arrive together with the answer are not lost.
func TestFramesBehindAnswer(t *testing.T) {
	c, err := upgrade(t, t.Context(), func(conn net.Conn) {
		accept(delayed{conn, []byte{0x82, 2, 'h', 'i', 0x88, 0}})
	})
	require.NoError(t, err)
	defer c.Close()
	got, err := io.ReadAll(c)
	require.NoError(t, err)
	require.Equal(t, "hi", string(got))
}

// delayed adds behind to what is written at once.
type delayed struct {
	net.Conn
	behind []byte
}

func (d delayed) Write(b []byte) (int, error) { return d.Conn.Write(append(b, d.behind...)) }

func TestUpgradeIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Now()
	_, err := upgrade(t, ctx, func(conn net.Conn) {
		conn.Read(make([]byte, 4096))
		cancel()
		io.Copy(io.Discard, conn)
	})
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
	require.Less(t, time.Since(began), 10*time.Second)
}

// The context of the upgrade has no effect on the connection.
func TestContextEndsWithUpgrade(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	c, err := upgrade(t, ctx, func(conn net.Conn) {
		accept(conn)
		io.ReadFull(conn, make([]byte, 7))
		conn.Write([]byte{0x82, 1, 'x'})
		io.Copy(io.Discard, conn)
	})
	require.NoError(t, err)
	defer c.Close()
	cancel()
	_, err = c.Write([]byte("x"))
	require.NoError(t, err)
	_, err = c.Read(make([]byte, 1))
	require.NoError(t, err)
}
