package dsqldoctor

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/refusal"
)

const (
	noVerifiedTLS = "there is no TLS connection with a certificate that is accepted"
	noSession     = "there is no session"
)

// testStartup sends a startup message without the token. That shows whether the server finds the
// cluster, even without credentials.
func (d *diagnosis) testStartup(ctx context.Context) {
	n, ok := d.working()
	if !ok {
		d.skip(stepStartup, noVerifiedTLS)
		return
	}
	o := tlsOptions{negotiation: n, serverName: d.target.ServerName}
	d.startup = startProbe(ctx, d, d.limits.step, func(ctx context.Context) finding { return d.prober.startup(ctx, o) })()
	d.recordFinding(stepStartup, d.startup, "the server found the cluster and asks for the token")
	if d.startup.kind != refusal.InvalidSNI {
		return
	}
	name, skip := d.dialledSNI()
	if skip == "" {
		d.testStartupSNI(ctx, "dialled name", tlsOptions{negotiation: n, serverName: name})
	} else {
		d.skip(stepStartup+", dialled name", skip)
	}
	d.testStartupSNI(ctx, "no SNI", tlsOptions{negotiation: n})
}

func (d *diagnosis) testStartupSNI(ctx context.Context, name string, o tlsOptions) {
	f := startProbe(ctx, d, d.limits.step, func(ctx context.Context) finding { return d.prober.startupUnverified(ctx, o) })()
	d.recordFinding(stepStartup+", "+name, f, "the server found a cluster and asks for the token")
}

// testLogin logs in and uses the session.
func (d *diagnosis) testLogin(ctx context.Context) {
	n, _ := d.working()
	if reason := d.noLoginReason(); reason != "" {
		d.skip(stepLogin, reason)
		d.testOtherName(ctx, n)
		d.skipSession()
		return
	}
	c := d.config
	c.EarlyAuth = false
	conn, f := d.logIn(ctx, c, d.signedToken, n)
	d.login = f
	d.recordFinding(stepLogin, f, fmt.Sprintf("logged in as %s by %s", d.target.User, n))
	if conn == nil {
		d.testOtherName(ctx, n)
		d.skipSession()
		return
	}
	defer d.closeConn(conn)

	d.query = startProbe(ctx, d, d.limits.step, func(ctx context.Context) finding {
		var one int
		return newFinding(phaseQuery, conn.QueryRow(ctx, "select 1").Scan(&one))
	})()
	d.recordFinding(stepQuery, d.query, "select 1 returns a row")
	d.testClock(ctx, conn)
	d.testEarlyAuth(ctx, n)
}

// noLoginReason returns why a login cannot succeed or was answered already, or "".
func (d *diagnosis) noLoginReason() string {
	_, ok := d.working()
	switch {
	case !ok:
		return noVerifiedTLS
	case !d.token.ok():
		return "there is no token"
	case !d.startup.tried():
		return d.startup.skipped
	case d.startup.kind == refusal.InvalidSNI:
		return "the server found no cluster"
	case !d.startup.ok() && d.startup.outcome != outcomeRefused:
		return "the server does not answer the startup message as DSQL does"
	}
	return ""
}

func (d *diagnosis) logIn(ctx context.Context, c dsql.Config, token string, n negotiation) (*pgx.Conn, finding) {
	return start(ctx, d, d.limits.step, func(ctx context.Context) (*pgx.Conn, finding) { return d.prober.logIn(ctx, c, token, n) })()
}

// skipSession skips the steps that need a session. A refusal may tell about the clock all the same.
func (d *diagnosis) skipSession() {
	d.skip(stepQuery, noSession)
	if d.login.kind == refusal.TokenExpired {
		d.record(Step{Name: stepClock, Result: StepFailed, Seen: "the server calls a fresh token expired" + refusal.ClockSkew(d.login.hint, time.Now())})
	} else {
		d.skip(stepClock, noSession)
	}
	d.skip(stepEarlyAuth, noSession)
}

// minClockOffset is the smallest difference of clocks that is reported. Tokens are refused at a
// larger one: when they are older than their lifetime, or some minutes in the future.
const minClockOffset = time.Minute

// testClock compares this host's clock with the server's.
func (d *diagnosis) testClock(ctx context.Context, conn *pgx.Conn) {
	asked := time.Now()
	server, f := start(ctx, d, d.limits.step, func(ctx context.Context) (now time.Time, f finding) {
		err := conn.QueryRow(ctx, "select now()").Scan(&now)
		return now, newFinding(phaseQuery, err)
	})()
	if !f.ok() {
		d.recordFinding(stepClock, f, "")
		return
	}
	d.clockOffset = server.Sub(asked.Add(f.took / 2)) // it was read about half-way between question and answer
	s := Step{Name: stepClock, Result: StepOK, Took: f.took, Seen: "this host's clock and the server's agree"}
	if offset := d.clockOffset.Round(time.Second); offset.Abs() >= minClockOffset {
		s.Result, s.Means = StepNote, "tokens are refused if the difference grows"
		s.Seen = fmt.Sprintf("this host's clock is %s behind the server's", offset)
		if offset < 0 {
			s.Seen = fmt.Sprintf("this host's clock is %s ahead of the server's", -offset)
		}
	}
	d.record(s)
}

// testEarlyAuth logs in with the token sent along with the startup message.
func (d *diagnosis) testEarlyAuth(ctx context.Context, n negotiation) {
	c := d.config
	c.EarlyAuth = true
	conn, f := d.logIn(ctx, c, d.signedToken, n)
	if conn != nil {
		d.closeConn(conn)
	}
	s := Step{Name: stepEarlyAuth, Result: StepOK, Took: f.took, Means: "Config.EarlyAuth saves a round trip"}
	s.Seen = fmt.Sprintf("the token may be sent with the startup message: login in %s instead of %s", roundDuration(f.took), roundDuration(d.login.took))
	switch {
	case !f.tried():
		s = Step{Name: stepEarlyAuth, Result: StepSkipped, Seen: f.skipped}
	case errors.Is(f.err, login.ErrTokenUnread):
		s.Result, s.Seen, s.Means = StepNote, f.description(), "leave Config.EarlyAuth off"
	case !f.ok():
		s.Result, s.Seen, s.Means = StepNote, f.description(), "the login works without it"
	}
	d.record(s)
}

func (d *diagnosis) closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), d.limits.grace)
	defer cancel()
	_ = conn.Close(ctx)
}
