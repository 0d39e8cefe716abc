package dsqldoctor

import (
	"context"
	"net"
	"time"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/internal/redact"
)

const (
	adminUser       = "admin"
	defaultDatabase = "postgres"
	defaultPort     = "5432"
)

// Diagnose tests each part of a connection by itself and says which part fails, why, and what to
// do. It never returns nil. It returns before the deadline of ctx, or within 20 s if ctx has none,
// and soon after ctx is cancelled. Steps that had no time left are reported as skipped.
//
// If onStep is not nil, Diagnose calls it with each step as it ends, one call at a time. OnRetry,
// OnToken and Logger of c are not used.
//
// At a healthy endpoint, Diagnose takes a second or two over the longest distances. It opens a TCP
// connection to each address of the endpoint and six more connections, three of which count for the
// cluster's quota of new connections. If TCP or TLS fails, or Transport asks for it, it tries a
// WebSocket, too. It sends the token only to a server whose certificate was
// verified.
func Diagnose(ctx context.Context, c dsql.Config, onStep func(Step)) *Report {
	return newDiagnosis(c, onStep).run(ctx)
}

// diagnosis is one run of Diagnose. Its findings decide the verdict.
type diagnosis struct {
	findings
	config      dsql.Config // without hooks, and without the fields that cannot work
	prober      prober
	signedToken string
	redactor    redact.Redactor
	report      *Report
	onStep      func(Step)

	limits      limits
	withTimeout func(context.Context, time.Duration) (context.Context, context.CancelFunc) // context.WithTimeout, but in tests
}

func newDiagnosis(c dsql.Config, onStep func(Step)) *diagnosis {
	c.Logger, c.OnRetry, c.OnToken = nil, nil, nil
	d := &diagnosis{
		config: c,
		prober: prober{dial: c.DialFunc, roots: c.RootCAs},
		report: &Report{Steps: []Step{}},
		onStep: onStep,
		limits: defaultLimits, withTimeout: context.WithTimeout,
	}
	if d.prober.dial == nil {
		d.prober.dial = new(net.Dialer).DialContext
	}
	return d
}

func (d *diagnosis) run(ctx context.Context) *Report {
	began := time.Now()
	ctx, cancel := d.limits.bound(ctx, began)
	defer cancel()
	d.runSteps(ctx)

	r := d.report
	r.Time = began.UTC().Round(0) // without the monotonic clock, which JSON would lose
	r.Target = d.redactTarget()
	c := d.conclude()
	r.Verdict, r.Summary = c.verdict, d.redactor.Redact(c.summary)
	r.Evidence, r.Remedies = d.redactAll(c.evidence), d.redactAll(c.remedies)
	r.Elapsed = time.Since(began)
	return r
}

// runSteps makes every test that can tell something. A part that fails does not keep later parts
// from being tested, unless they need it.
func (d *diagnosis) runSteps(ctx context.Context) {
	if !d.testConfig(ctx) {
		reason := "the configuration names nothing to connect to"
		if d.configErr == nil {
			reason = noTimeLeft
		}
		for _, name := range []string{
			stepCredentials, stepToken, stepDNS, stepTCP, stepTLSDirect, stepTLSSSLRequest, stepPlaintext,
			stepWebSocket, stepStartup, stepLogin, stepQuery, stepClock, stepEarlyAuth,
		} {
			d.skip(name, reason)
		}
		return
	}
	d.testCredentials(ctx)
	d.testToken(ctx)
	d.testTCP(ctx, d.testDNS(ctx))
	d.testTLS(ctx)
	d.testWebSocket(ctx)
	d.testStartup(ctx)
	d.testLogin(ctx)
}

// record adds a step to the report.
func (d *diagnosis) record(s Step) {
	s.Seen, s.Means = d.redactor.Redact(s.Seen), d.redactor.Redact(s.Means)
	d.report.Steps = append(d.report.Steps, s)
	if d.onStep != nil {
		d.onStep(s)
	}
}

func (d *diagnosis) skip(name, reason string) {
	d.record(Step{Name: name, Result: StepSkipped, Seen: reason})
}

// recordFinding adds the step of one probe. seen is for a probe that went well.
func (d *diagnosis) recordFinding(name string, f finding, seen string) {
	switch {
	case !f.tried():
		d.skip(name, f.skipped)
	case f.ok():
		d.record(Step{Name: name, Result: StepOK, Took: f.took, Seen: seen})
	default:
		d.record(Step{Name: name, Result: StepFailed, Took: f.took, Seen: f.description(), Means: f.meaning()})
	}
}

func (d *diagnosis) redactAll(texts []string) []string {
	redacted := make([]string, len(texts))
	for i, text := range texts {
		redacted[i] = d.redactor.Redact(text)
	}
	return redacted
}

func (d *diagnosis) redactTarget() ReportTarget {
	t := d.target
	for _, field := range []*string{&t.Host, &t.DialAddress, &t.ServerName, &t.Region, &t.ClusterID, &t.User, &t.Database} {
		*field = d.redactor.Redact(*field)
	}
	return t
}
