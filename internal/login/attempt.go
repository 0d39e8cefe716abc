// Package login opens sessions: it dials, sets up TLS and authenticates with a token. It makes one
// attempt and leaves retries to its callers.
package login

import (
	"context"
	"crypto/tls"
	"net"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Phase is the step in which an attempt ended.
type Phase string

// The phases of an attempt, in order.
const (
	PhaseDial       Phase = "dial"
	PhaseSSLRequest Phase = "SSLRequest"
	PhaseTLS        Phase = "TLS handshake"
	PhaseUpgrade    Phase = "WebSocket upgrade"
	PhaseLogin      Phase = "login"
)

// Attempt says how to open a session. Several goroutines may use one at once, if none changes it.
type Attempt struct {
	Dial       func(context.Context) (net.Conn, error)
	TLS        *tls.Config
	SSLRequest bool // ask for TLS with an SSLRequest, instead of beginning with a ClientHello
	EarlyToken bool // send the token with the startup message

	// Upgrade turns a connection that is verified TLS into the one that carries PostgreSQL's protocol.
	// It may be nil: then the connection is the same.
	Upgrade func(context.Context, net.Conn) (net.Conn, error)

	// ConnectTimeout limits what comes before the login; 0 means no limit.
	ConnectTimeout time.Duration

	// OnConnect is called when only the login is left to do. It may be nil.
	OnConnect func()
}

// Open opens a session. startup is the encoded startup message. conn is an open TCP connection, or
// nil to dial one. If Open fails, it closes the connection and returns the phase that failed. A
// refusal by the server is a *pgconn.PgError.
func (a *Attempt) Open(ctx context.Context, conn net.Conn, startup []byte, token string) (session *Session, phase Phase, err error) {
	connectCtx, cancel := ctx, context.CancelFunc(func() {})
	if a.ConnectTimeout > 0 {
		connectCtx, cancel = context.WithTimeout(ctx, a.ConnectTimeout)
	}
	session, phase, err = a.connect(connectCtx, conn)
	cancel()
	if err != nil {
		return nil, phase, err
	}
	if a.OnConnect != nil {
		a.OnConnect()
	}
	if err := Interruptible(ctx, session.Conn, func() (err error) {
		session.answers, err = a.authenticate(session.Conn, startup, token)
		return err
	}); err != nil {
		session.Conn.Close()
		return nil, PhaseLogin, err
	}
	session.opened = time.Now()
	return session, PhaseLogin, nil
}

// Connect opens a connection without a login, on which a cancel request can be sent.
func (a *Attempt) Connect(ctx context.Context) (net.Conn, error) {
	session, _, err := a.connect(ctx, nil)
	if err != nil {
		return nil, err
	}
	return session.Conn, nil
}

// connect makes what a session needs before its login. conn is an open TCP connection, or nil to
// dial one. If connect fails, it closes the connection.
func (a *Attempt) connect(ctx context.Context, conn net.Conn) (session *Session, phase Phase, err error) {
	defer func() {
		if err != nil && conn != nil {
			conn.Close()
		}
	}()
	if conn == nil {
		dialled, err := a.Dial(ctx)
		if err != nil {
			return nil, PhaseDial, err
		}
		conn = dialled
		if a.SSLRequest {
			if err := RequestTLS(ctx, conn); err != nil {
				return nil, PhaseSSLRequest, err
			}
		}
	}
	tlsConn := tls.Client(conn, a.TLS)
	if err := tlsConn.HandshakeContext(ctx); err != nil {
		return nil, PhaseTLS, err
	}
	session = &Session{Conn: tlsConn, tcp: conn, tls: tlsConn.ConnectionState()}
	if a.Upgrade == nil {
		return session, PhaseLogin, nil
	}
	if session.Conn, err = a.Upgrade(ctx, tlsConn); err != nil {
		return nil, PhaseUpgrade, err
	}
	return session, PhaseLogin, nil
}

// authenticate sends the startup message and the token, and returns the server's answers for pgx.
func (a *Attempt) authenticate(conn net.Conn, startup []byte, token string) (answers []byte, err error) {
	password, err := (&pgproto3.PasswordMessage{Password: token}).Encode(nil)
	if err != nil {
		return nil, err
	}
	if a.EarlyToken {
		startup = slices.Concat(startup, password)
	}
	if _, err := conn.Write(startup); err != nil {
		return nil, err
	}
	return ReadAnswers(conn, func() error {
		if a.EarlyToken {
			return nil
		}
		_, err := conn.Write(password)
		return err
	}, a.EarlyToken)
}
