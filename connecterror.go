package dsql

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/refusal"
)

// The phases of a connect that come before those of a login.Attempt.
const (
	phasePacing login.Phase = "pacing"
	phaseToken  login.Phase = "getting a token"
)

// errPaced is a slot that comes after the deadline.
var errPaced = errors.New("too many new connections from this process")

// connectError is why a connection could not be had. It shows the sentinels
// above and its causes to errors.Is and errors.As. One thing it hides: a
// net.Error that timed out, for which pgconn would put "timeout" in the place
// of this text.
type connectError struct {
	phase   login.Phase
	address string // dialled
	sni     string
	cause   error
	kind    refusal.Kind // what a refusal means, or a refusal that pacing saw coming
	advice  string
	token   *Token        // that was used
	paced   bool          // the pacer had held the attempt back
	timeout time.Duration // that the attempt had, when that ended it
	ended   error         // context.Canceled or DeadlineExceeded, when that ended it

	attempts int
	elapsed  time.Duration
}

func newConnectError(p login.Phase, address, sni string, cause error) *connectError {
	e := &connectError{phase: p, address: address, sni: sni, cause: cause}
	var pgErr *pgconn.PgError
	switch {
	case errors.As(cause, &pgErr):
		e.kind, e.advice = refusal.Classify(pgErr)
	case errors.Is(cause, errPaced):
		e.kind, e.advice = refusal.RateExceeded, "open fewer connections at once, allow a longer ConnectTimeout or deadline, or raise ConnectRate if the quota was raised"
	}
	if e.advice == "" && p != phaseToken {
		e.advice = adviceFor(cause)
	}
	return e
}

// adviceFor returns advice for errors without a sentinel.
func adviceFor(cause error) string {
	var (
		pgErr   *pgconn.PgError
		dns     *net.DNSError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
	)
	switch {
	case errors.As(cause, &pgErr):
		if pgErr.Code == "3D000" {
			return "leave Database empty: DSQL has one, postgres"
		}
		return ""
	case errors.As(cause, &dns) && dns.IsNotFound:
		return "check Host; where the name is not known but a tunnel or an address leads there, set DialAddress"
	case errors.As(cause, &unknown):
		return "a cluster's certificate needs no RootCAs, so something else answers here: for a local endpoint or a proxy set RootCAs (sslrootcert)"
	case errors.As(cause, &name):
		return "check Host, ClusterID, Region and ServerName, and where DialAddress leads"
	}
	return "dsql doctor tells what is in the way"
}

// endedBy returns a copy that says how the time for it ended. e itself does not change, since hooks
// and logs may have it.
func (e *connectError) endedBy(ctx context.Context) *connectError {
	ended := *e
	if ended.ended = ctx.Err(); ended.ended == nil {
		ended.ended = context.DeadlineExceeded // the pacer fails before it
	}
	return &ended
}

// isTransient tells whether another attempt can help.
func (e *connectError) isTransient() bool {
	var pgErr *pgconn.PgError
	if errors.As(e.cause, &pgErr) {
		return e.kind.Transient()
	}
	return isTransient(e.phase, e.cause)
}

func (e *connectError) Error() string {
	if e.phase == phaseToken && e.ended == nil {
		return e.cause.Error()
	}
	var b strings.Builder
	if named := sentinels[e.kind]; len(named) > 0 {
		b.WriteString(named[0].Error())
	} else {
		fmt.Fprintf(&b, "dsql: %s failed", e.phase)
	}
	fmt.Fprintf(&b, ": %s (SNI %s): %s", e.address, e.sni, e.reason())
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
		if pgErr.Hint != "" {
			reason += fmt.Sprintf(" (HINT: %s)", pgErr.Hint)
		}
	case e.timeout > 0:
		reason = "no answer within " + e.timeout.Round(time.Millisecond).String()
	case errors.Is(e.cause, context.Canceled), errors.As(e.cause, &network) && network.Timeout():
		reason = "no answer"
	}
	switch e.ended {
	case nil:
	case context.Canceled:
		reason += ", until the context was cancelled"
	default:
		reason += ", until the deadline"
	}
	return reason
}

// Is holds for the sentinels of the refusal, for the cause, and for the end of the context.
func (e *connectError) Is(target error) bool {
	return slices.Contains(sentinels[e.kind], target) ||
		e.ended != nil && target == e.ended ||
		errors.Is(e.cause, target)
}

// As finds causes, but for a net.Error.
func (e *connectError) As(target any) bool {
	if _, ok := target.(*net.Error); ok {
		return false
	}
	return errors.As(e.cause, target)
}

// isTransient tells whether a failure outside of PostgreSQL's protocol may be gone the next time.
func isTransient(phase login.Phase, err error) bool {
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
	case phase == login.PhaseTLS:
		// Any other error is the verdict of crypto/tls, or of a user's own check, on the server.
		return errors.As(err, &network) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, io.ErrClosedPipe)
	case errors.Is(err, errPaced), errors.Is(err, login.ErrNoTLS), errors.Is(err, login.ErrProtocol), errors.Is(err, ErrConfig):
		return false
	}
	return true
}
