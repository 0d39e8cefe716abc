package dsql

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dsqlgo/dsql/internal/httpproxy"
	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/refusal"
	"github.com/dsqlgo/dsql/internal/transport"
)

// These phases come before those of a login.Attempt.
const (
	phasePacing login.Phase = "pacing"
	phaseToken  login.Phase = "getting a token"
)

// connectError says why connecting failed. errors.Is and errors.As find the errors of this package
// and the causes. There is one exception, a net.Error: for one that timed out, pgconn would replace
// the text of this error by "timeout".
type connectError struct {
	phase     login.Phase
	transport transport.Transport
	named     bool   // the text names the transport, since it is not the usual one
	address   string // that was dialled
	sni       string
	cause     error
	kind      refusal.Kind // RateExceeded also if the pacer had no slot
	advice    string
	token     *Token        // that was used
	timeout   time.Duration // the time for the attempt, if that ended it
	ctxErr    error         // the context's error, if that ended the attempt
	other     *connectError // the last attempt by the other transport, if the network stopped both

	attempts int
	elapsed  time.Duration
}

// newConnectError returns the error of an attempt to reach address with the TLS configuration config.
func newConnectError(p login.Phase, address string, config *tls.Config, cause error) *connectError {
	e := &connectError{phase: p, address: address, sni: config.ServerName, cause: cause}
	var pgErr *pgconn.PgError
	switch {
	case errors.As(cause, &pgErr):
		e.kind, e.advice = refusal.Classify(pgErr)
	case errors.Is(cause, errNoSlot):
		e.kind, e.advice = refusal.RateExceeded, "open fewer connections at once, allow a longer ConnectTimeout or deadline, or raise ConnectRate if the quota was raised"
	}
	if e.advice == "" && p != phaseToken {
		e.advice = adviceFor(cause, config.RootCAs)
	}
	return e
}

// adviceFor returns advice for errors without a sentinel.
func adviceFor(cause error, roots *x509.CertPool) string {
	var (
		pgErr *pgconn.PgError
		dns   *net.DNSError
		name  x509.HostnameError
	)
	switch certificate := login.CertificateAdvice(cause, roots); {
	case certificate != "":
		return certificate
	case errors.As(cause, &pgErr):
		if pgErr.Code == "3D000" {
			return "leave Database empty: DSQL has one, postgres"
		}
		return ""
	case errors.As(cause, &dns) && dns.IsNotFound:
		return "check Host; if a tunnel or an address leads there, set DialAddress"
	case errors.As(cause, &name):
		return "check Host, ClusterID, Region and ServerName, and where DialAddress leads"
	}
	return "run dsql doctor to find the cause"
}

// endedBy returns a copy that says how ctx ended. It does not change e, which hooks and logs may
// use.
func (e *connectError) endedBy(ctx context.Context) *connectError {
	ended := *e
	if ended.ctxErr = ctx.Err(); ended.ctxErr == nil {
		ended.ctxErr = context.DeadlineExceeded // the pacer fails before the deadline
	}
	return &ended
}

// isTransient reports whether another attempt may succeed. It does not if e is nil.
func (e *connectError) isTransient() bool {
	if e == nil {
		return false
	}
	var pgErr *pgconn.PgError
	if errors.As(e.cause, &pgErr) {
		return e.kind.Transient()
	}
	return isTransient(e.phase, e.cause)
}

func (e *connectError) Error() string {
	if e.phase == phaseToken && e.ctxErr == nil {
		return e.cause.Error()
	}
	var b strings.Builder
	if known := sentinels[e.kind]; len(known) > 0 {
		b.WriteString(known[0].Error())
	} else {
		fmt.Fprintf(&b, "dsql: %s failed", e.phase)
	}
	if e.named {
		fmt.Fprintf(&b, " over %s", e.transport)
	}
	fmt.Fprintf(&b, ": %s (SNI %s): %s", e.address, e.sni, e.reason())
	if o := e.other; o != nil {
		fmt.Fprintf(&b, "; %s failed over %s: %s: %s", o.phase, o.transport, o.address, o.reason())
	}
	if e.attempts > 1 {
		fmt.Fprintf(&b, ", after %d attempts in %s", e.attempts, e.elapsed.Round(time.Millisecond))
	}
	if e.advice != "" {
		fmt.Fprintf(&b, "; %s", e.advice)
	}
	return b.String()
}

func (e *connectError) reason() string {
	var pgErr *pgconn.PgError
	var network net.Error
	reason := e.cause.Error()
	switch {
	case errors.As(e.cause, &pgErr):
		for _, field := range []struct{ name, text string }{{"DETAIL", pgErr.Detail}, {"HINT", pgErr.Hint}} {
			if field.text != "" {
				reason += fmt.Sprintf(" (%s: %s)", field.name, field.text)
			}
		}
	case e.timeout > 0:
		reason = "no answer within " + e.timeout.Round(time.Millisecond).String()
	case errors.Is(e.cause, context.Canceled), errors.As(e.cause, &network) && network.Timeout():
		reason = "no answer"
	}
	switch e.ctxErr {
	case nil:
	case context.Canceled:
		reason += ", until the context was cancelled"
	default:
		reason += ", until the deadline"
	}
	return reason
}

// Is reports whether target is an error of the refusal's kind, a cause, or the context's error.
func (e *connectError) Is(target error) bool {
	return slices.Contains(sentinels[e.kind], target) ||
		e.ctxErr != nil && target == e.ctxErr ||
		errors.Is(e.cause, target)
}

// As finds causes, except a net.Error.
func (e *connectError) As(target any) bool {
	if _, ok := target.(*net.Error); ok {
		return false
	}
	return errors.As(e.cause, target)
}

// isTransient reports whether another attempt may succeed after an error that is not a refusal.
func isTransient(phase login.Phase, err error) bool {
	var (
		dns     *net.DNSError
		address *net.AddrError
		parse   *net.ParseError
		op      *net.OpError
		network net.Error
		proxy   *httpproxy.StatusError

		certificate *tls.CertificateVerificationError
	)
	switch {
	case phase == phaseToken:
		return false
	case errors.As(err, &dns):
		return !dns.IsNotFound
	case errors.As(err, &address), errors.As(err, &parse), errors.As(err, &certificate):
		return false
	case errors.As(err, &proxy):
		return isTransientStatus(proxy.Code)
	case errors.Is(err, httpproxy.ErrEnvironment):
		return false
	case phase == login.PhaseUpgrade:
		return isTransientUpgrade(err)
	case errors.As(err, &op) && op.Op == "remote error":
		return false // a TLS alert; with TLS 1.3 it may come during the login
	case phase == login.PhaseTLS:
		// Any other error is the result of a check, by crypto/tls or by a func of the user.
		return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
	case errors.Is(err, errNoSlot), errors.Is(err, login.ErrNoTLS), errors.Is(err, login.ErrProtocol), errors.Is(err, ErrConfig):
		return false
	}
	return true
}
