package login

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// maxStartup is the largest startup message that PostgreSQL accepts (MAX_STARTUP_PACKET_LENGTH in
// its pqcomm.h).
const maxStartup = 10000

// Conn is the net.Conn that pgx gets from AfterNetConnect. It opens its session at pgx's first Read,
// with the startup message that pgx has written by then. So nothing about that message has to be
// known before. The server's answers to the login, without the request for the password, are what
// pgx reads first.
//
//	state     Write                         Read                       ends when
//	waiting   is kept                       waits                      a startup message is complete
//	ready     is kept                       opens the session          there is a Read
//	opening   is kept                       waits                      open returns
//	open      goes to the server            answers, then the server   Close
//	failed    returns the error             returns the error          -
//
// Close ends every state; it cancels a login in progress. The context given to NewConn ends waiting,
// and open has to end with it. In the first three states a deadline has no effect, but it is kept
// for the session.
//
// The login runs in Read, not in Write, for two reasons, both seen in pgx v5.12.0. pgx starts to read
// in the background when a Write takes longer than 15 ms. And pgx wraps an error of the Write as
// "failed to write startup message: write failed", but one of the Read as "failed to receive
// message".
type Conn struct {
	ctx     context.Context
	cancel  context.CancelFunc
	raw     net.Conn // what pgx dialled
	open    func(ctx context.Context, startup []byte) (*Session, error)
	ready   chan struct{} // closed when a startup message is complete
	opening sync.Once

	session atomic.Pointer[Session] // nil until it is open

	mu        sync.Mutex // guards the fields below, and the change of session
	written   []byte     // before the session is open
	complete  bool       // ready is closed
	err       error      // why there is no session, or net.ErrClosed
	deadlines deadlines
}

type deadlines struct{ read, write time.Time }

// NewConn returns a Conn whose session is opened by open, which gets the startup message. raw is the
// connection that pgx dialled: it has the addresses until the session is open, and is closed if the
// Conn is closed before it calls open. ctx limits the login.
func NewConn(ctx context.Context, raw net.Conn, open func(ctx context.Context, startup []byte) (*Session, error)) *Conn {
	c := &Conn{raw: raw, open: open, ready: make(chan struct{})}
	c.ctx, c.cancel = context.WithCancel(ctx)
	return c
}

func (c *Conn) Write(b []byte) (int, error) {
	if s := c.session.Load(); s != nil {
		return s.Write(b)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return 0, c.err
	}
	if s := c.session.Load(); s != nil {
		return s.Write(b)
	}
	c.written = append(c.written, b...)
	if n, err := startupLength(c.written); err != nil {
		c.fail(err)
		return 0, err
	} else if n > 0 && len(c.written) >= n && !c.complete {
		c.complete = true
		close(c.ready)
	}
	return len(b), nil
}

// startupLength returns the length of the startup message that b begins with, or 0 if b is too short
// to tell.
func startupLength(b []byte) (int, error) {
	if len(b) < 8 {
		return 0, nil
	}
	n, code := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if n < 8 || n > maxStartup || code>>16 != pgproto3.ProtocolVersion30>>16 {
		return 0, fmt.Errorf("dsql: pgx began with a message of %d bytes and the code %d, which is no startup message of protocol 3", n, code)
	}
	return int(n), nil
}

func (c *Conn) Read(b []byte) (int, error) {
	s := c.session.Load()
	if s == nil {
		var err error
		if s, err = c.waitForSession(); err != nil {
			return 0, err
		}
	}
	return s.Read(b)
}

// waitForSession opens the session, or waits for another call that does.
func (c *Conn) waitForSession() (*Session, error) {
	select {
	case <-c.ready:
	case <-c.ctx.Done():
	}
	select {
	case <-c.ready:
		c.opening.Do(c.openOnce)
	default:
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.session.Load()
	if s == nil && c.err == nil {
		return nil, c.ctx.Err()
	}
	return s, c.err
}

func (c *Conn) openOnce() {
	defer c.cancel()
	c.mu.Lock()
	n, _ := startupLength(c.written)
	startup, closed := bytes.Clone(c.written[:n]), c.err != nil
	c.mu.Unlock()
	if closed {
		return
	}
	session, err := c.open(c.ctx, startup)

	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil: // closed meanwhile
		if err == nil {
			session.Close()
		}
		return
	case err != nil:
		c.err = err
		return
	}
	if rest := c.written[n:]; len(rest) > 0 {
		if _, c.err = session.Write(rest); c.err != nil {
			session.Close()
			return
		}
	}
	_ = session.SetReadDeadline(c.deadlines.read)
	_ = session.SetWriteDeadline(c.deadlines.write)
	c.written = nil
	c.session.Store(session)
}

// fail ends the Conn before its session is open. c.mu must be held.
func (c *Conn) fail(err error) {
	c.err = err
	c.cancel()
}

// Opened returns when the login ended; before that, the zero time.
func (c *Conn) Opened() time.Time {
	if s := c.session.Load(); s != nil {
		return s.opened
	}
	return time.Time{}
}

// ConnectionState returns the state of TLS; before the login it is the zero one.
func (c *Conn) ConnectionState() tls.ConnectionState {
	if s := c.session.Load(); s != nil {
		return s.tls
	}
	return tls.ConnectionState{}
}

// NetConn returns the connection under TLS; before the login, the one that pgx dialled.
func (c *Conn) NetConn() net.Conn {
	if s := c.session.Load(); s != nil {
		return s.tcp
	}
	return c.raw
}

func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.session.Load(); s != nil {
		return s.Close()
	}
	if c.err == nil {
		c.fail(net.ErrClosed)
	}
	return c.raw.Close()
}

func (c *Conn) LocalAddr() net.Addr {
	if s := c.session.Load(); s != nil {
		return s.LocalAddr()
	}
	return c.raw.LocalAddr()
}

// RemoteAddr returns the address of the session, or the one that pgx dialled. If the login failed,
// its network is FailedNetwork.
func (c *Conn) RemoteAddr() net.Addr {
	if s := c.session.Load(); s != nil {
		return s.RemoteAddr()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return failedAddr{c.raw.RemoteAddr()}
	}
	return c.raw.RemoteAddr()
}

// FailedNetwork is the network of a Conn whose login failed. When a Read fails, pgx dials the
// network and address of the Conn to send a cancel request (pgconn.PgConn.asyncClose in v5.12.0).
// There is nothing to cancel, so that dial has to fail.
const FailedNetwork = "failed login"

type failedAddr struct{ net.Addr }

func (failedAddr) Network() string { return FailedNetwork }

func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *Conn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadlines.read = t
	if s := c.session.Load(); s != nil {
		return s.SetReadDeadline(t)
	}
	return nil
}

func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadlines.write = t
	if s := c.session.Load(); s != nil {
		return s.SetWriteDeadline(t)
	}
	return nil
}
