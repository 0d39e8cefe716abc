package dsql

import (
	"bytes"
	"context"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// newDialer returns the default DialFunc. PrivateLink forgets a TCP connection
// that is silent for 350 s (AWS PrivateLink guide, "Considerations"), and a
// peer that is gone is noticed after idle + count * interval: 75 s.
func newDialer() pgconn.DialFunc {
	d := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable:   true,
		Idle:     30 * time.Second,
		Interval: 15 * time.Second,
		Count:    3,
	}}
	return d.DialContext
}

// lookupNothing makes pgx try one address, the name itself: the dialer races
// what the name resolves to (RFC 8305), while pgx would walk the addresses and
// repeat even a refused login on each.
func lookupNothing(_ context.Context, host string) ([]string, error) { return []string{host}, nil }

// pendingConn stands for a TCP connection whose purpose is not known yet. pgx
// dials to open a session and to cancel a query, by the same DialFunc. The
// session's connection is dialled by its login, which may have to do so more than
// once; the cancel request's by the first bytes that pgx writes to it.
//
//	new        --AfterNetConnect-->  taken over by a login, never dialled here
//	new        --SSLRequest-->       answered at once, and remembered
//	new        --other bytes-->      dialled, SSLRequest repeated if there was one, bytes sent
type pendingConn struct {
	ctx     context.Context // of the call to DialFunc, which is pgx's connect or cancel
	dial    pgconn.DialFunc
	network string
	address string

	mu         sync.Mutex // guards what follows; I/O on conn is done without it
	conn       net.Conn
	closed     bool
	deadline   time.Time
	sslRequest bool // pgx sent one
	answer     bool // pgx has still to read the answer
}

// pendingDial is the DialFunc that pgx gets.
func pendingDial(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return &pendingConn{ctx: ctx, dial: dial, network: network, address: address}, nil
	}
}

func (p *pendingConn) Write(b []byte) (int, error) {
	p.mu.Lock()
	if p.conn == nil && !p.sslRequest && bytes.Equal(b, sslRequest) {
		p.sslRequest, p.answer = true, true
		p.mu.Unlock()
		return len(b), nil
	}
	p.mu.Unlock()
	conn, err := p.open()
	if err != nil {
		return 0, err
	}
	return conn.Write(b)
}

func (p *pendingConn) Read(b []byte) (int, error) {
	p.mu.Lock()
	if p.answer && len(b) > 0 {
		p.answer = false
		p.mu.Unlock()
		b[0] = 'S'
		return 1, nil
	}
	p.mu.Unlock()
	conn, err := p.open()
	if err != nil {
		return 0, err
	}
	return conn.Read(b)
}

// open dials at the first need.
func (p *pendingConn) open() (net.Conn, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, net.ErrClosed
	}
	if p.conn != nil {
		return p.conn, nil
	}
	conn, err := p.dial(p.ctx, p.network, p.address)
	if err != nil {
		return nil, err
	}
	if p.sslRequest {
		err = during(p.ctx, conn, func() error { return negotiateTLS(conn) })
	}
	if err == nil {
		err = conn.SetDeadline(p.deadline)
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	p.conn = conn
	return conn, nil
}

func (p *pendingConn) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.conn == nil {
		return nil
	}
	return p.conn.Close()
}

func (p *pendingConn) SetDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	if p.conn == nil {
		return nil
	}
	return p.conn.SetDeadline(t)
}

// Only whole deadlines are set on a connection that is not open yet.
func (p *pendingConn) SetReadDeadline(t time.Time) error  { return p.SetDeadline(t) }
func (p *pendingConn) SetWriteDeadline(t time.Time) error { return p.SetDeadline(t) }

func (p *pendingConn) LocalAddr() net.Addr  { return pendingAddr{p.network, ""} }
func (p *pendingConn) RemoteAddr() net.Addr { return pendingAddr{p.network, p.address} }

type pendingAddr struct{ network, address string }

func (a pendingAddr) Network() string { return a.network }
func (a pendingAddr) String() string  { return a.address }
