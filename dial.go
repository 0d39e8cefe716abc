package dsql

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dsqlgo/dsql/internal/login"
)

// defaultDialFunc returns the DialFunc for a Config without one. PrivateLink drops a TCP connection
// that is silent for 350 s (AWS PrivateLink guide, "Considerations"), so it sends keepalives. It
// detects a dead peer after Idle + Count * Interval = 75 s.
func defaultDialFunc() pgconn.DialFunc {
	d := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable:   true,
		Idle:     30 * time.Second,
		Interval: 15 * time.Second,
		Count:    3,
	}}
	return d.DialContext
}

// skipLookup is a LookupFunc that returns the name itself. So pgx makes one attempt, in which the
// dialer resolves the name and races its addresses (RFC 8305). With several addresses, pgx would try
// one after the other, even after a refused login.
func skipLookup(_ context.Context, host string) ([]string, error) { return []string{host}, nil }

// lazyConn is a TCP connection that is dialled when pgx first writes to it. pgx calls its DialFunc to
// open a session and to cancel a query, and the func cannot tell which. For a session, the login
// dials, perhaps several times. So this conn only dials for cancel requests:
//
//	unused   --AfterNetConnect-->  replaced by a login; never dialled
//	unused   --SSLRequest-->       pgx gets its answer at once; the SSLRequest will be sent later
//	unused   --other bytes-->      dialled, SSLRequest sent if there was one, bytes sent
type lazyConn struct {
	ctx     context.Context // of the call to DialFunc; limits the dial
	dial    pgconn.DialFunc
	secured bool   // dial sets up TLS
	pacer   *pacer // nil means no limit
	network string
	address string

	mu         sync.Mutex // guards the fields below, but not I/O on conn
	conn       net.Conn
	closed     bool
	deadline   time.Time
	sslRequest bool // pgx sent one
	answer     bool // pgx has not read its answer yet
}

// lazyDial returns the DialFunc for pgx. If secured, dial sets up TLS itself, and pgx does not.
func (k *connector) lazyDial(dial pgconn.DialFunc, secured bool) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if network == login.FailedNetwork {
			return nil, net.ErrClosed
		}
		return &lazyConn{ctx: ctx, dial: dial, secured: secured, pacer: k.pacer, network: network, address: address}, nil
	}
}

func (c *lazyConn) Write(b []byte) (int, error) {
	c.mu.Lock()
	if c.conn == nil && !c.sslRequest && bytes.Equal(b, login.SSLRequest) {
		c.sslRequest, c.answer = true, true
		c.mu.Unlock()
		return len(b), nil
	}
	c.mu.Unlock()
	// Without TLS of its own, pgx would also write a password to any server. That is only possible
	// if a user replaced the login.
	if c.secured && !isCancelRequest(b) {
		return 0, errors.New("dsql: ConnConfig.AfterNetConnect was replaced, which makes the login; call the previous one first")
	}
	conn, err := c.open()
	if err != nil {
		return 0, err
	}
	return conn.Write(b)
}

// isCancelRequest reports whether b begins with the code of a CancelRequest (PostgreSQL docs, "Message
// Formats").
func isCancelRequest(b []byte) bool {
	return len(b) >= 8 && binary.BigEndian.Uint32(b[4:]) == 80877102
}

func (c *lazyConn) Read(b []byte) (int, error) {
	c.mu.Lock()
	if c.answer && len(b) > 0 {
		c.answer = false
		c.mu.Unlock()
		b[0] = 'S'
		return 1, nil
	}
	c.mu.Unlock()
	conn, err := c.open()
	if err != nil {
		return 0, err
	}
	return conn.Read(b)
}

// open dials, unless it did before. A cancel request counts as a new connection: when a process
// cancels many queries at once, the requests wait for their slots like others.
func (c *lazyConn) open() (net.Conn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, net.ErrClosed
	}
	if c.conn != nil {
		return c.conn, nil
	}
	if c.pacer != nil {
		slot, err := c.pacer.wait(c.ctx)
		if err != nil {
			return nil, err
		}
		defer c.pacer.release(slot, answerAccepted)
	}
	conn, err := c.dial(c.ctx, c.network, c.address)
	if err != nil {
		return nil, err
	}
	if c.sslRequest {
		err = login.RequestTLS(c.ctx, conn)
	}
	if err == nil {
		err = conn.SetDeadline(c.deadline)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	c.conn = conn
	return conn, nil
}

func (c *lazyConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

func (c *lazyConn) SetDeadline(t time.Time) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = t
	if c.conn == nil {
		return nil
	}
	return c.conn.SetDeadline(t)
}

// These set both deadlines, since pgx always sets both.
func (c *lazyConn) SetReadDeadline(t time.Time) error  { return c.SetDeadline(t) }
func (c *lazyConn) SetWriteDeadline(t time.Time) error { return c.SetDeadline(t) }

func (c *lazyConn) LocalAddr() net.Addr  { return lazyAddr{c.network, ""} }
func (c *lazyConn) RemoteAddr() net.Addr { return lazyAddr{c.network, c.address} }

type lazyAddr struct{ network, address string }

func (a lazyAddr) Network() string { return a.network }
func (a lazyAddr) String() string  { return a.address }
