package dsql

import (
	"bytes"
	"context"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dsqlgo/dsql/internal/login"
)

// defaultDialFunc returns the default DialFunc. PrivateLink forgets a TCP connection
// that is silent for 350 s (AWS PrivateLink guide, "Considerations"), and a
// peer that is gone is noticed after idle + count * interval: 75 s.
func defaultDialFunc() pgconn.DialFunc {
	d := &net.Dialer{KeepAliveConfig: net.KeepAliveConfig{
		Enable:   true,
		Idle:     30 * time.Second,
		Interval: 15 * time.Second,
		Count:    3,
	}}
	return d.DialContext
}

// keepHostName makes pgx try one address, the name itself: the dialer races
// what the name resolves to (RFC 8305), while pgx would walk the addresses and
// repeat even a refused login on each.
func keepHostName(_ context.Context, host string) ([]string, error) { return []string{host}, nil }

// lazyConn stands for a TCP connection whose purpose is not known yet. pgx
// dials to open a session and to cancel a query, by the same DialFunc. The
// session's connection is dialled by its login, which may have to do so more than
// once; the cancel request's by the first bytes that pgx writes to it.
//
//	new        --AfterNetConnect-->  taken over by a login, never dialled here
//	new        --SSLRequest-->       answered at once, and remembered
//	new        --other bytes-->      dialled, SSLRequest repeated if there was one, bytes sent
type lazyConn struct {
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

// lazyDial is the DialFunc that pgx gets.
func lazyDial(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return &lazyConn{ctx: ctx, dial: dial, network: network, address: address}, nil
	}
}

func (p *lazyConn) Write(b []byte) (int, error) {
	p.mu.Lock()
	if p.conn == nil && !p.sslRequest && bytes.Equal(b, login.SSLRequest) {
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

func (p *lazyConn) Read(b []byte) (int, error) {
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
func (p *lazyConn) open() (net.Conn, error) {
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
		err = login.RequestTLS(p.ctx, conn)
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

func (p *lazyConn) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	if p.conn == nil {
		return nil
	}
	return p.conn.Close()
}

func (p *lazyConn) SetDeadline(t time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deadline = t
	if p.conn == nil {
		return nil
	}
	return p.conn.SetDeadline(t)
}

// Only whole deadlines are set on a connection that is not open yet.
func (p *lazyConn) SetReadDeadline(t time.Time) error  { return p.SetDeadline(t) }
func (p *lazyConn) SetWriteDeadline(t time.Time) error { return p.SetDeadline(t) }

func (p *lazyConn) LocalAddr() net.Addr  { return lazyAddr{p.network, ""} }
func (p *lazyConn) RemoteAddr() net.Addr { return lazyAddr{p.network, p.address} }

type lazyAddr struct{ network, address string }

func (a lazyAddr) Network() string { return a.network }
func (a lazyAddr) String() string  { return a.address }
