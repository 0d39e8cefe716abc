package dsqldoctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/wsconn"
)

// prober opens connections of its own, one for each probe. It neither paces nor retries them.
type prober struct {
	dial       pgconn.DialFunc
	address    string // "host:port"
	serverName string

	webSocketDial    pgconn.DialFunc
	webSocketAddress string

	roots *x509.CertPool
	user  string
}

// tlsOptions say how a probe sets up TLS.
type tlsOptions struct {
	negotiation negotiation
	serverName  string // sent as SNI; empty: no SNI
	// Offer only key exchanges from before post-quantum cryptography, so that the ClientHello
	// fits into one packet.
	smallHello bool
}

// connectTCP opens a TCP connection and closes it.
func (p *prober) connectTCP(ctx context.Context, address string) finding {
	conn, err := p.dial(ctx, "tcp", address)
	if err == nil {
		conn.Close()
	}
	return newFinding(login.PhaseDial, err)
}

// handshake sets up TLS, sends nothing in it, and checks the certificate. crypto/tls would stop at
// a certificate that fails its check and show only a part of the chain, so the same check is made
// afterwards.
func (p *prober) handshake(ctx context.Context, o tlsOptions) finding {
	config := login.TLSConfig(o.serverName, p.roots)
	config.InsecureSkipVerify = true
	conn, f := p.openTLS(ctx, o, config)
	if conn == nil {
		return f
	}
	conn.NetConn().Close()
	if err := verify(*f.tls, p.serverName, p.roots); err != nil {
		f.outcome, f.err = outcomeBadCertificate, err
	}
	return f
}

// verify checks a certificate as crypto/tls does.
func verify(state tls.ConnectionState, name string, roots *x509.CertPool) error {
	options := x509.VerifyOptions{DNSName: name, Roots: roots, Intermediates: x509.NewCertPool()}
	for _, c := range state.PeerCertificates[1:] {
		options.Intermediates.AddCert(c)
	}
	_, err := state.PeerCertificates[0].Verify(options)
	return err
}

// openTLS dials and sets up TLS. If that fails, conn is nil.
func (p *prober) openTLS(ctx context.Context, o tlsOptions, config *tls.Config) (conn *tls.Conn, f finding) {
	if o.smallHello {
		config.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
	}
	if o.negotiation == webSocket {
		config.NextProtos = []string{wsconn.Protocol}
	}
	raw, err := p.dialFor(o.negotiation)(ctx)
	if err != nil {
		return nil, newFinding(login.PhaseDial, err)
	}
	if o.negotiation == sslRequest {
		if err := login.RequestTLS(ctx, raw); err != nil {
			raw.Close()
			return nil, newFinding(login.PhaseSSLRequest, err)
		}
	}
	conn = tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, newFinding(login.PhaseTLS, err)
	}
	state := conn.ConnectionState()
	f = newFinding(login.PhaseTLS, nil)
	f.tls = &state
	return conn, f
}

// startup sends a startup message in verified TLS, without the token. A server that asks for the
// password has found the cluster.
func (p *prober) startup(ctx context.Context, o tlsOptions) finding {
	conn, f := p.openTLS(ctx, o, login.TLSConfig(o.serverName, p.roots))
	if conn == nil {
		return f
	}
	defer conn.NetConn().Close()
	return p.sendStartup(ctx, conn, o, p.user)
}

// startupUnverified is startup for an SNI that the certificate need not cover. It does not send the
// name of the user.
func (p *prober) startupUnverified(ctx context.Context, o tlsOptions) finding {
	config := login.TLSConfig(o.serverName, p.roots)
	config.InsecureSkipVerify = true
	conn, f := p.openTLS(ctx, o, config)
	if conn == nil {
		return f
	}
	defer conn.NetConn().Close()
	return p.sendStartup(ctx, conn, o, adminUser)
}

// sendStartup sends a startup message in TLS, or in a WebSocket in it.
func (p *prober) sendStartup(ctx context.Context, conn net.Conn, o tlsOptions, user string) finding {
	if o.negotiation == webSocket {
		upgraded, err := wsconn.Upgrade(ctx, conn, p.serverName)
		if err != nil {
			return newFinding(login.PhaseUpgrade, err)
		}
		defer upgraded.Close()
		conn = upgraded
	}
	return sendStartup(ctx, conn, user)
}

// startupPlaintext is startup without TLS, which DSQL refuses. It does not send the name of the
// user.
func (p *prober) startupPlaintext(ctx context.Context) finding {
	conn, err := p.dial(ctx, "tcp", p.address)
	if err != nil {
		return newFinding(login.PhaseDial, err)
	}
	defer conn.Close()
	return sendStartup(ctx, conn, adminUser)
}

var (
	errPasswordRequest = errors.New("the server asks for the password") // ends a startup that went well
	errNoPassword      = fmt.Errorf("%w: the server opened a session without a password", login.ErrProtocol)
)

// sendStartup sends a startup message and waits until the server asks for the password.
func sendStartup(ctx context.Context, conn net.Conn, user string) finding {
	message := pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters:      map[string]string{"user": user, "database": defaultDatabase},
	}
	encoded, err := message.Encode(nil)
	if err != nil {
		return newFinding(login.PhaseLogin, err)
	}
	err = login.Interruptible(ctx, conn, func() error {
		if _, err := conn.Write(encoded); err != nil {
			return err
		}
		_, err := login.ReadAnswers(conn, func() error { return errPasswordRequest }, false)
		return err
	})
	switch {
	case errors.Is(err, errPasswordRequest):
		err = nil
	case err == nil:
		err = errNoPassword
	}
	return newFinding(login.PhaseLogin, err)
}

// logIn opens a session as dsql.Connect does, in one attempt. If that fails, conn is nil.
func (p *prober) logIn(ctx context.Context, c dsql.Config, token string, n negotiation) (conn *pgx.Conn, f finding) {
	cc, err := c.ConnConfig(ctx)
	if err != nil {
		return nil, newFinding(login.PhaseLogin, err)
	}
	phase, cause := login.PhaseLogin, error(nil) // of an attempt that failed
	cc.AfterNetConnect = func(ctx context.Context, config *pgconn.Config, conn net.Conn) (net.Conn, error) {
		attempt := login.Attempt{
			Dial:       p.dialFor(n),
			TLS:        config.TLSConfig,
			SSLRequest: n == sslRequest,
			EarlyToken: c.EarlyAuth,
		}
		if n == webSocket {
			attempt.TLS = attempt.TLS.Clone()
			attempt.TLS.NextProtos = []string{wsconn.Protocol}
			attempt.Upgrade = func(ctx context.Context, conn net.Conn) (net.Conn, error) {
				return wsconn.Upgrade(ctx, conn, config.TLSConfig.ServerName)
			}
		}
		return login.NewConn(ctx, conn, func(ctx context.Context, startup []byte) (session *login.Session, err error) {
			session, phase, cause = attempt.Open(ctx, nil, startup, token)
			return session, cause
		}), nil
	}
	conn, err = pgx.ConnectConfig(ctx, cc)
	switch {
	case cause != nil:
		return nil, newFinding(phase, cause)
	case err != nil:
		return nil, newFinding(login.PhaseLogin, err)
	}
	return conn, newFinding(login.PhaseLogin, nil)
}
