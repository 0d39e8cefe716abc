package dsql

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Errors of this package, for errors.Is. Where the server refused, the
// *pgconn.PgError stays reachable with errors.As, through pgx, pgxpool and
// database/sql alike.
var (
	// ErrConfig: the Config or connection string cannot work. The text names
	// the field and what to set. Trying again does not help.
	ErrConfig = errors.New("dsql: invalid configuration")

	// ErrCredentials: there are no AWS credentials, or they could not be had.
	ErrCredentials = errors.New("dsql: AWS credentials are not available")

	// ErrAccessDenied: the server refused the login (SQLSTATE 28000): an IAM
	// policy, a role mapping, the wrong region or key.
	ErrAccessDenied = errors.New("dsql: access denied")

	// ErrTokenExpired: the server took a fresh token for an expired one
	// (SQLSTATE 28000, "Signature expired"): this host's clock is off. Such an
	// error is an ErrAccessDenied as well.
	ErrTokenExpired = errors.New("dsql: token expired")

	// ErrInvalidSNI: the server could not tell the cluster from the TLS server
	// name, or got none.
	ErrInvalidSNI = errors.New("dsql: invalid SNI")

	// ErrRateExceeded: more new connections a second than the cluster's quota
	// (SQLSTATE 53400).
	ErrRateExceeded = errors.New("dsql: connection rate exceeded")

	// ErrTooManyConnections: as many connections are open as the cluster's
	// quota allows (SQLSTATE 53300).
	ErrTooManyConnections = errors.New("dsql: too many connections")

	// ErrClusterWaking: an idle cluster is starting.
	ErrClusterWaking = errors.New("dsql: cluster is waking up")
)

// configError says what is wrong with a field of Config, or a parameter of a
// connection string, and what to do about it.
func configError(field, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrConfig, field, fmt.Sprintf(format, args...))
}

// phase is how far an attempt to connect got.
type phase string

const (
	phasePacing     phase = "pacing"
	phaseToken      phase = "getting a token"
	phaseDial       phase = "dial"
	phaseSSLRequest phase = "SSLRequest"
	phaseTLS        phase = "TLS handshake"
	phaseLogin      phase = "login"
)

// connectError is why a connection could not be had. It shows the sentinels
// above and its causes to errors.Is and errors.As. One thing it hides: a
// net.Error that timed out, for which pgconn would put "timeout" in the place
// of this text.
type connectError struct {
	phase   phase
	address string // dialled
	sni     string
	cause   error
	kind    error // the sentinel for cause, or nil
	advice  string
	token   *Token        // that was used
	paced   bool          // the pacer had held the attempt back
	timeout time.Duration // that the attempt had, when that ended it
	ended   error         // context.Canceled or DeadlineExceeded, when that ended it

	attempts int
	elapsed  time.Duration
}

func newConnectError(p phase, address, sni string, cause error) *connectError {
	e := &connectError{phase: p, address: address, sni: sni, cause: cause}
	var pgErr *pgconn.PgError
	switch {
	case errors.As(cause, &pgErr):
		e.advice, e.kind = classify(pgErr)
	case errors.Is(cause, errPaced):
		e.kind, e.advice = ErrRateExceeded, "open fewer connections at once, allow a longer ConnectTimeout or deadline, or raise ConnectRate if the quota was raised"
	}
	if e.advice == "" && p != phaseToken {
		e.advice = e.way()
	}
	return e
}

// way is the way out of what has no sentinel.
func (e *connectError) way() string {
	var (
		pgErr   *pgconn.PgError
		dns     *net.DNSError
		unknown x509.UnknownAuthorityError
		name    x509.HostnameError
	)
	switch {
	case errors.As(e.cause, &pgErr):
		if pgErr.Code == "3D000" {
			return "leave Database empty: DSQL has one, postgres"
		}
		return ""
	case errors.As(e.cause, &dns) && dns.IsNotFound:
		return "check Host; where the name is not known but a tunnel or an address leads there, set DialAddress"
	case errors.As(e.cause, &unknown):
		return "a cluster's certificate needs no RootCAs, so something else answers here: for a local endpoint or a proxy set RootCAs (sslrootcert)"
	case errors.As(e.cause, &name):
		return "check Host, ClusterID, Region and ServerName, and where DialAddress leads"
	}
	return "dsql doctor tells what is in the way"
}

// endedBy returns a copy that tells how the time for it ended: hooks and logs have e itself, and
// may read it at any time.
func (e *connectError) endedBy(ctx context.Context) *connectError {
	ended := *e
	if ended.ended = ctx.Err(); ended.ended == nil {
		ended.ended = context.DeadlineExceeded // which pacing saw coming
	}
	return &ended
}

// passing tells whether trying again can help.
func (e *connectError) passing() bool {
	var pgErr *pgconn.PgError
	if errors.As(e.cause, &pgErr) {
		return e.kind == ErrRateExceeded || e.kind == ErrTooManyConnections || e.kind == ErrClusterWaking
	}
	return passes(e.phase, e.cause)
}

func (e *connectError) Error() string {
	if e.phase == phaseToken && e.ended == nil {
		return e.cause.Error()
	}
	var b strings.Builder
	switch {
	case e.kind != nil:
		b.WriteString(e.kind.Error())
	default:
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

// Is holds for the sentinel, what it implies, the cause, and what ended the waiting.
func (e *connectError) Is(target error) bool {
	return e.kind != nil && target == e.kind ||
		e.kind == ErrTokenExpired && target == ErrAccessDenied ||
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

// classify says what a refusal means, and what the reader can do. The message
// decides before the SQLSTATE, which is not recorded for all of them.
func classify(pgErr *pgconn.PgError) (advice string, kind error) {
	reason, refused := strings.CutPrefix(strings.ToLower(pgErr.Message), "unable to accept connection")
	is := func(text string) bool { return refused && strings.Contains(reason, text) }
	switch {
	case is("sni"):
		return "check Host, ClusterID and ServerName", ErrInvalidSNI
	case is("waking up"):
		return "it starts within seconds: allow a longer ConnectTimeout or context deadline", ErrClusterWaking
	case is("rate exceeded"), pgErr.Code == "53400":
		return "open fewer connections a second, allow a longer ConnectTimeout or deadline, or have the quota raised", ErrRateExceeded
	case is("too many open connections"), pgErr.Code == "53300":
		return "use smaller pools, or have the quota raised", ErrTooManyConnections
	case is("access denied"), pgErr.Code == "28000":
		hint := strings.ToLower(pgErr.Hint)
		switch {
		case strings.Contains(hint, "signature expired"):
			return "the token was fresh, so this host's clock is wrong" + skew(hint, time.Now()) + ": set it", ErrTokenExpired
		case strings.Contains(hint, "wrong user to action mapping"):
			return "admin needs a token for DbConnectAdmin, every other role one for DbConnect", ErrAccessDenied
		}
		return "check the IAM policy (dsql:DbConnectAdmin for admin, dsql:DbConnect for every other role), the role mapping (AWS IAM GRANT), the region and the credentials", ErrAccessDenied
	}
	return "", nil
}

// skew says how far off the clock is, where a "Signature expired" HINT tells. Its last
// time is the server's (it reads like "… is now earlier than 20261122T204500Z"); the
// wording is not recorded in full, so nothing depends on it.
func skew(hint string, now time.Time) string {
	times := hintTime().FindAllString(hint, -1)
	if len(times) == 0 {
		return ""
	}
	server, err := time.Parse("20060102t150405z", times[len(times)-1])
	if err != nil {
		return ""
	}
	switch off := server.Sub(now).Round(time.Second); {
	case off > 0:
		return fmt.Sprintf(" (%s behind the server's)", off)
	case off < 0:
		return fmt.Sprintf(" (%s ahead of the server's)", -off)
	}
	return ""
}

// Compiled at the first need, since every start of a program would pay for it.
var hintTime = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[0-9]{8}t[0-9]{6}z`) })
