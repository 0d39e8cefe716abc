package wsconn

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"

	"github.com/coder/websocket"
)

// Protocol is the ALPN protocol of the TLS connection that an upgrade begins in. HTTP/2 has
// WebSockets, too, in another way (RFC 8441).
const Protocol = "http/1.1"

// maxHead bounds the head of the answer to an upgrade.
const maxHead = 64 << 10

// StatusError is an answer to the upgrade that has another status than 101.
type StatusError struct {
	Code   int
	Status string // such as "403 Forbidden"
	Server string // the header Server, which may name a proxy; "" if there was none
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("the answer to the upgrade is HTTP status %s", e.Status)
	if e.Server != "" {
		text += fmt.Sprintf(" from %q", e.Server)
	}
	return text
}

// ErrNoWebSocket is an answer that accepts the upgrade in another way than RFC 6455 says, or that
// is no HTTP.
var ErrNoWebSocket = errors.New("the answer to the upgrade is no WebSocket's")

// Upgrade makes conn, which is verified TLS to host, a WebSocket: path /, no subprotocol, no
// authorization and no compression. When it fails, or ctx ends first, conn is of no more use and
// the caller has to close it. After Upgrade, ctx has no effect.
func Upgrade(ctx context.Context, conn net.Conn, host string) (*Conn, error) {
	s := newStream(conn)
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(aLongTimeAgo) })
	ws, answer, err := websocket.Dial(context.WithoutCancel(ctx), "wss://"+host+"/", &websocket.DialOptions{HTTPClient: &http.Client{
		Transport:     s,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}})
	if !stop() && err == nil {
		ws.CloseNow()
		return nil, ctx.Err()
	}
	switch {
	case err == nil:
		return newConn(ws, s), nil
	case answer != nil && answer.StatusCode != http.StatusSwitchingProtocols:
		return nil, &StatusError{Code: answer.StatusCode, Status: answer.Status, Server: answer.Header.Get("Server")}
	case answer != nil:
	case s.readErr.Load() != nil:
		return nil, *s.readErr.Load()
	case s.writeErr.Load() != nil:
		return nil, *s.writeErr.Load()
	}
	return nil, fmt.Errorf("%w: %w", ErrNoWebSocket, err)
}

// stream is the connection below the WebSocket, as package websocket gets it. As an
// http.RoundTripper it sends the upgrade.
type stream struct {
	conn   net.Conn
	reader *bufio.Reader // of conn, for the answer to the upgrade

	reads             atomic.Uint64         // that succeeded
	readErr, writeErr atomic.Pointer[error] // the first ones

	// interrupted is told that a read deadline has passed. If it returns true, the read goes on. It
	// may be nil.
	interrupted func(error) bool
}

func newStream(conn net.Conn) *stream {
	s := &stream{conn: conn}
	s.reader = bufio.NewReader(io.LimitReader(connReader{s}, maxHead))
	return s
}

func (s *stream) RoundTrip(request *http.Request) (*http.Response, error) {
	if err := request.Write(s); err != nil {
		return nil, err
	}
	answer, err := http.ReadResponse(s.reader, request)
	if err != nil {
		return nil, err
	}
	answer.Body = s
	if answer.StatusCode != http.StatusSwitchingProtocols {
		answer.Body = http.NoBody // the connection is closed, so the rest need not be read
	}
	return answer, nil
}

func (s *stream) Read(p []byte) (int, error) {
	if s.reader.Buffered() > 0 {
		return s.reader.Read(p) // frames that came with the answer
	}
	return connReader{s}.Read(p)
}

// connReader reads conn and nothing that is buffered.
type connReader struct{ *stream }

func (r connReader) Read(p []byte) (int, error) {
	n, err := r.conn.Read(p)
	for n == 0 && errors.Is(err, os.ErrDeadlineExceeded) && r.interrupted != nil && r.interrupted(err) {
		n, err = r.conn.Read(p)
	}
	if err != nil {
		r.readErr.CompareAndSwap(nil, &err)
	} else {
		r.reads.Add(1)
	}
	return n, err
}

func (s *stream) Write(p []byte) (int, error) {
	n, err := s.conn.Write(p)
	if err != nil {
		s.writeErr.CompareAndSwap(nil, &err)
	}
	return n, err
}

func (s *stream) Close() error { return s.conn.Close() }
