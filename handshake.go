package dsql

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// A network that swallows one connection may let the next one through, so
	// one attempt gets a third of the time that is left, within these bounds.
	shortestAttempt = time.Second
	longestAttempt  = 10 * time.Second

	// Waits between attempts are drawn from 0 to a bound that doubles from the first to the
	// last of these ("full jitter", AWS Architecture Blog, "Exponential
	// Backoff and Jitter").
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 5 * time.Second

	// What a server may send while a connection opens: one message, and all
	// that is kept for pgx together. Real ones send less than 1 KiB.
	maxLoginMessage = 16 << 10
	maxLoginReplay  = 64 << 10
)

var (
	errNoTLS       = errors.New("the server refused TLS")
	errProtocol    = errors.New("unexpected answer")
	errTokenUnread = errors.New("the server did not ask for the token that was sent early")
	errPaced       = errors.New("too many new connections from this process")
)

// A login opens one session for pgx. pgx's own part in it is small: AfterNetConnect
// calls the login, which dials, sets up TLS and authenticates, with the token
// as the password, as often as it takes; pgx is then given a connection on which its
// StartupMessage is swallowed and the server's answers are read again. So the token
// is never in a ConnConfig, each attempt takes a fresh one, and pgx sees
// neither a refusal that passes nor a password.
//
// The states of one attempt, and what ends each:
//
//	pacing   a connection may be opened   not before the deadline: the login ends
//	token    one is at hand               no credentials: the login ends
//	dial     TCP is open                  name unknown: the login ends; else another attempt
//	TLS      verified                     certificate, alert, no TLS: ends; reset, silence: another attempt
//	login    ReadyForQuery                a refusal: by its kind; reset, silence: another attempt
//
// Every state also ends with the context, with an error that names the state.
type login struct {
	target *target

	dial       func(context.Context) (net.Conn, error)
	address    string // dialled
	tls        *tls.Config
	sslRequest bool
	early      bool // send the token with the startup message

	startup []byte
	params  pgproto3.StartupMessage // what startup says
}

// afterNetConnect is pgconn.Config.AfterNetConnect.
func (t *target) afterNetConnect(ctx context.Context, config *pgconn.Config, conn net.Conn) (net.Conn, error) {
	l, first, err := t.newLogin(config, conn)
	if err != nil {
		return conn, err
	}
	session, err := l.run(ctx, first)
	if err != nil {
		return conn, err // pgx closes conn
	}
	return session, nil
}

// newLogin reads what pgx is about to do from its config, which users may have changed
// since ConnConfig returned it. first is a TCP connection that is already
// open: there is one only when a user's own ConnConfig.DialFunc made it.
func (t *target) newLogin(config *pgconn.Config, conn net.Conn) (l *login, first net.Conn, err error) {
	tlsConn, isTLS := conn.(*tls.Conn)
	if !isTLS {
		return nil, nil, configError("ConnConfig.TLSConfig", "(or that of a fallback) was set to nil, but DSQL takes TLS only; leave it as ConnConfig returned it")
	}
	if err := checkTLSConfig(config.TLSConfig); err != nil {
		return nil, nil, err
	}
	if (config.User == adminUser) != (t.user == adminUser) {
		return nil, nil, configError("ConnConfig.User", "was changed from %q to %q, but admin's tokens are signed otherwise than those of all others; set Config.User", t.user, config.User)
	}
	if name := config.TLSConfig.ServerName; name != t.endpoint.ServerName {
		return nil, nil, configError("ConnConfig.TLSConfig", "has ServerName %q, but the token is signed for %q; set Config.ServerName", name, t.endpoint.ServerName)
	}
	l = &login{
		target:     t,
		tls:        config.TLSConfig,
		sslRequest: config.SSLNegotiation != "direct",
		early:      t.earlyAuth && !t.earlyUnread.Load(),
	}
	dial, network := config.DialFunc, ""
	if pending, ok := tlsConn.NetConn().(*pendingConn); ok {
		dial, network, l.address = t.dial, pending.network, pending.address
	} else {
		first = tlsConn.NetConn()
		network, l.address = pgconn.NetworkAddress(config.Host, config.Port)
	}
	l.dial = func(ctx context.Context) (net.Conn, error) { return dial(ctx, network, l.address) }

	l.params = pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{}}
	if v := config.MaxProtocolVersion; v == "3.2" || v == "latest" {
		l.params.ProtocolVersion = pgproto3.ProtocolVersion32
	}
	maps.Copy(l.params.Parameters, config.RuntimeParams)
	l.params.Parameters["user"] = config.User
	if config.Database != "" {
		l.params.Parameters["database"] = config.Database
	}
	if l.startup, err = l.params.Encode(nil); err != nil {
		return nil, nil, configError("Params", "cannot be sent: %v", err)
	}
	return l, first, nil
}

// run makes attempts until one succeeds, fails for good, or ctx ends.
func (l *login) run(ctx context.Context, first net.Conn) (*sessionConn, error) {
	began := time.Now()
	backoff := firstBackoff
	renewed := false          // the token was replaced because the server called it expired
	var refused *connectError // the last attempt that the server refused
	for attempts := 1; ; attempts++ {
		session, failed := l.attempt(ctx, first)
		if failed == nil {
			return session, nil
		}
		first = nil
		switch {
		case failed.kind != nil && failed.phase == phaseLogin:
			refused = failed
		case refused != nil && (ctx.Err() != nil || failed.phase == phasePacing):
			// Out of time on the way to another answer: the last one says more.
			failed = refused.endedBy(ctx)
		}
		failed.attempts, failed.elapsed = attempts, time.Since(began)
		if failed.ended != nil {
			return nil, failed
		}

		var wait time.Duration
		switch {
		case errors.Is(failed, errTokenUnread):
			l.early = false
			l.target.earlyUnread.Store(true)
		case failed.kind == ErrTokenExpired && !renewed:
			renewed = true
			l.target.tokens.drop(failed.token)
		case failed.kind == ErrRateExceeded && l.target.pacer != nil && !failed.paced && failed.phase == phaseLogin:
			// It went in a burst. The pacer holds the next one back.
		case failed.passing():
			wait = rand.N(backoff)
			backoff = min(2*backoff, lastBackoff)
		default:
			return nil, failed
		}
		l.target.observe.retry(ctx, RetryEvent{Attempt: attempts, Err: failed, Wait: wait, Elapsed: failed.elapsed})
		if sleep(ctx, wait) != nil {
			if refused != nil {
				failed = refused
			}
			failed = failed.endedBy(ctx)
			failed.attempts, failed.elapsed = attempts, time.Since(began)
			return nil, failed
		}
	}
}

// attempt is one way through the states. conn may be an open TCP connection.
func (l *login) attempt(ctx context.Context, conn net.Conn) (session *sessionConn, failed *connectError) {
	outer, phase, timeout := ctx, phasePacing, longestAttempt
	var token *Token
	paced := false
	fail := func(err error) (*sessionConn, *connectError) {
		if conn != nil {
			conn.Close()
		}
		e := newConnectError(phase, l.address, l.tls.ServerName, err)
		e.token, e.paced = token, paced
		switch {
		case outer.Err() != nil:
			e.ended = outer.Err()
		case ctx.Err() != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)):
			e.timeout = timeout
		}
		return nil, e
	}

	var err error
	if p := l.target.pacer; p != nil {
		if paced, err = p.wait(ctx); err != nil {
			return fail(err)
		}
		defer func() {
			if failed == nil || failed.phase == phaseLogin {
				p.told(paced, failed != nil && failed.kind == ErrRateExceeded)
			}
		}()
	}

	phase = phaseToken
	if token, err = l.target.tokens.get(ctx); err != nil {
		return fail(err)
	}

	phase = phaseDial
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(max(time.Until(deadline)/3, shortestAttempt), longestAttempt)
	}
	ctx, cancel := context.WithTimeout(outer, timeout)
	defer cancel()
	if conn == nil {
		if conn, err = l.dial(ctx); err != nil {
			conn = nil
			return fail(err)
		}
		if l.sslRequest {
			phase = phaseSSLRequest
			if err := during(ctx, conn, func() error { return negotiateTLS(conn) }); err != nil {
				return fail(err)
			}
		}
	}

	phase = phaseTLS
	tlsConn := tls.Client(conn, l.tls)
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		return fail(err)
	}

	phase = phaseLogin
	var replay []byte
	err = during(ctx, tlsConn, func() (err error) {
		replay, err = l.authenticate(tlsConn, token)
		return err
	})
	if err != nil {
		return fail(err)
	}
	return &sessionConn{Conn: tlsConn, opened: time.Now(), expect: l.params, swallow: len(l.startup), replay: replay}, nil
}

// authenticate sends the startup message and the token, and returns what
// the server said from AuthenticationOk on, for pgx to read.
func (l *login) authenticate(conn net.Conn, token *Token) (replay []byte, err error) {
	password, err := (&pgproto3.PasswordMessage{Password: token.Reveal()}).Encode(nil)
	if err != nil {
		return nil, err
	}
	opening := l.startup
	if l.early {
		opening = append(opening[:len(opening):len(opening)], password...)
	}
	if _, err := conn.Write(opening); err != nil {
		return nil, err
	}
	return readLogin(conn, func() error {
		if l.early {
			return nil
		}
		_, err := conn.Write(password)
		return err
	}, l.early)
}

// readLogin reads a server's side of a login up to ReadyForQuery. It calls
// sendPassword when the server asks for the cleartext password. sent says that
// the password is on its way already: a server that does not ask for it will take it for a
// message of the session, so such a session is not usable.
func readLogin(conn io.Reader, sendPassword func() error, sent bool) (replay []byte, err error) {
	r := bufio.NewReaderSize(conn, 1024)
	asked, accepted := false, false
	for {
		kind, message, err := readLoginMessage(r)
		if err != nil {
			return nil, err
		}
		body := message[5:]
		switch {
		case kind == 'E':
			var response pgproto3.ErrorResponse
			if err := response.Decode(body); err != nil {
				return nil, fmt.Errorf("%w: an ErrorResponse that cannot be read", errProtocol)
			}
			return nil, pgconn.ErrorResponseToPgError(&response)
		case kind == 'R' && !accepted:
			if len(body) < 4 {
				return nil, fmt.Errorf("%w: an authentication request of %d bytes", errProtocol, len(body))
			}
			switch method := binary.BigEndian.Uint32(body); {
			case method == pgproto3.AuthTypeCleartextPassword && !asked:
				asked = true
				if err := sendPassword(); err != nil {
					return nil, err
				}
				continue // not for pgx
			case sent && !asked:
				return nil, errTokenUnread
			case method == pgproto3.AuthTypeOk:
				accepted = true
			default:
				return nil, fmt.Errorf("%w: authentication request %d; DSQL asks for a cleartext password (3), so this is another server", errProtocol, method)
			}
		case kind == 'N', // NoticeResponse, at any time
			kind == 'v' && !accepted, // NegotiateProtocolVersion
			(kind == 'S' || kind == 'K' || kind == 'Z') && accepted:
		default:
			return nil, fmt.Errorf("%w: a message of type %q", errProtocol, kind)
		}
		if len(replay)+len(message) > maxLoginReplay {
			return nil, fmt.Errorf("%w: more than %d bytes before the session began", errProtocol, maxLoginReplay)
		}
		replay = append(replay, message...)
		if kind == 'Z' {
			// What came right behind it belongs to pgx as well.
			more, _ := r.Peek(r.Buffered())
			return append(replay, more...), nil
		}
	}
}

// readLoginMessage reads one whole message: type, length and body. The length
// is believed only as far as a login's messages go.
func readLoginMessage(r io.Reader) (kind byte, message []byte, err error) {
	var header [5]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length < 4 || length > maxLoginMessage {
		return 0, nil, fmt.Errorf("%w: a message of type %q that says it is %d bytes long", errProtocol, header[0], length)
	}
	message = make([]byte, 1+length)
	copy(message, header[:])
	if _, err := io.ReadFull(r, message[5:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return header[0], message, nil
}

// sessionConn is a connection that is logged in already. pgx opens it as if it
// were not: the StartupMessage that it writes goes nowhere, and the answers it then reads are
// those that the login got.
type sessionConn struct {
	*tls.Conn
	opened time.Time

	// Used by Write alone.
	expect  pgproto3.StartupMessage
	held    []byte // of pgx's StartupMessage
	swallow int    // its length; 0 when done with

	replay []byte // used by Read alone
}

func (c *sessionConn) Write(b []byte) (int, error) {
	if c.swallow == 0 {
		return c.Conn.Write(b)
	}
	n := min(len(b), c.swallow-len(c.held))
	c.held = append(c.held, b[:n]...)
	if len(c.held) < c.swallow {
		return n, nil
	}
	// It was sent before pgx wrote it. Should pgx want to say something else,
	// the session would not be the one it thinks it has.
	var wrote pgproto3.StartupMessage
	err := wrote.Decode(c.held[4:])
	if err != nil || wrote.ProtocolVersion != c.expect.ProtocolVersion || !maps.Equal(wrote.Parameters, c.expect.Parameters) {
		return 0, errors.New("dsql: pgx's startup message differs from the one that the login sent; this version of pgx is not supported")
	}
	c.swallow, c.held, c.expect = 0, nil, pgproto3.StartupMessage{}
	if n == len(b) {
		return n, nil
	}
	m, err := c.Conn.Write(b[n:])
	return n + m, err
}

func (c *sessionConn) Read(b []byte) (int, error) {
	if len(c.replay) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.replay)
	if c.replay = c.replay[n:]; len(c.replay) == 0 {
		c.replay = nil
	}
	return n, nil
}

// passes tells whether what went wrong outside of PostgreSQL's protocol may be
// gone the next time.
func passes(phase phase, err error) bool {
	var (
		dns     *net.DNSError
		address *net.AddrError
		parse   *net.ParseError
		op      *net.OpError
		network net.Error
	)
	switch {
	case phase == phaseToken:
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	case errors.As(err, &address), errors.As(err, &parse):
		return false
	case errors.As(err, &op) && op.Op == "remote error":
		return false // an alert, which TLS 1.3 may send as late as in the login
	case phase == phaseTLS:
		// All else is what crypto/tls, or a check of the user's own, has to say of the server.
		return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
	case errors.Is(err, errPaced), errors.Is(err, errNoTLS), errors.Is(err, errProtocol), errors.Is(err, ErrConfig):
		return false
	}
	return true
}
