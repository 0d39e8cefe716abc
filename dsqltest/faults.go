package dsqltest

import (
	"fmt"
	"net"
	"sync"
	"time"
)

// Fault is a failure of one connection on the way from the server to the client. The server
// receives what the client sends and works as usual, but only a part of its answers arrives. The
// zero Fault is no failure.
type Fault struct {
	Phase  Phase
	Effect Effect

	// After is how many bytes of the server's answers in the phase still arrive, so that a message
	// can be cut at any place. Up to OnClientHello these are bytes on the wire, for OnUpgrade bytes
	// inside TLS, from OnStartup on bytes inside TLS or the WebSocket. If the server sends fewer
	// bytes in the phase, nothing happens. OnAccept and SkipPassword ignore After.
	After int
}

// String is such as "silence on ClientHello" or "reset on query after 12 bytes".
func (f Fault) String() string {
	switch {
	case f.Effect == 0:
		return "no fault"
	case f.After > 0:
		return fmt.Sprintf("%v on %v after %d bytes", f.Effect, f.Phase, f.After)
	}
	return fmt.Sprintf("%v on %v", f.Effect, f.Phase)
}

// Phase is what the client sent last when a fault happens. The fault hits the server's answer to
// it.
type Phase int

const (
	OnAccept      Phase = iota // TCP is open
	OnSSLRequest               // an SSLRequest came: not for a client that begins with TLS
	OnClientHello              // a ClientHello came, first or after an SSLRequest: TLS is not set up yet
	OnUpgrade                  // a request for a WebSocket came: its frames should begin
	OnStartup                  // the startup message came: the password should be asked for
	OnPassword                 // the password came: the session should begin
	OnQuery                    // the session's first message came; this phase lasts to its end
)

func (p Phase) String() string {
	if names := []string{"accept", "SSLRequest", "ClientHello", "upgrade", "startup message", "password", "query"}; p >= 0 && int(p) < len(names) {
		return names[p]
	}
	return fmt.Sprintf("Phase(%d)", int(p))
}

// Effect is what the client notices of a fault.
type Effect int

const (
	// Reset ends the connection with a TCP reset. What the client has not read by then may be lost.
	Reset Effect = iota + 1

	// HangUp closes the connection with FIN, but without a close_notify alert in TLS.
	HangUp

	// Silence keeps the connection open and sends nothing more, until the client closes it or the
	// server is closed.
	Silence

	// Garbage sends bytes that are neither TLS nor PostgreSQL's protocol, and then nothing more,
	// like Silence. Read as a message of the protocol, their length is 0.
	Garbage

	// SkipPassword accepts the client after its startup message without asking for a password. The
	// Phase does not matter. If the client sends a password anyway, PostgreSQL refuses it as the
	// first message of the session.
	SkipPassword
)

func (e Effect) String() string {
	if names := []string{"no effect", "reset", "hang-up", "silence", "garbage", "skipped password"}; e >= 0 && int(e) < len(names) {
		return names[e]
	}
	return fmt.Sprintf("Effect(%d)", int(e))
}

const garbage = "?\x00\x00\x00\x00 neither TLS nor PostgreSQL\n"

// WithFaults has next choose the fault of each connection. next is called once for each accepted
// connection, in the order of accepting, and never twice at once. The default is nil: no faults.
func WithFaults(next func() Fault) Option {
	return func(o *options) { o.conditions.faults = next }
}

// SetFaults is like WithFaults, for connections accepted from now on. A call of the func that was
// set before may still be running when SetFaults returns.
func (s *Server) SetFaults(next func() Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conditions.faults = next
}

// Always returns a func for WithFaults and SetFaults that has f happen on every connection.
func Always(f Fault) func() Fault { return func() Fault { return f } }

func (s *Server) nextFault(webSocketOnly bool) Fault {
	s.mu.Lock()
	next := s.conditions.faults
	if webSocketOnly {
		next = s.conditions.webSocketFaults
	}
	s.mu.Unlock()
	if next == nil {
		return Fault{}
	}
	return next()
}

// faultyConn is a connection that a client's fault strikes as the server writes to
// it. What is written afterwards goes nowhere, and the server finds out as it
// would otherwise: the client leaves.
type faultyConn struct {
	net.Conn
	client *client

	mu      sync.Mutex // guards what follows, and keeps the count right
	written int        // bytes, in the fault's phase
}

// wrap puts conn at the mercy of the client's fault, if it is one of a phase
// from first to last.
func (c *client) wrap(conn net.Conn, first, last Phase) net.Conn {
	if !c.fault.strikes(first, last) {
		return conn
	}
	return &faultyConn{Conn: conn, client: c}
}

func (f Fault) strikes(first, last Phase) bool {
	return f.Effect != 0 && f.Effect != SkipPassword && first <= f.Phase && f.Phase <= last
}

func (f *faultyConn) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := f.client
	if c.struck.Load() {
		return len(p), nil
	}
	if c.phase != c.fault.Phase {
		return f.Conn.Write(p)
	}
	arrives := min(len(p), max(0, c.fault.After-f.written))
	if arrives > 0 {
		if n, err := f.Conn.Write(p[:arrives]); err != nil {
			return n, err
		}
	}
	if f.written += arrives; f.written >= c.fault.After {
		c.strike(f.Conn)
	}
	return len(p), nil
}

// CloseWrite is TLS's or TCP's, which net.Conn does not have.
func (f *faultyConn) CloseWrite() error {
	if f.client.struck.Load() {
		return nil
	}
	closeWrite(f.Conn)
	return nil
}

// strike has the fault take effect. conn is where garbage is written.
func (c *client) strike(conn net.Conn) {
	c.struck.Store(true)
	c.record(func(a *Attempt) {
		a.Fault = c.fault
		if c.phase < OnQuery { // else the login was fine
			a.Outcome = c.fault.String()
		}
	})
	// The client decides how long this lasts.
	c.network.SetDeadline(time.Time{})
	switch c.fault.Effect {
	case Reset:
		reset(c.network)
	case HangUp:
		c.network.CloseWrite()
		c.network.SetReadDeadline(time.Now().Add(lingerTimeout))
	case Garbage:
		conn.Write([]byte(garbage))
	}
}

// closeWrite says that nothing more comes, where that can be said.
func closeWrite(conn net.Conn) {
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		half.CloseWrite()
	}
}
