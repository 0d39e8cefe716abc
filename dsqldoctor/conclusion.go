package dsqldoctor

import (
	"fmt"
	"time"

	"github.com/dsqlgo/dsql/internal/refusal"
)

// conclusion is a verdict with its reasons, as a Report has it.
type conclusion struct {
	verdict  Verdict
	summary  string
	evidence []string
	remedies []string
}

// conclude decides what the findings mean. Several problems may exist at once. The one that a
// connection meets first is the verdict; the others are added to its evidence and remedies.
func (f *findings) conclude() conclusion {
	var problems []*conclusion
	for _, c := range []*conclusion{
		f.concludeConfig(), f.concludeCredentials(), f.concludeNetwork(), f.concludeServer(),
	} {
		if c != nil {
			problems = append(problems, c)
		}
	}
	if len(problems) == 0 {
		return f.concludeNoProblem()
	}
	first := *problems[0]
	for _, c := range problems[1:] {
		first.evidence = append(first.evidence, "besides: "+c.summary)
		first.evidence = append(first.evidence, c.evidence...)
		first.remedies = append(first.remedies, c.remedies...)
	}
	return first
}

// concludeNoProblem is for a connection that works, or that was not tested to its end.
func (f *findings) concludeNoProblem() conclusion {
	n, ok := f.working()
	if !ok || !f.query.ok() {
		return conclusion{
			verdict:  VerdictIncomplete,
			summary:  "The time was over before the tests could show a reason.",
			remedies: []string{"Allow more time: 20 s are enough for every verdict."},
		}
	}
	c := conclusion{verdict: VerdictOK, summary: fmt.Sprintf("Everything works: connected to %s as %s.", f.target.ServerName, f.target.User)}
	c.evidence = []string{fmt.Sprintf("login by %s in %s", n, roundDuration(f.login.took))}
	if f.startup.kind != refusal.None {
		c.evidence = append(c.evidence, "just before the login, the server refused a connection: "+f.startup.description())
	}
	for _, t := range f.tcp {
		if t.failed() {
			c.evidence = append(c.evidence, fmt.Sprintf("%s: %s; another address works", t.address, t.description()))
		}
	}
	if f.transport == transportAuto && n == webSocket {
		c.evidence = append(c.evidence, "the network stops TCP or TLS on "+f.target.DialAddress+", so the WebSocket is used")
	}
	if unused := f.configuredTLS().other(); f.transport == "" && f.tls[unused].usual.failed() {
		c.evidence = append(c.evidence, fmt.Sprintf("%s, which the configuration does not use, fails on this network: %s", unused, f.tls[unused].usual.description()))
		if unused == sslRequest {
			c.evidence = append(c.evidence, "clients that can only send an SSLRequest fail on this network, psql before version 17 among them")
		}
	}
	if offset := f.clockOffset.Abs(); offset >= minClockOffset {
		c.evidence = append(c.evidence, fmt.Sprintf("this host's clock is wrong by %s", offset.Round(time.Second)))
		c.remedies = clockRemedies
	}
	return c
}
