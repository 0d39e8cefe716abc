// Package wsconn makes a WebSocket a net.Conn: binary frames as a stream of bytes.
package wsconn

import (
	"context"
	"errors"
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
// While nobody calls Read, a goroutine of the Conn reads, so that pings are answered. It stops when it
// has received something, which waits for Read and holds the peer back as TCP does.
//
// There is no CloseWrite. A WebSocket that has sent a close frame may get nothing more, since its
// peer answers with one at once as a rule (RFC 6455, 5.5.1). The other way round works: what
// the peer sent before its close frame can be read, and is followed by io.EOF.
type Conn struct {
	ws     *websocket.Conn
	stream *stream

	readMu   sync.Mutex // held while receiver is used: by Read, or by receiveIdle
	receiver *receiver
	readers  atomic.Int32 // calls of Read that wait or are under way

	writeMu sync.Mutex    // serializes Write
	written atomic.Uint64 // frames

	deadlineMu    sync.Mutex // guards the fields below
	readDeadline  time.Time
	writeDeadline time.Time
	reading       bool      // readDeadline counts for the connection below
	idle          bool      // receiveIdle reads
	writing       bool      // writeDeadline counts for the connection below
	readLimit     time.Time // the read deadline that the connection below has

	closing    sync.Once
	closed     chan struct{} // by Close
	goroutines sync.WaitGroup
	failure    atomic.Pointer[error] // why the connection was given up, if that was our decision
}

func newConn(ws *websocket.Conn, s *stream) *Conn {
	c := &Conn{ws: ws, stream: s, receiver: newReceiver(ws, s), closed: make(chan struct{})}
	c.goroutines.Go(c.keepAlive)
	return c
}

// fail gives the connection up.
func (c *Conn) fail(err error) {
	c.failure.CompareAndSwap(nil, &err)
	c.stream.conn.SetDeadline(aLongTimeAgo)
	c.stream.conn.Close()
}

func (c *Conn) Read(p []byte) (int, error) {
	c.readers.Add(1)
	defer c.readers.Add(-1)
	c.interruptIdle()
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for {
		expired, err := c.beginRead()
		switch {
		case err != nil:
			return 0, c.opError("read", err)
		case expired:
			return 0, c.opError("read", os.ErrDeadlineExceeded)
		case len(p) == 0 || len(c.receiver.rest) > 0:
			return c.receiver.read(p), nil
		}
		err = c.receiver.more()
		c.endRead()
		// A deadline that has passed may have been moved meanwhile, or was for receiveIdle.
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return 0, c.readError(err)
		}
	}
}

// beginRead has the read deadline take effect on the connection below.
func (c *Conn) beginRead() (expired bool, err error) {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	select {
	case <-c.closed:
		return false, net.ErrClosed
	default:
	}
	if !c.readDeadline.IsZero() && !time.Now().Before(c.readDeadline) {
		return true, nil
	}
	c.reading = true
	return false, c.limitRead(c.readDeadline)
}

func (c *Conn) endRead() {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	c.reading = false
}

// limitRead sets the read deadline of the connection below. c.deadlineMu must be held.
func (c *Conn) limitRead(t time.Time) error {
	if c.readLimit.Equal(t) {
		return nil
	}
	c.readLimit = t
	return c.stream.conn.SetReadDeadline(t)
}

// receiveIdle receives until the deadline if there is no Read. It ends when there is one.
func (c *Conn) receiveIdle(deadline time.Time) {
	if !c.readMu.TryLock() {
		return
	}
	defer c.readMu.Unlock()
	if len(c.receiver.rest) > 0 || c.receiver.err != nil || !c.beginIdle(deadline) {
		return
	}
	_ = c.receiver.more() // Read will have its result
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	c.idle = false
}

func (c *Conn) beginIdle(deadline time.Time) bool {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	select {
	case <-c.closed:
		return false
	default:
	}
	if c.readers.Load() > 0 || c.limitRead(deadline) != nil {
		return false
	}
	c.idle = true
	return true
}

// interruptIdle ends receiveIdle.
func (c *Conn) interruptIdle() {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	if c.idle {
		_ = c.limitRead(aLongTimeAgo)
	}
}

// readError returns the error of a connection that ended.
func (c *Conn) readError(err error) error {
	select {
	case <-c.closed:
		return c.opError("read", net.ErrClosed)
	default:
	}
	if failure := c.failure.Load(); failure != nil {
		return c.opError("read", *failure)
	}
	var network net.Error
	if err == io.EOF || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &network) {
		return err
	}
	return c.opError("read", err)
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
		c.written.Add(1)
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
		c.deadlineMu.Lock()
		close(c.closed)
		_ = c.limitRead(aLongTimeAgo) // it ends Read, and the wait for an answer to the close frame
		c.deadlineMu.Unlock()
		c.goroutines.Wait()
		c.readMu.Lock()
		c.receiver.close()
		c.readMu.Unlock()
		if c.writeMu.TryLock() {
			defer c.writeMu.Unlock()
			c.stream.conn.SetWriteDeadline(time.Now().Add(closeTimeout))
			c.ws.Close(websocket.StatusNormalClosure, "")
		} else {
			c.ws.CloseNow()
		}
	})
	return err
}

func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *Conn) SetReadDeadline(t time.Time) error {
	c.deadlineMu.Lock()
	defer c.deadlineMu.Unlock()
	select {
	case <-c.closed:
		return net.ErrClosed
	default:
	}
	c.readDeadline = t
	if !c.reading {
		return nil
	}
	return c.limitRead(t)
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
