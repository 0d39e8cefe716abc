package dsqldoctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/refusal"
)

// ending is how a probe ended, as far as the verdict depends on it.
type ending string

const (
	endUntried     ending = "" // also: no time was left
	endGood        ending = "ok"
	endSilent      ending = "no answer"
	endReset       ending = "reset"
	endClosed      ending = "closed"
	endRefusedPort ending = "connection refused"
	endUnreachable ending = "no route"
	endUnknownName ending = "no such name"
	endUnresolved  ending = "the resolver failed"
	endUntrusted   ending = "certificate not accepted"
	endAlert       ending = "TLS alert"
	endNotTLS      ending = "not TLS"
	endOtherServer ending = "not DSQL"
	endRefusal     ending = "refused" // with an ErrorResponse
	endBroken      ending = "failed"  // anything else
)

// blocked tells what a box on the way does to a connection that it does not want.
func (e ending) blocked() bool { return e == endReset || e == endClosed || e == endSilent }

// hungUp is blocked without the waiting.
func (e ending) hungUp() bool { return e == endReset || e == endClosed }

// finding is what one probe saw.
type finding struct {
	ending ending
	err    error
	phase  login.Phase // how far it got
	took   time.Duration
	limit  time.Duration // that it had
	none   string        // why it was not tried

	tls *tls.ConnectionState // once the handshake was done

	// Of a refusal: its kind and advice, HINT and SQLSTATE.
	kind               refusal.Kind
	advice, hint, code string
}

func (f finding) tried() bool { return f.ending != endUntried }

// endingOf reads an error of net, crypto/tls or this package.
func endingOf(err error) ending {
	var (
		pgErr       *pgconn.PgError
		dns         *net.DNSError
		operation   *net.OpError
		timeout     net.Error
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
	)
	switch {
	case err == nil:
		return endGood
	case errors.As(err, &pgErr):
		return endRefusal
	case errors.As(err, &dns) && dns.IsNotFound:
		return endUnknownName
	case errors.As(err, &dns):
		return endUnresolved
	case errors.As(err, &certificate):
		return endUntrusted
	case errors.As(err, &record), errors.Is(err, login.ErrNoTLS):
		return endNotTLS
	case errors.Is(err, login.ErrProtocol):
		return endOtherServer
	case errors.As(err, &operation) && operation.Op == "remote error": // crypto/tls has no better mark
		return endAlert
	case isErrno(err, syscall.ECONNREFUSED, 10061):
		return endRefusedPort
	case isErrno(err, syscall.ENETUNREACH, 10051), isErrno(err, syscall.EHOSTUNREACH, 10065),
		isErrno(err, syscall.EADDRNOTAVAIL, 10049), isErrno(err, syscall.EAFNOSUPPORT, 10047):
		return endUnreachable
	case isErrno(err, syscall.ECONNRESET, 10054), isErrno(err, syscall.ECONNABORTED, 10053), isErrno(err, syscall.EPIPE, 10058):
		return endReset
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return endClosed
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return endSilent
	}
	return endBroken
}

// isErrno knows the numbers of Windows Sockets as well, which package syscall does not name.
func isErrno(err error, unix, winsock syscall.Errno) bool {
	return errors.Is(err, unix) || errors.Is(err, winsock)
}

// found makes a finding of how far a probe got.
func found(p login.Phase, err error) finding {
	f := finding{ending: endingOf(err), err: err, phase: p}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		f.kind, f.advice = refusal.Classify(pgErr)
		f.code, f.hint = pgErr.Code, pgErr.Hint
	}
	return f
}

var (
	// errAsked ends a login where the server asks for the password.
	errAsked = errors.New("the server asks for the token")
	errOpen  = fmt.Errorf("%w: a session without a password", login.ErrProtocol)
)

// phaseQuery follows the login; only Diagnose gets there.
const phaseQuery login.Phase = "query"

// prober dials on its own account, each probe anew: one attempt, no pacing.
type prober struct {
	config   dsql.Config
	endpoint dsql.Endpoint
	token    string
	dial     pgconn.DialFunc
	address  string // that answered, or the DialAddress for a DialFunc to resolve
}

// lookup asks the system's resolver for A and AAAA records.
func lookupHost(ctx context.Context, host string) ([]netip.Addr, error) {
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i, a := range addresses {
		addresses[i] = a.Unmap()
	}
	return slices.Compact(addresses), err
}

// connect opens a TCP connection and closes it.
func (p *prober) connect(ctx context.Context, address string) finding {
	conn, err := p.dial(ctx, "tcp", address)
	if err == nil {
		conn.Close()
	}
	return found(login.PhaseDial, err)
}

// way is how TLS is begun.
type way struct {
	sslRequest bool
	serverName string // sent as SNI, which it is not when empty
	// Only key exchanges from before post-quantum cryptography, so that the ClientHello
	// fits into one packet.
	smallHello bool
}

// handshake sets up TLS to look at the certificate, and says nothing inside it. Go's own check would
// end the handshake where it fails and show less of the chain, so the same check
// is made afterwards.
func (p *prober) handshake(ctx context.Context, w way) finding {
	config := login.TLSConfig(w.serverName, p.config.RootCAs)
	config.InsecureSkipVerify = true
	conn, f := p.secure(ctx, w, config)
	if conn == nil {
		return f
	}
	conn.NetConn().Close()
	if err := verify(*f.tls, p.endpoint.ServerName, p.config.RootCAs); err != nil {
		f.ending, f.err = endUntrusted, err
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

// secure dials and sets up TLS. conn is nil when that fails.
func (p *prober) secure(ctx context.Context, w way, config *tls.Config) (conn *tls.Conn, f finding) {
	if w.smallHello {
		config.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256}
	}
	raw, err := p.dial(ctx, "tcp", p.address)
	if err != nil {
		return nil, found(login.PhaseDial, err)
	}
	if w.sslRequest {
		if err := login.RequestTLS(ctx, raw); err != nil {
			raw.Close()
			return nil, found(login.PhaseSSLRequest, err)
		}
	}
	conn = tls.Client(raw, config)
	if err := conn.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, found(login.PhaseTLS, err)
	}
	state := conn.ConnectionState()
	f = found(login.PhaseTLS, nil)
	f.tls = &state
	return conn, f
}

// startup sends a startup message without a password and waits for what the server makes of it: it
// asks for the password when it has found the cluster.
func (p *prober) startup(ctx context.Context, w way) finding {
	conn, f := p.secure(ctx, w, login.TLSConfig(w.serverName, p.config.RootCAs))
	if conn == nil {
		return f
	}
	defer conn.NetConn().Close()
	return greet(ctx, conn, cmp.Or(p.config.User, adminUser), defaultDatabase)
}

// unverified is startup for a server whose certificate need not be for the name sent. It does not say who
// the user is.
func (p *prober) unverified(ctx context.Context, w way) finding {
	config := login.TLSConfig(w.serverName, p.config.RootCAs)
	config.InsecureSkipVerify = true
	conn, f := p.secure(ctx, w, config)
	if conn == nil {
		return f
	}
	defer conn.NetConn().Close()
	return greet(ctx, conn, adminUser, defaultDatabase)
}

// plaintext is startup without TLS, which DSQL refuses.
func (p *prober) plaintext(ctx context.Context) finding {
	conn, err := p.dial(ctx, "tcp", p.address)
	if err != nil {
		return found(login.PhaseDial, err)
	}
	defer conn.Close()
	return greet(ctx, conn, adminUser, defaultDatabase)
}

func greet(ctx context.Context, conn net.Conn, user, database string) finding {
	message := pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters:      map[string]string{"user": user, "database": database},
	}
	startup, err := message.Encode(nil)
	if err != nil {
		return found(login.PhaseLogin, err)
	}
	err = login.Interruptible(ctx, conn, func() error {
		if _, err := conn.Write(startup); err != nil {
			return err
		}
		_, err := login.ReadAnswers(conn, func() error { return errAsked }, false)
		return err
	})
	switch {
	case errors.Is(err, errAsked):
		err = nil
	case err == nil:
		err = errOpen
	}
	return found(login.PhaseLogin, err)
}

// login opens a session as Connect does, in one attempt. conn is nil when that fails.
func (p *prober) login(ctx context.Context, w way, early bool) (conn *pgx.Conn, f finding) {
	cc, err := p.config.ConnConfig(ctx)
	if err != nil {
		return nil, found(login.PhaseLogin, err)
	}
	phase, cause := login.PhaseLogin, error(nil)
	cc.AfterNetConnect = func(ctx context.Context, config *pgconn.Config, conn net.Conn) (net.Conn, error) {
		attempt := login.Attempt{
			Dial:       func(ctx context.Context) (net.Conn, error) { return p.dial(ctx, "tcp", p.address) },
			TLS:        config.TLSConfig,
			SSLRequest: w.sslRequest,
			EarlyToken: early,
			Startup:    startupMessage(config),
		}
		var session *login.Session
		if session, phase, cause = attempt.Open(ctx, nil, p.token); cause != nil {
			return conn, cause
		}
		return session, nil
	}
	conn, err = pgx.ConnectConfig(ctx, cc)
	switch {
	case cause != nil:
		return nil, found(phase, cause)
	case err != nil:
		return nil, found(login.PhaseLogin, err)
	}
	return conn, found(login.PhaseLogin, nil)
}

// startupMessage is the one that pgx will write for config.
func startupMessage(config *pgconn.Config) pgproto3.StartupMessage {
	m := pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: maps.Clone(config.RuntimeParams)}
	if v := config.MaxProtocolVersion; v == "3.2" || v == "latest" {
		m.ProtocolVersion = pgproto3.ProtocolVersion32
	}
	m.Parameters["user"], m.Parameters["database"] = config.User, config.Database
	return m
}

// hostOf is the host of a "host:port".
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// isName tells a host name, which may be sent as SNI, from an IP address (RFC 6066, 3).
func isName(host string) bool {
	_, err := netip.ParseAddr(host)
	return err != nil && host != ""
}

// nearby tells an address that leads to a tunnel's or proxy's near end.
func nearby(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.IsLoopback()
}
