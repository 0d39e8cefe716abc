// Package wsconn makes a WebSocket a net.Conn: binary frames as a stream of bytes.
package wsconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coder/websocket"
)

const (
	// Longer writes are cut into frames of this size, so that a pong never waits for more than
	// one of them: the peer may hang up when it has to wait for long.
	maxFrame = 16 << 10

	// closeTimeout is how long Close tries to send a close frame.
	closeTimeout = time.Second
)

var aLongTimeAgo = time.Unix(1, 0)

// Conn is the client's end of a WebSocket. Where frames begin and end means nothing: Read returns
// the bytes of binary frames in their order, and a Write may become several frames.
//
// A read deadline that passes leaves the connection as it was. So does a write deadline that
// passes before a Write begins; in a Write, as with TLS, it is the end of the connection.
//
// A goroutine reads all the time, so that pings are answered also while nobody calls Read. It
// stops when the chunks that it has read are not taken, which holds the peer back as TCP does.
//
// There is no CloseWrite. A WebSocket that has sent a close frame may get nothing more, since its
// peer answers with one at once as a rule (RFC 6455, 5.5.1). The other way round works: what
// the peer sent before its close frame can be read, and is followed by io.EOF.
type Conn struct {
	ws     *websocket.Conn
	stream *stream

	received *buffer

	writeMu sync.Mutex // serializes Write

	deadlineMu    sync.Mutex // guards what follows
	writeDeadline time.Time
	writing       bool

	closing    sync.Once
	closed     chan struct{} // by Close
	goroutines sync.WaitGroup
	failure    atomic.Pointer[error] // why the connection was given up, if that was our decision
}

func newConn(ws *websocket.Conn, s *stream) *Conn {
	c := &Conn{ws: ws, stream: s, received: newBuffer(), closed: make(chan struct{})}
	// Frames are not held as a whole, so that their length is no danger.
	ws.SetReadLimit(-1)
	ended := make(chan struct{})
	c.goroutines.Go(func() {
		defer close(ended)
		c.received.fail(c.receive())
	})
	c.goroutines.Go(func() { c.keepAlive(ended) })
	return c
}

// receive reads frames until the connection ends, and returns why it ended.
func (c *Conn) receive() error {
	for {
		kind, message, err := c.ws.Reader(context.Background())
		if err != nil {
			return c.receiveError(err)
		}
		if kind != websocket.MessageBinary {
			c.fail(errors.New("the server sent a text frame, which does not occur in PostgreSQL's protocol"))
			return c.receiveError(nil)
		}
		for err == nil {
			chunk := chunkPool.Get().(*[]byte)
			var n int
			if n, err = message.Read(*chunk); n == 0 {
				chunkPool.Put(chunk)
			} else if !c.received.write(chunk, n) {
				return net.ErrClosed
			}
		}
		if err != io.EOF {
			return c.receiveError(err)
		}
	}
}

// receiveError returns the cause of err, which package websocket wraps several times.
func (c *Conn) receiveError(err error) error {
	if failure := c.failure.Load(); failure != nil {
		return c.opError("read", *failure)
	}
	var closed websocket.CloseError
	switch {
	case errors.As(err, &closed):
		switch closed.Code {
		case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
			return io.EOF
		}
		return c.opError("read", fmt.Errorf("the server closed the WebSocket with status %d (%q)", closed.Code, closed.Reason))
	}
	if cause := c.stream.readErr.Load(); cause != nil {
		return *cause
	}
	return c.opError("read", err)
}

// fail gives the connection up.
func (c *Conn) fail(err error) {
	c.failure.CompareAndSwap(nil, &err)
	c.stream.conn.SetDeadline(aLongTimeAgo)
	c.stream.conn.Close()
}

func (c *Conn) Read(p []byte) (int, error) {
	n, err := c.received.read(p)
	if err == os.ErrDeadlineExceeded || err == net.ErrClosed {
		err = c.opError("read", err)
	}
	return n, err
}

func (c *Conn) Write(p []byte) (n int, err error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if err := c.beginWrite(); err != nil {
		return 0, c.opError("write", err)
	}
	defer c.endWrite()
	for len(p) > 0 {
		frame := p[:min(len(p), maxFrame)]
		if err := c.ws.Write(context.Background(), websocket.MessageBinary, frame); err != nil {
			return n, c.writeError(err)
		}
		n += len(frame)
		p = p[len(frame):]
	}
	return n, nil
}

// beginWrite has the write deadline take effect on the connection below. It does so for a Write
// alone: a pong that meets a deadline of the past would end the connection.
func (c *Conn) beginWrite() error {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
	}
	c.writing = true
	if c.writeDeadline.IsZero() {
		return nil
	}
	if !time.Now().Before(c.writeDeadline) {
		c.writing = false
		return os.ErrDeadlineExceeded
	}
	return c.stream.conn.SetWriteDeadline(c.writeDeadline)
}

func (c *Conn) endWrite() {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	c.writing = false
	if !c.writeDeadline.IsZero() {
		c.stream.conn.SetWriteDeadline(time.Time{})
	}
}

// writeError returns the cause of err, which package websocket wraps several times.
func (c *Conn) writeError(err error) error {
	select {
	case <-c.closed:
		return c.opError("write", net.ErrClosed)
	default:
	}
	if failure := c.failure.Load(); failure != nil {
		return c.opError("write", *failure)
	}
	if cause := c.stream.writeErr.Load(); cause != nil {
		return *cause
	}
	return c.opError("write", err)
}

// Close sends a close frame, and waits for no answer to it. A Write that is under way is cut
// short, and there is no close frame then.
func (c *Conn) Close() error {
	err := net.ErrClosed
	c.closing.Do(func() {
		err = nil
		close(c.closed)
		c.received.close(net.ErrClosed)
		// It ends the receiver, and the wait for an answer to the close frame.
		c.stream.conn.SetReadDeadline(aLongTimeAgo)
		if c.writeMu.TryLock() {
			defer c.writeMu.Unlock()
			c.stream.conn.SetWriteDeadline(time.Now().Add(closeTimeout))
			c.ws.Close(websocket.StatusNormalClosure, "")
		} else {
			c.ws.CloseNow()
		}
		c.goroutines.Wait()
	})
	return err
}

func (c *Conn) SetDeadline(t time.Time) error {
	c.received.setDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *Conn) SetReadDeadline(t time.Time) error {
	c.received.setDeadline(t)
	return nil
}

func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	c.writeDeadline = t
	if !c.writing {
		return nil
	}
	return c.stream.conn.SetWriteDeadline(t)
}

// Network is the network of the addresses of a Conn. pgx dials the network and address of a
// connection to cancel its query, and so asks for another WebSocket.
const Network = "websocket"

// LocalAddr returns the address of the connection below, with Network.
func (c *Conn) LocalAddr() net.Addr { return address{c.stream.conn.LocalAddr()} }

// RemoteAddr returns the address of the connection below, with Network.
func (c *Conn) RemoteAddr() net.Addr { return address{c.stream.conn.RemoteAddr()} }

type address struct{ net.Addr }

func (address) Network() string { return Network }

// opError makes err a net.Error, as pgx expects of deadlines.
func (c *Conn) opError(op string, err error) error {
	return &net.OpError{Op: op, Net: Network, Source: c.LocalAddr(), Addr: c.RemoteAddr(), Err: err}
}
