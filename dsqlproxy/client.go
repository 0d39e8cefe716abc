package dsqlproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// startupTimeout bounds everything from accept to the end of the authentication.
	startupTimeout = 10 * time.Second

	// lingerTimeout is how long a client that was refused may take to read why.
	lingerTimeout = time.Second

	// startupBuffer suffices for the startup of every known client; there is one for each
	// connection until its relay begins.
	startupBuffer = 512
)

// client is one connection from a client, from its accept to its end. Its states, and what ends
// each:
//
//	startup         first packets are read    StartupMessage -> authenticating
//	                                          SSLRequest, GSSENCRequest -> negotiating, each once
//	                                          CancelRequest -> cancelling
//	                                          anything else, 10 s, drain: closed without an answer
//	negotiating     'N', or 'S' and TLS       -> startup; a failed handshake: closed
//	authenticating  SCRAM, where a password   the right proof -> connecting
//	                is set                    a wrong one: FATAL 28P01 a second later; 10 s: closed
//	connecting      role, database and bound  one is wrong, or drain: FATAL
//	                are checked; then a       a session -> relaying
//	                spare or a login          the cluster refuses, or ConnectTimeout: FATAL
//	                                          the client hangs up: the login is given up
//	relaying        bytes go both ways        the cluster ends it: its words reach the client
//	                                          it is lost: FATAL 08006, or 08007 if an answer is due
//	                                          the client ends it: the session is closed, after the
//	                                          answers that are due, or 10 s
//	                                          drain -> draining
//	draining        the transaction goes on   it ends: FATAL 57P01; DrainTimeout: closed
//	cancelling      the request is forwarded  the cluster has taken it, or 10 s: closed
//
// startup, negotiating and authenticating are "half-open": server keeps them on a list of bounded
// length, and one more closes the oldest.
type client struct {
	server *server
	conn   net.Conn // TLS, once it is set up
	reader *bufio.Reader
	local  bool // only this machine can reach the address that the client dialled
	secure bool // TLS is set up

	startup *startup
}

func newClient(s *server, conn net.Conn) *client {
	return &client{server: s, conn: conn, reader: bufio.NewReaderSize(conn, startupBuffer), local: isLocal(conn.LocalAddr())}
}

// fatal is an ErrorResponse that ends a connection.
type fatal struct {
	response pgproto3.ErrorResponse
	failed   bool // by the cluster, not the proxy
}

func (f *fatal) Error() string { return f.response.Message }

// refuse makes a FATAL error. The hint says what to do.
func refuse(code, hint, format string, args ...any) *fatal {
	return &fatal{response: pgproto3.ErrorResponse{
		Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: code, Message: fmt.Sprintf(format, args...), Hint: hint,
	}}
}

func refuseShutdown() *fatal {
	return refuse("57P01", "connect again", "the proxy is shutting down")
}

// serve goes through the states.
func (c *client) serve() {
	raw := c.conn
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(startupTimeout))
	leave := c.server.enterHalfOpen(raw)
	first, err := c.readFirst()
	if err == nil && first.cancel == nil {
		err = c.authenticate()
	}
	leave()
	switch {
	case err != nil:
		c.end(err)
		return
	case first.cancel != nil:
		c.server.forwardCancel(first.cancel)
		return
	}
	raw.SetDeadline(time.Time{})
	if !c.server.admit() {
		c.end(refuse("53300", "close some, or raise the proxy's bound (--max-connections)", "the proxy has as many clients as it may have"))
		return
	}
	defer c.server.release()
	session, err := c.connect()
	if err != nil {
		c.end(err)
		return
	}
	c.relay(session)
}

// readFirst reads the first packets, and negotiates, until one says what the connection is for.
func (c *client) readFirst() (*firstPacket, error) {
	sslAsked, gssAsked := false, false
	if first, err := c.reader.Peek(1); err != nil {
		return nil, err
	} else if first[0] == tlsHandshakeRecord && c.server.tls != nil {
		sslAsked = true
		if err := c.startTLS(true); err != nil {
			return nil, err
		}
	}
	for {
		packet, err := readFirstPacket(c.reader)
		if err != nil {
			return nil, err
		}
		switch {
		case packet.sslRequest && !sslAsked:
			sslAsked = true
			if c.server.tls == nil {
				err = c.write([]byte{'N'})
			} else if err = c.write([]byte{'S'}); err == nil {
				err = c.startTLS(false)
			}
		case packet.gssEncRequest && !gssAsked && !c.secure:
			gssAsked = true
			err = c.write([]byte{'N'})
		case packet.cancel != nil:
			return packet, nil
		case packet.startup != nil:
			c.startup = packet.startup
			return packet, nil
		default:
			return nil, fmt.Errorf("%w: a second request for encryption", errMalformed)
		}
		if err != nil {
			return nil, err
		}
	}
}

// authenticate answers the startup message, and asks for the password where there is one.
func (c *client) authenticate() error {
	if !c.local && !c.secure {
		return refuse("28000", "set sslmode=verify-full", "the proxy takes TLS only from other machines")
	}
	if !c.local && c.server.secret == nil {
		return refuse("28000", "", "the proxy has no password, so it serves its own machine only")
	}
	if c.startup.minor > 0 || len(c.startup.unknown) > 0 {
		if err := c.send(&pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: protocol30, UnrecognizedOptions: c.startup.unknown}); err != nil {
			return err
		}
	}
	if c.server.secret == nil {
		return nil
	}
	return c.checkPassword()
}

// connect gets a session at the cluster, unless the client hangs up first.
func (c *client) connect() (*clusterSession, error) {
	s := c.server
	role, ok := s.roles[c.startup.user]
	if !ok {
		return nil, refuse("28000", "connect as "+strings.Join(s.roleNames(), " or ")+", or let the proxy offer the role (--user)",
			"the proxy does not offer the role %q", c.startup.user)
	}
	if d := c.startup.database; d != "" && d != s.database && !s.anyDatabase {
		return nil, refuse("3D000", "set the database to "+s.database+", or start the proxy with --any-database", "the cluster has no database %q", d)
	}
	if namesCluster(c.startup.settings) {
		return nil, refuse("0A000", "remove it from the client's options: the proxy knows the cluster", "the proxy takes no amzn-cluster-id")
	}
	var notices []pgproto3.NoticeResponse
	settings := c.startup.settings
	if s.compat {
		settings, notices = dropSettings(settings)
	}
	ctx, cancel := context.WithCancelCause(s.ctx)
	defer cancel(nil)
	stopDrain := context.AfterFunc(s.accepting, func() { cancel(refuseShutdown()) })
	defer stopDrain()
	stopWatch := c.watchHangUp(func(err error) { cancel(err) })
	session, err := s.obtain(ctx, role, settings)
	hungUp := stopWatch()
	switch {
	case err == nil && hungUp == nil:
		return session, c.greet(session, notices)
	case err == nil:
		session.conn.Close()
		return nil, hungUp
	case hungUp != nil:
		return nil, hungUp
	}
	if shutdown := new(fatal); errors.As(context.Cause(ctx), &shutdown) {
		return nil, shutdown
	}
	return nil, explainLogin(err, settings)
}

// greet sends what the cluster said when the session began.
func (c *client) greet(session *clusterSession, notices []pgproto3.NoticeResponse) error {
	greeting := session.greeting
	session.greeting = nil
	for _, n := range notices {
		var err error
		if greeting, err = n.Encode(greeting); err != nil {
			return err
		}
	}
	err := c.write(append(greeting, readyForQuery...))
	if err != nil {
		session.conn.Close()
	}
	return err
}

// watchHangUp calls f when the client hangs up, until stop, which returns the same error. A client
// may send its first statements ahead; they stay in c.reader.
func (c *client) watchHangUp(f func(error)) (stop func() error) {
	ended := make(chan error, 1)
	go func() {
		_, err := c.reader.Peek(1)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			err = nil // stop
		}
		if err != nil {
			f(err)
		}
		ended <- err
	}()
	return func() error {
		c.conn.SetReadDeadline(aLongTimeAgo)
		err := <-ended
		c.conn.SetReadDeadline(time.Time{})
		return err
	}
}

var aLongTimeAgo = time.Unix(1, 0)

// end tells the client why, where err says something to it, and logs.
func (c *client) end(err error) {
	log := c.server.log.With("client", c.conn.RemoteAddr().String())
	if c.startup != nil {
		log = log.With("user", c.startup.user, "application", c.startup.settings["application_name"])
	}
	reply := new(fatal)
	switch {
	case !errors.As(err, &reply):
		c.server.count(func(s *Stats) { s.Refused++ })
		log.Debug("dsqlproxy: client left before its session began", "reason", err)
		return
	case reply.failed:
		c.server.count(func(s *Stats) { s.Failed++ })
		log.Warn("dsqlproxy: no session for a client", "sqlstate", reply.response.Code, "error", reply.response.Message, "hint", reply.response.Hint)
	default:
		c.server.count(func(s *Stats) { s.Refused++ })
		log.Info("dsqlproxy: client refused", "sqlstate", reply.response.Code, "error", reply.response.Message)
	}
	c.conn.SetWriteDeadline(time.Now().Add(lingerTimeout))
	if c.send(&reply.response) == nil {
		linger(c.conn)
	}
}

// linger closes conn when the client has read what was sent. Closing at once, with something of the
// client's unread, would reset the connection and lose it (RFC 1122, 4.2.2.13).
func linger(conn net.Conn) {
	conn.SetDeadline(time.Now().Add(lingerTimeout))
	if half, ok := conn.(interface{ CloseWrite() error }); ok && half.CloseWrite() == nil {
		_, _ = io.CopyN(io.Discard, conn, maxLinger)
	}
	conn.Close()
}

const maxLinger = 1 << 20

func (c *client) send(messages ...pgproto3.BackendMessage) error {
	var out []byte
	for _, m := range messages {
		var err error
		if out, err = m.Encode(out); err != nil {
			return err
		}
	}
	return c.write(out)
}

func (c *client) write(b []byte) error {
	_, err := c.conn.Write(b)
	return err
}

// relay runs the session until either side ends it.
func (c *client) relay(session *clusterSession) {
	sent, _ := c.reader.Peek(c.reader.Buffered())
	r, first := newRelay(c.conn, session), slices.Clone(sent)
	c.reader = nil
	if c.server.compat {
		r.editor = &editor{processID: session.hijacked.PID}
	}
	log := c.server.log.With("client", c.conn.RemoteAddr().String(), "user", c.startup.user, "application", c.startup.settings["application_name"])
	c.startup = nil
	began := time.Now()
	log.Debug("dsqlproxy: session began", "spare", session.spare)
	reason := r.run(c.server, first)
	toCluster, toClient := r.bytes()
	log.Debug("dsqlproxy: session ended", "reason", reason, "after", time.Since(began), "to_cluster", toCluster, "to_client", toClient)
}
