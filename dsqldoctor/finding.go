package dsqldoctor

import (
	"crypto/tls"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/refusal"
)

// phaseQuery follows the phases of a login.
const phaseQuery login.Phase = "query"

// finding is the result of one probe.
type finding struct {
	outcome outcome
	err     error
	phase   login.Phase // how far the probe got
	took    time.Duration
	limit   time.Duration // the time it had
	skipped string        // why it was not tried

	tls *tls.ConnectionState // set once the handshake was done

	// Set if the server refused.
	kind           refusal.Kind
	advice         string
	sqlState, hint string
	detail         string // "Session Id: …", which AWS Support asks for
}

// newFinding classifies how a probe ended. phase is how far it got.
func newFinding(phase login.Phase, err error) finding {
	f := finding{outcome: outcomeOf(err), err: err, phase: phase}
	var refused *pgconn.PgError
	if errors.As(err, &refused) {
		f.kind, f.advice = refusal.Classify(refused)
		f.sqlState, f.hint, f.detail = refused.Code, refused.Hint, refused.Detail
	}
	return f
}

func (f finding) tried() bool { return f.outcome != outcomeNone }

func (f finding) ok() bool { return f.outcome == outcomeOK }

func (f finding) failed() bool { return f.tried() && !f.ok() }

// description says what was observed.
func (f finding) description() string {
	sent := map[login.Phase]string{
		login.PhaseDial:       "the connection request",
		login.PhaseSSLRequest: "the SSLRequest",
		login.PhaseTLS:        "the ClientHello",
		login.PhaseUpgrade:    "the request for a WebSocket",
		login.PhaseLogin:      "the startup message",
	}[f.phase]
	var record tls.RecordHeaderError
	switch {
	case !f.tried():
		return f.skipped
	case f.ok():
		return "works"
	case f.outcome == outcomeTimeout && sent != "":
		return fmt.Sprintf("no answer to %s within %s", sent, roundDuration(f.limit))
	case f.outcome == outcomeTimeout:
		return fmt.Sprintf("no answer within %s", roundDuration(f.limit))
	case f.outcome.isCut() && f.phase != login.PhaseDial:
		return string(f.outcome) + " after " + sent
	case f.outcome == outcomeRefused:
		return f.refusalText()
	case errors.As(f.err, &record):
		return "the answer to " + sent + " is not TLS"
	}
	return f.err.Error()
}

// refusalText is the server's error with all that it adds.
func (f finding) refusalText() string {
	text := f.err.Error()
	for _, field := range []struct{ name, value string }{{"DETAIL", f.detail}, {"HINT", f.hint}} {
		if field.value != "" {
			text += fmt.Sprintf(" (%s: %s)", field.name, field.value)
		}
	}
	return text
}

// meaning explains what a failure means when it is seen alone.
func (f finding) meaning() string {
	switch f.outcome {
	case outcomeTimeout:
		return "a firewall drops it, or nothing is there to answer"
	case outcomeReset, outcomeClosed:
		return "the network ended the connection, or the server is not DSQL"
	case outcomePortClosed:
		return "nothing listens on that port, or a firewall rejects connections to it"
	case outcomeNoRoute:
		return "this host has no route to that address"
	case outcomeUnknownName:
		return "the name does not exist in DNS"
	case outcomeResolverFailed:
		return "the name servers do not answer as they should"
	case outcomeBadCertificate:
		return f.err.Error()
	case outcomeNoWebSocket:
		return "a proxy or another server answers in the place of the cluster, or the cluster takes no WebSocket"
	case outcomeNotTLS, outcomeNotDSQL:
		return "the server is not DSQL"
	}
	return f.advice
}

// stage names the part of a session that failed.
func (f finding) stage() string {
	if f.phase == phaseQuery {
		return "first query"
	}
	return "login"
}

func roundDuration(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}
