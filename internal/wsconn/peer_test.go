package wsconn

import (
	"bufio"
	"crypto/sha1"
	"crypto/tls"
	"encoding/base64"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/internal/nettest"
)

func dialTLS(t *testing.T, server *httptest.Server, config *tls.Config) net.Conn {
	conn, err := tls.Dial("tcp", server.Listener.Addr().String(), config)
	require.NoError(t, err)
	return conn
}

// dialRaw returns a client whose peer answers the upgrade, and then writes what serve does.
func dialRaw(t *testing.T, serve func(conn net.Conn)) *Conn {
	address := nettest.Listen(t, func(conn *net.TCPConn) {
		if accept(conn) != nil {
			serve(conn)
		}
	})
	conn, err := net.Dial("tcp", address)
	require.NoError(t, err)
	c, err := Upgrade(t.Context(), conn, "example.com")
	require.NoError(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// accept answers an upgrade by hand, and returns the request; nil if none came.
func accept(conn net.Conn) *http.Request {
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return nil
	}
	sum := sha1.Sum([]byte(request.Header.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11")) // RFC 6455, 1.3
	conn.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: " + base64.StdEncoding.EncodeToString(sum[:]) + "\r\n\r\n"))
	return request
}
