// Package latency puts a connection at a distance.
package latency

import (
	"context"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// segment is how much is taken off the network at once; a TLS record fits.
	segment = 16<<10 + 512

	// window is how many writes may be on their way. With full records they are
	// 16 MiB, so that time limits nothing before 1 GB/s.
	window = 1024

	// drainTimeout is how long what was written may take to leave after Close.
	drainTimeout = time.Second
)

// TCPConn is what *net.TCPConn can do, and what a Conn can.
type TCPConn interface {
	net.Conn
	CloseWrite() error
	SetLinger(seconds int) error
}

// Conn is a connection whose bytes take their time. They wait in queues
// rather than in Read and Write, so any number of them are on their way at once.
//
// Deadlines of Read act where the bytes come in: one that has passed stays
// passed.
type Conn struct {
	TCPConn
	ctx     context.Context // its end cuts the connection
	oneWay  time.Duration
	opened  time.Time // when TCP's handshake is over
	in, out chan parcel
	inErr   error // why in ended; set before in is closed

	closing   sync.Once
	closed    chan struct{} // by Close
	closedAt  time.Time     // set before closed is closed
	delivered chan struct{} // closed when out is not read any more

	reading sync.Mutex // guards rest
	rest    []byte     // of what came in

	mu            sync.Mutex // guards what follows
	writeDeadline time.Time
}

// parcel is what was written at once, due at the other end at some time.
type parcel struct {
	due  time.Time
	data []byte
	fin  bool // the sender has nothing more to say
}

// New puts conn at the distance of a round trip. It has run start two goroutines. Both end some
// time after Close, or at once when ctx does.
func New(ctx context.Context, conn TCPConn, roundTrip time.Duration, run func(func())) *Conn {
	d := &Conn{
		TCPConn:   conn,
		ctx:       ctx,
		oneWay:    roundTrip / 2,
		opened:    time.Now().Add(roundTrip),
		in:        make(chan parcel, window),
		out:       make(chan parcel, window),
		closed:    make(chan struct{}),
		delivered: make(chan struct{}),
	}
	run(d.receive)
	run(d.deliver)
	return d
}

func (d *Conn) due() time.Time {
	now := time.Now()
	if now.Before(d.opened) {
		now = d.opened
	}
	return now.Add(d.oneWay)
}

// await returns at due. It is false when the connection was cut before.
func (d *Conn) await(due time.Time) bool {
	wait := time.Until(due)
	if wait <= 0 {
		return d.ctx.Err() == nil
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-d.ctx.Done():
		return false
	}
}

// receive queues what comes in.
func (d *Conn) receive() {
	defer close(d.in)
	buffer := make([]byte, segment)
	for {
		n, err := d.TCPConn.Read(buffer)
		select {
		case d.in <- parcel{due: d.due(), data: append([]byte(nil), buffer[:n]...)}:
		case <-d.closed:
			d.inErr = net.ErrClosed
			return
		case <-d.ctx.Done():
			d.inErr = net.ErrClosed
			return
		}
		if err != nil {
			d.inErr = err
			return
		}
	}
}

func (d *Conn) Read(p []byte) (int, error) {
	d.reading.Lock()
	defer d.reading.Unlock()
	for len(d.rest) == 0 && len(p) > 0 {
		select {
		case next, ok := <-d.in:
			if !ok {
				return 0, d.inErr
			}
			if !d.await(next.due) {
				return 0, net.ErrClosed
			}
			d.rest = next.data
		case <-d.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(p, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

func (d *Conn) Write(p []byte) (int, error) {
	if err := d.send(parcel{due: d.due(), data: append([]byte(nil), p...)}); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (d *Conn) CloseWrite() error { return d.send(parcel{due: d.due(), fin: true}) }

func (d *Conn) send(p parcel) error {
	select {
	case <-d.closed:
		return net.ErrClosed
	case <-d.delivered:
		return net.ErrClosed
	default:
	}
	d.mu.Lock()
	deadline := d.writeDeadline
	d.mu.Unlock()
	var expired <-chan time.Time
	if !deadline.IsZero() {
		left := time.Until(deadline)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		timer := time.NewTimer(left)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case d.out <- p:
		return nil
	case <-expired:
		return os.ErrDeadlineExceeded
	case <-d.closed:
	case <-d.delivered:
	}
	return net.ErrClosed
}

// deliver sends what was written, and closes the connection at last.
func (d *Conn) deliver() {
	// A client that does not read would keep it for ever.
	defer context.AfterFunc(d.ctx, func() { d.TCPConn.Close() })()
	defer d.TCPConn.Close()
	defer close(d.delivered)
	for {
		select {
		case p := <-d.out:
			if !d.hand(p) {
				return
			}
		case <-d.ctx.Done():
			return
		case <-d.closed:
			for {
				select {
				case p := <-d.out:
					if !d.hand(p) {
						return
					}
				default:
					d.await(d.closedAt)
					return
				}
			}
		}
	}
}

func (d *Conn) hand(p parcel) bool {
	if !d.await(p.due) {
		return false
	}
	if p.fin {
		return d.TCPConn.CloseWrite() == nil
	}
	_, err := d.TCPConn.Write(p.data)
	return err == nil
}

// Close returns at once. What was written arrives, if the client reads it, and
// so does the end.
func (d *Conn) Close() error {
	d.closing.Do(func() {
		d.closedAt = d.due()
		d.TCPConn.SetWriteDeadline(d.closedAt.Add(drainTimeout))
		close(d.closed)
	})
	return nil
}

func (d *Conn) SetDeadline(t time.Time) error {
	d.SetWriteDeadline(t)
	return d.SetReadDeadline(t)
}

// SetWriteDeadline does not reach the connection below: crypto/tls has one
// pass as soon as it has written its goodbye, which is on its way by then.
func (d *Conn) SetWriteDeadline(t time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writeDeadline = t
	return nil
}
