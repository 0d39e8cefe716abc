// Package wsserver accepts WebSockets on connections that are open already.
package wsserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/coder/websocket"
)

// closeTimeout is how long a close frame may take to be sent.
const closeTimeout = time.Second

// Conn is the server's end of a WebSocket as a net.Conn: binary frames as a stream of bytes, a frame
// for each Write. Deadlines are those of the connection below; when one passes, the WebSocket is of
// no more use.
type Conn struct {
	net.Conn // that the WebSocket runs in

	ws      *websocket.Conn
	message io.Reader // of which Read is in the middle
}

// Accept reads an HTTP request from reader, which reads conn, and answers it on conn. Its error says
// what was wrong with the request; that, the client was told.
func Accept(conn net.Conn, reader *bufio.Reader) (*Conn, error) {
	request, err := http.ReadRequest(reader)
	if err != nil {
		return nil, fmt.Errorf("reading the HTTP request: %w", err)
	}
	w := &response{conn: conn, reader: reader, header: http.Header{}}
	if request.URL.Path != "/" {
		http.NotFound(w, request)
		return nil, fmt.Errorf("an HTTP request for %s", request.URL.Path)
	}
	// The client is a program, so it may name any origin.
	ws, err := websocket.Accept(w, request, &websocket.AcceptOptions{InsecureSkipVerify: true})
	if err != nil {
		return nil, err
	}
	ws.SetReadLimit(-1) // messages are never held as a whole
	return &Conn{Conn: conn, ws: ws}, nil
}

func (c *Conn) Read(p []byte) (int, error) {
	for {
		if c.message == nil {
			kind, message, err := c.ws.Reader(context.Background())
			switch {
			case websocket.CloseStatus(err) == websocket.StatusNormalClosure, websocket.CloseStatus(err) == websocket.StatusGoingAway, websocket.CloseStatus(err) == websocket.StatusNoStatusRcvd:
				return 0, io.EOF
			case err != nil:
				return 0, err
			case kind != websocket.MessageBinary:
				return 0, errors.New("a WebSocket frame that is not binary")
			}
			c.message = message
		}
		n, err := c.message.Read(p)
		if err == io.EOF {
			c.message, err = nil, nil
		}
		if n > 0 || err != nil || len(p) == 0 {
			return n, err
		}
	}
}

func (c *Conn) Write(p []byte) (int, error) {
	if err := c.ws.Write(context.Background(), websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// CloseWrite sends a close frame and does not wait for an answer. Nothing can be read afterwards, but
// the connection below stays open.
func (c *Conn) CloseWrite() error {
	_ = c.SetReadDeadline(time.Unix(1, 0))
	_ = c.SetWriteDeadline(time.Now().Add(closeTimeout))
	err := c.ws.Close(websocket.StatusNormalClosure, "")
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		err = errors.Join(err, half.CloseWrite())
	}
	return err
}

// Close sends a close frame, if CloseWrite has not, and closes the connection below.
func (c *Conn) Close() error {
	_ = c.CloseWrite()
	return c.Conn.Close()
}

// response is an http.ResponseWriter for one answer on conn.
type response struct {
	conn   net.Conn
	reader *bufio.Reader
	header http.Header
	begun  bool
}

func (r *response) Header() http.Header { return r.header }

func (r *response) WriteHeader(status int) {
	if r.begun {
		return
	}
	r.begun = true
	if status != http.StatusSwitchingProtocols {
		r.header.Set("Connection", "close")
	}
	head := bufio.NewWriter(r.conn)
	fmt.Fprintf(head, "HTTP/1.1 %d %s\r\n", status, http.StatusText(status))
	_ = r.header.Write(head)
	_, _ = head.WriteString("\r\n")
	_ = head.Flush() // the next read or write has the error
}

func (r *response) Write(p []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.conn.Write(p)
}

// Hijack is http.Hijacker's.
func (r *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return keptOpen{r.conn}, bufio.NewReadWriter(r.reader, bufio.NewWriter(r.conn)), nil
}

// keptOpen is closed by Conn, and not by the end of the WebSocket.
type keptOpen struct{ net.Conn }

func (keptOpen) Close() error { return nil }
