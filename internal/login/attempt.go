// Package login opens sessions: it dials, sets up TLS and authenticates with a token. It makes one
// attempt and leaves retries to its callers.
package login

import (
	"context"
	"crypto/tls"
	"net"
	"slices"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Phase is the step in which an attempt ended.
type Phase string

// The phases of an attempt, in order.
const (
	PhaseDial       Phase = "dial"
	PhaseSSLRequest Phase = "SSLRequest"
	PhaseTLS        Phase = "TLS handshake"
	PhaseLogin      Phase = "login"
)

// Attempt says how to open a session. Several goroutines may use one at once, if none changes it.
type Attempt struct {
	Dial       func(context.Context) (net.Conn, error)
	TLS        *tls.Config
	SSLRequest bool // ask for TLS with an SSLRequest, instead of beginning with a ClientHello
	EarlyToken bool // send the token with the startup message
}

// Open opens a session. startup is the encoded startup message. conn is an open TCP connection, or
// nil to dial one. If Open fails, it closes the connection and returns the phase that failed. A
// refusal by the server is a *pgconn.PgError.
func (a *Attempt) Open(ctx context.Context, conn net.Conn, startup []byte, token string) (session *Session, phase Phase, err error) {
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
	var answers []byte
	if err := Interruptible(ctx, tlsConn, func() (err error) {
		answers, err = a.authenticate(tlsConn, startup, token)
		return err
	}); err != nil {
		return nil, PhaseLogin, err
	}
	return newSession(tlsConn, answers), PhaseLogin, nil
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
