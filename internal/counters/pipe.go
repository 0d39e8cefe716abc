package counters

import (
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// pipe is one direction of a connection in memory. What is written arrives after a delay.
type pipe struct {
	mu      sync.Mutex // guards what follows
	chunks  []chunk
	ended   error         // what a reader gets behind the chunks, or nil
	changed chan struct{} // closed and replaced when something above changes
}

type chunk struct {
	due  time.Time
	data []byte
}

func newPipe() *pipe { return &pipe{changed: make(chan struct{})} }

func (p *pipe) wake() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// write queues a copy of data, which arrives after delay.
func (p *pipe) write(data []byte, delay time.Duration) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil {
		return 0, syscall.EPIPE
	}
	due := time.Now().Add(delay)
	if n := len(p.chunks); n > 0 && due.Before(p.chunks[n-1].due) {
		due = p.chunks[n-1].due // nothing overtakes
	}
	p.chunks = append(p.chunks, chunk{due, append([]byte(nil), data...)})
	p.wake()
	return len(data), nil
}

// end ends the pipe. What is still on its way arrives, unless the end is a reset.
func (p *pipe) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended != nil {
		return
	}
	p.ended = err
	if err == syscall.ECONNRESET {
		p.chunks = nil
	}
	p.wake()
}

// read waits until something has arrived, or expired is closed.
func (p *pipe) read(data []byte, expired <-chan struct{}) (int, error) {
	for {
		select {
		case <-expired:
			return 0, os.ErrDeadlineExceeded
		default:
		}
		p.mu.Lock()
		changed := p.changed
		var wait time.Duration
		switch {
		case len(p.chunks) > 0:
			if wait = time.Until(p.chunks[0].due); wait <= 0 {
				n := copy(data, p.chunks[0].data)
				if p.chunks[0].data = p.chunks[0].data[n:]; len(p.chunks[0].data) == 0 {
					p.chunks = p.chunks[1:]
				}
				p.mu.Unlock()
				return n, nil
			}
		case p.ended != nil:
			defer p.mu.Unlock()
			return 0, p.ended
		}
		p.mu.Unlock()
		if wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-changed:
			case <-expired:
			}
			timer.Stop()
			continue
		}
		select {
		case <-changed:
		case <-expired:
		}
	}
}

// conn is one end of a connection in memory. Writes never block.
type conn struct {
	in, out *pipe
	delay   func() time.Duration // of what is written now
	expiry  expiry
}

// newConns returns the two ends of a connection.
func newConns(delay func() time.Duration) (client, server *conn) {
	there, back := newPipe(), newPipe()
	return &conn{in: back, out: there, delay: delay}, &conn{in: there, out: back, delay: delay}
}

func (c *conn) Read(b []byte) (int, error)  { return c.in.read(b, c.expiry.channel()) }
func (c *conn) Write(b []byte) (int, error) { return c.out.write(b, c.delay()) }

// Close ends both directions: the peer reads what is on its way, and then the end.
func (c *conn) Close() error {
	c.out.end(io.EOF)
	c.in.end(net.ErrClosed)
	return nil
}

// reset ends both directions as a TCP reset does.
func (c *conn) reset() {
	c.out.end(syscall.ECONNRESET)
	c.in.end(syscall.ECONNRESET)
}

func (c *conn) LocalAddr() net.Addr                { return address{} }
func (c *conn) RemoteAddr() net.Addr               { return address{} }
func (c *conn) SetDeadline(t time.Time) error      { c.expiry.set(t); return nil }
func (c *conn) SetReadDeadline(t time.Time) error  { c.expiry.set(t); return nil }
func (c *conn) SetWriteDeadline(t time.Time) error { return nil }

type address struct{}

func (address) Network() string { return "memory" }
func (address) String() string  { return "counters" }

// expiry is a read deadline.
type expiry struct {
	mu      sync.Mutex
	timer   *time.Timer
	expired chan struct{} // closed when the deadline is over
}

func (e *expiry) channel() <-chan struct{} {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.expired == nil {
		e.expired = make(chan struct{})
	}
	return e.expired
}

func (e *expiry) set(t time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.timer != nil {
		e.timer.Stop()
		e.timer = nil
	}
	if e.expired == nil {
		e.expired = make(chan struct{})
	}
	select {
	case <-e.expired: // a reader may wait on the old one
		e.expired = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	expired := e.expired
	if wait := time.Until(t); wait > 0 {
		e.timer = time.AfterFunc(wait, func() {
			e.mu.Lock()
			defer e.mu.Unlock()
			if e.expired == expired {
				closeOnce(expired)
			}
		})
		return
	}
	closeOnce(expired)
}

func closeOnce(c chan struct{}) {
	select {
	case <-c:
	default:
		close(c)
	}
}
