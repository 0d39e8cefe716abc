package dsqltest

import (
	"bufio"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/latency"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	databaseName = "postgres" // the only one there is
	alpnProtocol = "postgresql"

	// loginTimeout bounds everything from accept to the first ReadyForQuery, so
	// that a silent client does not stay for ever.
	loginTimeout = 30 * time.Second

	// lingerTimeout is how long a refused client may take to read why.
	lingerTimeout = time.Second

	// readBuffer suffices for a login and most of what clients send; there is one
	// for each idle session.
	readBuffer = 4 * 1024
)

// client is one connection, from accept to its end.
type client struct {
	server  *Server
	attempt *Attempt // guarded by server.mu

	network latency.TCPConn
	raw     *rawConn // network, to be looked at
	conn    net.Conn // TLS over raw, once it is set up
	// reader reads conn for the login and for the relay alike: a client may send
	// its password, and more, together with the startup message.
	reader *bufio.Reader

	direct        bool // TLS from the first byte
	webSocketOnly bool // it came to the port for WebSockets
	serverName    string
	admitted      bool // the quotas count it

	fault  Fault
	phase  Phase // how far the client is, for the fault
	struck atomic.Bool
}

// rawConn is a client's TCP connection, with its first bytes held to be looked at.
type rawConn struct {
	net.Conn
	reader *bufio.Reader
	client *client
}

func (r *rawConn) Read(p []byte) (int, error) { return r.reader.Read(p) }

func newClient(s *Server, network latency.TCPConn, webSocketOnly bool, fault Fault) *client {
	c := &client{server: s, attempt: s.newAttempt(network.LocalAddr().String()), network: network, webSocketOnly: webSocketOnly, fault: fault}
	// As small as bufio has it: TLS reads in larger pieces, which go past it.
	c.raw = &rawConn{Conn: c.wrap(network, OnSSLRequest, OnClientHello), reader: bufio.NewReaderSize(network, 16), client: c}
	c.conn = c.raw
	return c
}

// refusal is a FATAL ErrorResponse that ends a connection.
type refusal struct {
	response pgproto3.ErrorResponse
	reason   string // for Attempt
}

func (r *refusal) Error() string { return r.response.Message }

func refuse(code, format string, args ...any) *refusal {
	return &refusal{response: pgproto3.ErrorResponse{
		Severity:            "FATAL",
		SeverityUnlocalized: "FATAL",
		Code:                code,
		Message:             fmt.Sprintf(format, args...),
	}}
}

// errCancel ends a connection that came for a cancel request and got it.
var errCancel = errors.New("cancelled")

func (c *client) serve() {
	defer c.release()
	c.raw.SetDeadline(time.Now().Add(loginTimeout))
	if c.fault.strikes(OnAccept, OnAccept) {
		c.strike(c.network)
		c.fail(nil)
		return
	}
	st, err := c.login()
	if err != nil || c.struck.Load() {
		c.fail(err)
		return
	}
	session := newSession(c, st)
	defer session.unregister()
	// Before the client can know: its test may look, and change things, at once.
	c.record(func(a *Attempt) { a.Outcome = "ok" })
	lifetime := c.server.sessionLifetime()
	if err := session.acceptLogin(st); err != nil {
		c.fail(fmt.Errorf("answering the login: %w", err))
		return
	}
	if c.struck.Load() {
		c.fail(nil)
		return
	}
	c.raw.SetDeadline(time.Time{})
	c.phase = OnQuery
	if lifetime > 0 {
		defer time.AfterFunc(lifetime, func() { c.conn.Close() }).Stop()
	}
	session.run()
}

// release gives back what admit counted.
func (c *client) release() {
	if c.admitted {
		c.server.releaseConnection()
	}
}

// fail records why the login came to nothing, and says so to a client that is
// refused. One that a fault has struck is left alone until it goes.
func (c *client) fail(err error) {
	defer c.conn.Close()
	var refused *refusal
	isRefusal := errors.As(err, &refused)
	if !c.struck.Load() {
		c.record(func(a *Attempt) {
			a.Outcome = err.Error()
			if isRefusal {
				a.Reason = refused.reason
			}
			if errors.Is(err, errCancel) {
				a.Outcome = "ok"
			}
		})
		if isRefusal {
			refused.response.Detail = "Session Id: " + strings.ToLower(rand.Text()) // what AWS support asks for
			c.send(&refused.response)
		}
	}
	switch {
	case c.struck.Load(): // maybe by the refusal
		io.Copy(io.Discard, c.raw)
	case isRefusal:
		c.linger()
	}
}

// linger half-closes the connection and waits for the client to hang up: a
// close with input unread would reset it, and the client might lose the refusal.
func (c *client) linger() {
	closeWrite(c.conn)
	c.network.CloseWrite()
	c.raw.SetReadDeadline(time.Now().Add(lingerTimeout))
	io.CopyN(io.Discard, c.raw, maxPassword)
}

// login takes the connection from its first byte to a verified token. Its
// errors hold nothing of the token.
func (c *client) login() (*startup, error) {
	if err := c.setUpTLS(); err != nil {
		return nil, err
	}
	code, body, err := readPacket(c.reader)
	if err != nil {
		return nil, fmt.Errorf("reading the startup message: %w", err)
	}
	if code == cancelCode {
		return nil, c.cancel(body)
	}
	st, err := parseStartup(code, body)
	if err != nil {
		return nil, err
	}
	c.record(func(a *Attempt) { a.User = st.user })
	byName, err := c.route(st)
	if err != nil {
		return nil, err
	}
	if err := c.server.admit(); err != nil {
		return nil, err
	}
	c.admitted = true
	if err := st.check(); err != nil {
		return nil, err
	}
	return st, c.authenticate(st, byName)
}

// setUpTLS sets up TLS, which it sees from the first byte or after an SSLRequest.
func (c *client) setUpTLS() error {
	for {
		first, err := c.raw.reader.Peek(1)
		if err != nil {
			return fmt.Errorf("waiting for TLS: %w", err)
		}
		if first[0] == tlsHandshake {
			c.direct = true
			return c.handshake()
		}
		if c.webSocketOnly {
			return errors.New("no TLS on the port for WebSockets")
		}
		code, body, err := readPacket(c.raw)
		if err != nil {
			return fmt.Errorf("reading the first packet: %w", err)
		}
		switch code {
		case gssEncCode: // the client may ask for TLS instead
			if _, err := c.raw.Write([]byte{'N'}); err != nil {
				return fmt.Errorf("answering the GSSENCRequest: %w", err)
			}
		case sslRequestCode:
			c.record(func(a *Attempt) { a.SSLRequest = true })
			c.phase = OnSSLRequest
			if _, err := c.raw.Write([]byte{'S'}); err != nil {
				return fmt.Errorf("answering the SSLRequest: %w", err)
			}
			return c.handshake()
		case cancelCode: // psql before 17, psycopg2 and JDBC send it in plain text
			return c.cancel(body)
		default:
			// That plaintext is refused is documented, in which words is not.
			return refuse("28000", "unable to accept connection, TLS is required")
		}
	}
}

func (c *client) handshake() error {
	c.phase = OnClientHello
	config := c.server.tls
	if c.webSocketOnly {
		config = c.server.webSocketTLS
	}
	conn := tls.Server(c.raw, config)
	if err := conn.HandshakeContext(c.server.ctx); err != nil {
		return fmt.Errorf("TLS handshake: %w", err)
	}
	state := conn.ConnectionState()
	c.record(func(a *Attempt) {
		a.TLSVersion = state.Version
		a.ALPN = state.NegotiatedProtocol
	})
	c.phase = OnStartup
	c.conn = c.wrap(conn, OnStartup, OnQuery)
	c.reader = bufio.NewReaderSize(conn, readBuffer)
	http, err := c.speaksHTTP(conn)
	if err == nil && http {
		return c.upgrade(conn)
	}
	return err
}

// inspectHello looks at a ClientHello before it is answered: a client that turns the
// certificate down has shown its server name all the same.
func (c *client) inspectHello(hello *tls.ClientHelloInfo) error {
	c.serverName = hello.ServerName
	c.record(func(a *Attempt) { a.ServerName = hello.ServerName })
	return c.checkALPN(hello)
}

// route finds the cluster. byName is the server name that led to it, which is
// "" when amzn-cluster-id did. The SQLSTATE of its refusals is not recorded
// from the service; 08004, server rejected the connection, is our choice.
func (c *client) route(st *startup) (byName string, err error) {
	switch {
	case c.server.isEndpoint(c.serverName):
		byName = c.serverName
	case st.clusterID == c.server.clusterID:
	case c.serverName == "" && st.clusterID == "":
		return "", refuse("08004", "unable to accept connection, sni was not received")
	default:
		return "", refuse("08004", "unable to accept connection, invalid sni")
	}
	c.record(func(a *Attempt) { a.ClusterID = c.server.clusterID })
	return byName, nil
}

// authenticate asks for the password and checks the token that it should be.
func (c *client) authenticate(st *startup, byName string) error {
	var ask []pgproto3.BackendMessage
	if st.negotiate {
		ask = append(ask, &pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: protocolVersion3, UnrecognizedOptions: st.options})
	}
	if c.fault.Effect == SkipPassword {
		c.record(func(a *Attempt) { a.Fault = c.fault })
		return c.send(ask...)
	}
	if err := c.send(append(ask, &pgproto3.AuthenticationCleartextPassword{})...); err != nil {
		return fmt.Errorf("asking for the password: %w", err)
	}
	password, err := readPassword(c.reader)
	if err != nil {
		return err
	}
	c.phase = OnPassword
	t, err := parseToken(password)
	c.record(func(a *Attempt) {
		a.TokenID = tokenID(password)
		a.TokenHost, a.TokenRegion, a.TokenAction = t.host, t.region, t.action
	})
	if refused := c.server.nextRefusal(); refused != nil {
		return refused
	}
	if err != nil {
		return denied("", err.Error())
	}
	return c.server.verifyToken(t, st.user, byName)
}

func (c *client) send(messages ...pgproto3.BackendMessage) error {
	data, err := encode(messages...)
	if err != nil {
		return err
	}
	_, err = c.conn.Write(data)
	return err
}

func encode(messages ...pgproto3.BackendMessage) ([]byte, error) {
	var data []byte
	for _, message := range messages {
		var err error
		if data, err = message.Encode(data); err != nil {
			return nil, err
		}
	}
	return data, nil
}

func (c *client) record(update func(*Attempt)) {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	update(c.attempt)
}
