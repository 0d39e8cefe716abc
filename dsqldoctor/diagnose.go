package dsqldoctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/netip"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/jackc/pgx/v5"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/internal/awsconfig"
	"github.com/dsqlgo/dsql/internal/configerr"
	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/redact"
	"github.com/dsqlgo/dsql/internal/refusal"
)

const (
	adminUser       = "admin"
	defaultDatabase = "postgres"
	defaultPort     = 5432
)

// diagnoseTimeout bounds a Diagnose whose context has no deadline.
const diagnoseTimeout = 20 * time.Second

// Report is what Diagnose found out. It holds nothing secret, and encoding/json writes and
// reads it without loss.
type Report struct {
	Time     time.Time     `json:"time"` // when it began, in UTC
	Elapsed  time.Duration `json:"elapsed_ns"`
	Target   ReportTarget  `json:"target"`
	Steps    []Step        `json:"steps"`
	Verdict  Verdict       `json:"verdict"`
	Summary  string        `json:"summary"`  // what is wrong, in a sentence
	Evidence []string      `json:"evidence"` // what shows it
	Remedies []string      `json:"remedies"` // what to do about it
}

// ReportTarget is what a Config leads to. Fields that could not be told are empty.
type ReportTarget struct {
	Host        string `json:"host"`
	DialAddress string `json:"dial_address"`
	ServerName  string `json:"server_name"` // SNI and token host
	Region      string `json:"region"`
	ClusterID   string `json:"cluster_id"`
	User        string `json:"user"`
	Database    string `json:"database"`
	Action      string `json:"action"` // that the token allows: DbConnect or DbConnectAdmin
}

// Step is one thing that Diagnose tried.
type Step struct {
	// Name says what was tried, such as "tls direct". It is the same in
	// every report, to compare reports by.
	Name   string        `json:"name"`
	Result StepResult    `json:"result"`
	Took   time.Duration `json:"took_ns"`
	Seen   string        `json:"seen"`            // what was seen
	Means  string        `json:"means,omitempty"` // what that means, where it is not plain
}

// StepResult is how a Step ended.
type StepResult string

const (
	StepOK      StepResult = "ok"
	StepFailed  StepResult = "failed"
	StepSkipped StepResult = "skipped" // it was not tried, and Seen says why
	StepNote    StepResult = "note"    // worth knowing, but not in the way
)

// Verdict is the kind of thing that keeps a connection from working.
type Verdict string

const (
	VerdictOK                   Verdict = "ok"
	VerdictConfig               Verdict = "config"                 // the Config cannot work
	VerdictCredentials          Verdict = "credentials"            // no AWS credentials, or expired ones
	VerdictTokenKind            Verdict = "token-kind"             // DbConnect where DbConnectAdmin is needed, or the reverse
	VerdictAccess               Verdict = "access"                 // IAM policy or role mapping
	VerdictClock                Verdict = "clock"                  // this host's clock is off
	VerdictDNS                  Verdict = "dns"                    // the name does not resolve
	VerdictPort                 Verdict = "port"                   // no TCP connection: closed, filtered or no route
	VerdictIPv6                 Verdict = "ipv6"                   // only IPv6 addresses, and no route to them
	VerdictTunnel               Verdict = "tunnel"                 // a tunnel or proxy with nothing at its far end
	VerdictSNI                  Verdict = "sni"                    // no cluster has the name that was sent
	VerdictCertificate          Verdict = "certificate"            // not trusted, or not for this name
	VerdictInspection           Verdict = "inspection"             // the network lets TCP through and TLS not
	VerdictInspectionSSLRequest Verdict = "inspection-ssl-request" // it stops TLS after an SSLRequest only
	VerdictInspectionDirect     Verdict = "inspection-direct"      // it stops direct TLS only
	// It stops a ClientHello that is larger than one packet.
	VerdictInspectionKeyExchange Verdict = "inspection-key-exchange"
	VerdictOtherServer           Verdict = "other-server" // something answers that is not DSQL

	VerdictQuota      Verdict = "quota"      // of connections, or of new ones a second
	VerdictWaking     Verdict = "waking"     // an idle cluster starts
	VerdictSilence    Verdict = "silence"    // TCP connects, and nothing is ever said
	VerdictRefused    Verdict = "refused"    // refused for a reason of no other class
	VerdictIncomplete Verdict = "incomplete" // it ended before it could tell
)

// Diagnose tries every step of a connection by itself and says which one fails, why, and
// what to do. It never returns nil and ends when ctx does, or after 20 s
// when ctx has no deadline; steps that did not get their turn are reported as skipped. At a
// healthy endpoint it opens a handful of connections, three of which get far enough to count for
// the cluster's quota, and takes a second or two over the longest distances.
//
// onStep, which may be nil, is called with each step as it ends, one at a time; OnRetry, OnToken and Logger of c are
// not. The token is shown to a server whose certificate was verified, and to no other.
func Diagnose(ctx context.Context, c dsql.Config, onStep func(Step)) *Report {
	began := time.Now()
	end, ok := ctx.Deadline()
	if !ok {
		end = began.Add(diagnoseTimeout)
	}
	ctx, cancel := context.WithDeadline(ctx, end.Add(-stepGrace))
	defer cancel()
	c.Logger, c.OnRetry, c.OnToken = nil, nil, nil
	d := &diagnosis{ctx: ctx, onStep: onStep, probe: prober{config: c}, report: &Report{Time: began.UTC().Round(0), Steps: []Step{}}}
	d.run()
	d.rule()
	d.report.Elapsed = time.Since(began)
	return d.report
}

const (
	// One step gets a third of the time that is left, so that a dead endpoint leaves some for every
	// step, and never more than this.
	longestStep = 5 * time.Second

	// Credentials may come from a chain of services, or from a program.
	longestCredentials = 10 * time.Second

	// DSQL may well leave a startup without TLS in silence, so a healthy endpoint must not cost more.
	longestPlaintext = time.Second

	// What does not heed its context is left behind this long after the context ended. The
	// whole ends so much before its time.
	stepGrace = 100 * time.Millisecond

	// A name has more addresses than this hardly ever, and more would tell nothing new.
	mostAddresses = 8
)

// The steps that every report has, in their order. Between them come others, where they
// can tell something: one for each address, and further ways to begin TLS where one fails.
const (
	stepConfig      = "configuration"
	stepCredentials = "credentials"
	stepToken       = "token"
	stepDNS         = "dns"
	stepTCP         = "tcp"
	stepDirect      = "tls direct"
	stepClassic     = "tls after SSLRequest"
	stepPlaintext   = "plaintext"
	stepStartup     = "startup"
	stepLogin       = "login"
	stepQuery       = "query"
	stepClock       = "clock"
	stepEarly       = "early auth"
)

const noTime = "no time left"

// diagnosis is one run of Diagnose.
type diagnosis struct {
	findings
	ctx    context.Context
	onStep func(Step)
	report *Report
	probe  prober
	hide   redact.Redactor
}

// run goes through the steps.
func (d *diagnosis) run() {
	if !d.configure() {
		why := "the configuration leads nowhere"
		if d.invalid == nil {
			why = noTime
		}
		for _, name := range []string{stepCredentials, stepToken, stepDNS, stepTCP, stepDirect, stepClassic, stepPlaintext, stepStartup, stepLogin, stepQuery, stepClock, stepEarly} {
			d.skip(name, why)
		}
		return
	}
	d.sign()
	d.reach()
	d.encrypt()
	d.greet()
	d.open()
}

// start begins a probe, which may take limit or a third of what is left. wait returns what it found,
// also when the probe does not heed its context.
func start[T any](d *diagnosis, limit time.Duration, probe func(context.Context) (T, finding)) (wait func() (T, finding)) {
	type result struct {
		value T
		finding
	}
	if d.ctx.Err() != nil {
		return func() (value T, f finding) { return value, finding{none: noTime} }
	}
	if deadline, ok := d.ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/3)
	}
	ctx, cancel := context.WithTimeout(d.ctx, limit)
	began := time.Now()
	done := make(chan result, 1)
	go func() {
		var r result
		r.value, r.finding = probe(ctx)
		r.took = time.Since(began)
		done <- r
	}()
	return func() (T, finding) {
		defer cancel()
		var r result
		select {
		case r = <-done:
		case <-ctx.Done():
			select {
			case r = <-done:
			case <-time.After(stepGrace):
				r.finding = finding{ending: endSilent, err: ctx.Err(), took: time.Since(began)}
			}
		}
		r.limit = limit
		if d.ctx.Err() != nil && (r.ending == endSilent || r.ending == endUnresolved || r.ending == endBroken) {
			r.finding = finding{none: noTime}
		}
		return r.value, r.finding
	}
}

// starts is start for a probe that returns nothing else.
func (d *diagnosis) starts(limit time.Duration, probe func(context.Context) finding) (wait func() finding) {
	w := start(d, limit, func(ctx context.Context) (struct{}, finding) { return struct{}{}, probe(ctx) })
	return func() finding {
		_, f := w()
		return f
	}
}

// step ends a step.
func (d *diagnosis) step(s Step) {
	s.Seen, s.Means = d.hide.Redact(s.Seen), d.hide.Redact(s.Means)
	d.report.Steps = append(d.report.Steps, s)
	if d.onStep != nil {
		d.onStep(s)
	}
}

func (d *diagnosis) skip(name, why string) {
	d.step(Step{Name: name, Result: StepSkipped, Seen: why})
}

// tell ends a step with what a probe found; seen is for one that went well.
func (d *diagnosis) tell(name string, f finding, seen string) {
	switch {
	case !f.tried():
		d.skip(name, f.none)
	case f.ending == endGood:
		d.step(Step{Name: name, Result: StepOK, Took: f.took, Seen: seen})
	default:
		d.step(Step{Name: name, Result: StepFailed, Took: f.took, Seen: f.text(), Means: f.means()})
	}
}

// rule ends the report.
func (d *diagnosis) rule() {
	r := d.judge()
	hideAll := func(texts []string) []string {
		out := make([]string, len(texts))
		for i, t := range texts {
			out[i] = d.hide.Redact(t)
		}
		return out
	}
	t := &d.target
	for _, field := range []*string{&t.Host, &t.DialAddress, &t.ServerName, &t.Region, &t.ClusterID, &t.User, &t.Database} {
		*field = d.hide.Redact(*field)
	}
	d.report.Target, d.report.Verdict, d.report.Summary = d.target, r.verdict, d.hide.Redact(r.summary)
	d.report.Evidence, d.report.Remedies = hideAll(r.evidence), hideAll(r.remedies)
}

// configure answers what the Config leaves open. Where a field is wrong that the steps after it can
// do without, they do without it. It is false where there is nothing to dial.
func (d *diagnosis) configure() bool {
	c := &d.probe.config
	d.target.User, d.target.Database, d.target.Action = cmp.Or(c.User, adminUser), cmp.Or(c.Database, defaultDatabase), "DbConnect"
	if d.target.User == adminUser {
		d.target.Action = "DbConnectAdmin"
	}
	d.direct, d.ownRoots, d.roleARN = c.SSLNegotiation != "postgres", c.RootCAs != nil, c.RoleARN
	if d.probe.dial = c.DialFunc; d.probe.dial == nil {
		d.probe.dial = new(net.Dialer).DialContext
	}

	e, f := start(d, longestStep, func(ctx context.Context) (dsql.Endpoint, finding) {
		e, err := c.Endpoint(ctx)
		return e, finding{ending: endingOf(err), err: err}
	})()
	if f.ending != endGood {
		d.invalid = f.err // nil when there was no time
		d.tell(stepConfig, f, "")
		return false
	}
	d.probe.endpoint = e
	d.target.Host, d.target.DialAddress, d.target.ServerName = strings.TrimSpace(c.Host), e.DialAddress, e.ServerName
	d.target.Region, d.target.ClusterID = e.Region, e.ClusterID
	d.tunnel = nearby(hostOf(e.DialAddress))

	_, err := localConfig(*c, e.Region, aws.Credentials{}).PoolConfig(d.ctx)
	switch {
	case err != nil:
		*c = dsql.Config{
			Host: c.Host, Port: c.Port, ClusterID: c.ClusterID, Region: c.Region, DialAddress: c.DialAddress, ServerName: c.ServerName,
			User: c.User, Database: c.Database,
			Credentials: c.Credentials, Profile: c.Profile, RoleARN: c.RoleARN, RoleSessionName: c.RoleSessionName, ExternalID: c.ExternalID,
			RootCAs: c.RootCAs, DialFunc: c.DialFunc,
		}
	case d.target.Database != defaultDatabase:
		err = configerr.New("Database", "is %q, and DSQL has one database, postgres; leave it empty, and use schemas to keep applications apart (search_path)", c.Database)
	}
	c.Database = ""
	d.invalid = err
	s := Step{Name: stepConfig, Result: StepOK, Took: f.took}
	s.Seen = fmt.Sprintf("dials %s, sends %s as SNI and token host; region %s, user %s, action %s",
		e.DialAddress, e.ServerName, e.Region, d.target.User, d.target.Action)
	if err != nil {
		s.Result, s.Means = StepFailed, strings.TrimPrefix(err.Error(), dsql.ErrConfig.Error()+": ")
	}
	d.step(s)
	return true
}

// sign gets credentials once, which sign the tokens of all that follows, and a token.
func (d *diagnosis) sign() {
	credentials, f := start(d, longestCredentials, func(ctx context.Context) (aws.Credentials, finding) {
		c := d.probe.config
		settings := awsconfig.Settings{
			Credentials: c.Credentials, Profile: c.Profile,
			RoleARN: c.RoleARN, RoleSessionName: c.RoleSessionName, ExternalID: c.ExternalID,
		}
		provider, err := settings.Provider(ctx, d.probe.endpoint.Region, nil)
		if err != nil {
			return aws.Credentials{}, finding{ending: endBroken, err: err}
		}
		got, err := awsconfig.Retrieve(ctx, provider)
		if err != nil {
			return got, finding{ending: endBroken, err: err}
		}
		return got, finding{ending: endGood}
	})()
	d.credentials = f
	d.hide.AddCredentials(credentials)
	seen := "from " + awsconfig.SourceOf(credentials) + ", key " + redact.AccessKeyID(credentials.AccessKeyID)
	if credentials.SessionToken != "" {
		seen += ", temporary"
	} else {
		seen += ", long-term"
	}
	if credentials.CanExpire {
		seen += fmt.Sprintf(", until %s (%s left)", credentials.Expires.UTC().Format(time.RFC3339), time.Until(credentials.Expires).Round(time.Second))
	}
	d.tell(stepCredentials, f, seen)
	if f.ending != endGood {
		d.skip(stepToken, "there are no credentials to sign with")
		return
	}

	d.probe.config = localConfig(d.probe.config, d.probe.endpoint.Region, credentials)
	token, f := start(d, longestStep, func(ctx context.Context) (dsql.Token, finding) {
		source, err := dsql.NewTokenSource(ctx, d.probe.config)
		if err != nil {
			return dsql.Token{}, finding{ending: endingOf(err), err: err}
		}
		t, err := source.Token(ctx)
		return t, finding{ending: endingOf(err), err: err}
	})()
	d.probe.token = token.Reveal()
	d.token = f
	seen = ""
	if f.ending == endGood {
		d.hide.AddToken(token.Reveal())
		seen = describeToken(token)
	}
	d.tell(stepToken, f, seen)
}

// localConfig is c without what reads the AWS environment, or slows a connection down.
func localConfig(c dsql.Config, region string, credentials aws.Credentials) dsql.Config {
	c.Region = region
	c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return credentials, nil })
	c.Profile, c.RoleARN, c.RoleSessionName, c.ExternalID = "", "", "", ""
	if !math.IsNaN(c.ConnectRate) && !math.IsInf(c.ConnectRate, 0) {
		c.ConnectRate = -1
	}
	return c
}

// describeToken says what a token states, but for whom it is signed.
func describeToken(t dsql.Token) string {
	u, err := url.Parse("https://" + t.Reveal())
	if err != nil {
		return t.String()
	}
	q := u.Query()
	security := "without"
	if q.Has("X-Amz-Security-Token") {
		security = "with"
	}
	signed := q.Get("X-Amz-Date")
	if at, err := time.Parse("20060102T150405Z", signed); err == nil {
		signed = at.Format(time.RFC3339)
	}
	life, _ := time.ParseDuration(q.Get("X-Amz-Expires") + "s")
	scope := strings.Split(q.Get("X-Amz-Credential"), "/")
	return fmt.Sprintf("%s, %s for %s in %s, signed %s, good for %s, %s a security token",
		q.Get("X-Amz-Algorithm"), q.Get("Action"), u.Host, scope[min(2, len(scope)-1)], signed, life, security)
}

// reach resolves the name and opens TCP connections. The steps after it dial the first address that
// answers.
func (d *diagnosis) reach() {
	host, port := hostOf(d.target.DialAddress), portOf(d.target.DialAddress)
	addresses := []string{d.target.DialAddress}
	switch {
	case !isName(host):
		d.skip(stepDNS, "the address is given")
	case d.probe.config.DialFunc != nil:
		d.skip(stepDNS, "Config.DialFunc resolves the name")
	default:
		found, f := start(d, longestStep, func(ctx context.Context) ([]netip.Addr, finding) {
			found, err := lookupHost(ctx, host)
			return found, finding{ending: endingOf(err), err: err}
		})()
		d.dns = f
		addresses = nil
		var seen []string
		for _, a := range found {
			kind := "public"
			switch {
			case a.IsLoopback():
				kind = "this host"
			case a.IsPrivate(), a.IsLinkLocalUnicast():
				kind = "private"
			}
			seen = append(seen, fmt.Sprintf("%s (%s)", a, kind))
			if len(addresses) < mostAddresses {
				addresses = append(addresses, net.JoinHostPort(a.String(), port))
			}
		}
		d.tell(stepDNS, f, host+" is "+strings.Join(seen, ", "))
	}
	if len(addresses) == 0 {
		d.skip(stepTCP, "there is no address to dial")
		return
	}
	waits := make([]func() finding, len(addresses))
	for i, a := range addresses {
		waits[i] = d.starts(longestStep, func(ctx context.Context) finding { return d.probe.connect(ctx, a) })
	}
	for i, wait := range waits {
		t := tcpFinding{addresses[i], wait()}
		d.tcp = append(d.tcp, t)
		d.tell(stepTCP+" "+t.address, t.finding, "connected")
		if t.ending == endGood && d.probe.address == "" {
			d.probe.address = t.address
		}
	}
}

// encrypt sets up TLS in every way that tells something, and tries to do without.
func (d *diagnosis) encrypt() {
	names := [2]string{direct: stepDirect, classic: stepClassic}
	if d.probe.address == "" {
		for _, name := range append(names[:], stepPlaintext) {
			d.skip(name, "there is no TCP connection")
		}
		return
	}
	hand := func(w way) func() finding {
		return d.starts(longestStep, func(ctx context.Context) finding { return d.probe.handshake(ctx, w) })
	}
	sni := d.target.ServerName
	first := [2]func() finding{direct: hand(way{serverName: sni}), classic: hand(way{serverName: sni, sslRequest: true})}
	plain := d.starts(longestPlaintext, d.probe.plaintext)
	for n, wait := range first {
		f := wait()
		d.tls[n].derived = f
		d.tellTLS(names[n], f)
	}
	d.plaintext = plain()
	d.tellPlaintext()

	// Where it fails: is it the name, the size of the ClientHello, or TLS itself?
	dialled := hostOf(d.target.DialAddress)
	type variant struct {
		name string
		into *finding
		wait func() finding
	}
	var variants []variant
	for n := range d.tls {
		t := &d.tls[n]
		if e := t.derived.ending; !e.blocked() && e != endAlert {
			continue
		}
		w := way{serverName: dialled, sslRequest: n == classic}
		none := ""
		switch {
		case !isName(dialled):
			none = "an address cannot be sent as SNI"
		case dialled == sni:
			none = "it is the name that was sent"
		}
		v := variant{names[n] + ", dialled name", &t.dialled, func() finding { return finding{none: none} }}
		if none == "" {
			v.wait = hand(w)
		}
		small := way{serverName: sni, sslRequest: n == classic, smallHello: true}
		w.serverName = ""
		variants = append(variants, v,
			variant{names[n] + ", no SNI", &t.without, hand(w)},
			variant{names[n] + ", small ClientHello", &t.small, hand(small)})
	}
	for _, v := range variants {
		*v.into = v.wait()
		d.tellTLS(v.name, *v.into)
	}
}

func (d *diagnosis) tellTLS(name string, f finding) {
	if f.tls == nil {
		d.tell(name, f, "")
		return
	}
	certificate := describe(f.tls)
	if first := d.tls[direct].derived.tls; first != nil && name != stepDirect && first.PeerCertificates[0].Equal(f.tls.PeerCertificates[0]) {
		certificate = "the same certificate"
	}
	s := Step{Name: name, Result: StepOK, Took: f.took}
	s.Seen = fmt.Sprintf("%s, %s, ALPN %s; %s", tls.VersionName(f.tls.Version), tls.CipherSuiteName(f.tls.CipherSuite),
		cmp.Or(f.tls.NegotiatedProtocol, "none"), certificate)
	if f.ending != endGood {
		s.Result, s.Means = StepFailed, f.err.Error()
	}
	d.step(s)
}

func (d *diagnosis) tellPlaintext() {
	f := d.plaintext
	s := Step{Name: stepPlaintext, Result: StepNote, Took: f.took, Seen: f.text()}
	switch {
	case !f.tried():
		s.Result = StepSkipped
	case f.ending == endRefusal, f.ending.hungUp():
		s.Result, s.Means = StepOK, "TLS is required, as it should be"
	case f.ending == endSilent:
		s.Means = "without TLS there is silence"
	case f.ending == endGood, f.ending == endOtherServer:
		s.Seen, s.Means = "the server goes on without TLS", "DSQL would not"
	}
	d.step(s)
}

// greet sends a startup message without the token, which shows whether the server finds the
// cluster, whatever the credentials are.
func (d *diagnosis) greet() {
	n := d.working()
	if n < 0 {
		d.skip(stepStartup, "there is no TLS with a certificate that is accepted")
		return
	}
	w := way{serverName: d.target.ServerName, sslRequest: n == classic}
	d.startup = d.starts(longestStep, func(ctx context.Context) finding { return d.probe.startup(ctx, w) })()
	d.tell(stepStartup, d.startup, "the cluster is found and asks for the token")
	if d.startup.kind != refusal.InvalidSNI {
		return
	}
	dialled := hostOf(d.target.DialAddress)
	for _, other := range []struct{ name, sni string }{{"dialled name", dialled}, {"no SNI", ""}} {
		name := stepStartup + ", " + other.name
		switch {
		case other.sni == d.target.ServerName:
			d.skip(name, "it is the name that was sent")
			continue
		case other.sni != "" && !isName(other.sni):
			d.skip(name, "an address cannot be sent as SNI")
			continue
		}
		w.serverName = other.sni
		f := d.starts(longestStep, func(ctx context.Context) finding { return d.probe.unverified(ctx, w) })()
		d.tell(name, f, "a cluster is found and asks for the token")
	}
}

// open logs in, and uses the session.
func (d *diagnosis) open() {
	n := d.working()
	why := ""
	switch {
	case n < 0:
		why = "there is no TLS with a certificate that is accepted"
	case d.token.ending != endGood:
		why = "there is no token"
	case !d.startup.tried():
		why = d.startup.none
	case d.startup.kind == refusal.InvalidSNI:
		why = "the server found no cluster"
	case d.startup.ending != endGood && d.startup.ending != endRefusal:
		why = "the server does not answer the startup message as it should"
	}
	if why != "" {
		d.skip(stepLogin, why)
		d.noSession()
		return
	}
	w := way{serverName: d.target.ServerName, sslRequest: n == classic}
	logIn := func(early bool) (*pgx.Conn, finding) {
		return start(d, longestStep, func(ctx context.Context) (*pgx.Conn, finding) { return d.probe.login(ctx, w, early) })()
	}
	conn, f := logIn(false)
	d.login = f
	d.tell(stepLogin, f, fmt.Sprintf("logged in as %s by %s", d.target.User, negotiations[n]))
	if conn == nil {
		d.noSession()
		return
	}
	defer closeSoon(conn)

	d.query = d.starts(longestStep, func(ctx context.Context) finding {
		var one int
		return found(phaseQuery, conn.QueryRow(ctx, "select 1").Scan(&one))
	})()
	d.tell(stepQuery, d.query, "select 1 returns a row")

	began := time.Now()
	now, f := start(d, longestStep, func(ctx context.Context) (now time.Time, f finding) {
		err := conn.QueryRow(ctx, "select now()").Scan(&now)
		return now, found(phaseQuery, err)
	})()
	if f.ending == endGood {
		// It was that time at the server somewhere between the question and the answer.
		d.skew = now.Sub(began.Add(f.took / 2))
	}
	d.tellClock(f)

	early, f := logIn(true)
	if early != nil {
		closeSoon(early)
	}

	s := Step{Name: stepEarly, Result: StepOK, Took: f.took, Seen: fmt.Sprintf("the token may come with the startup message: login in %s instead of %s", rounded(f.took), rounded(d.login.took)),
		Means: "Config.EarlyAuth saves a round trip"}
	switch {
	case !f.tried():
		s = Step{Name: stepEarly, Result: StepSkipped, Seen: f.none}
	case errors.Is(f.err, login.ErrTokenUnread):
		s.Result, s.Seen, s.Means = StepNote, f.text(), "leave Config.EarlyAuth off"
	case f.ending != endGood:
		s.Result, s.Seen, s.Means = StepNote, f.text(), "the login itself works"
	}
	d.step(s)
}

// noSession skips what needs one. What the clock has to do with a refusal is told all the same.
func (d *diagnosis) noSession() {
	d.skip(stepQuery, "there is no session")
	if d.login.kind == refusal.TokenExpired {
		d.step(Step{Name: stepClock, Result: StepFailed, Seen: "the server takes a fresh token for an expired one" + refusal.ClockSkew(d.login.hint, time.Now())})
	} else {
		d.skip(stepClock, "there is no session")
	}
	d.skip(stepEarly, "there is no session")
}

func (d *diagnosis) tellClock(f finding) {
	if f.ending != endGood {
		d.tell(stepClock, f, "")
		return
	}
	s := Step{Name: stepClock, Result: StepOK, Took: f.took, Seen: "this host's clock and the server's agree"}
	if off := d.skew.Round(time.Second); off.Abs() >= skewToNote {
		s.Result = StepNote
		s.Seen = fmt.Sprintf("this host's clock is %s behind the server's", off)
		if off < 0 {
			s.Seen = fmt.Sprintf("this host's clock is %s ahead of the server's", -off)
		}
		s.Means = "tokens are refused when it gets worse"
	}
	d.step(s)
}

func closeSoon(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), stepGrace)
	defer cancel()
	_ = conn.Close(ctx)
}

// String is a line: the result, the name, how long it took, and what was seen.
func (s Step) String() string {
	line := fmt.Sprintf("%-7s  %-24s  %7s  %s", s.Result, s.Name, s.Took.Round(time.Millisecond), s.Seen)
	if s.Means != "" {
		line += "; " + s.Means
	}
	return line
}

// String is the report as people read it: a line a step, then what follows from them.
func (r *Report) String() string {
	var b strings.Builder
	for _, s := range r.Steps {
		b.WriteString(s.String() + "\n")
	}
	fmt.Fprintf(&b, "\nverdict: %s\n%s\n", r.Verdict, r.Summary)
	for _, list := range []struct {
		title string
		lines []string
	}{{"Evidence", r.Evidence}, {"What to do", r.Remedies}} {
		if len(list.lines) == 0 {
			continue
		}
		fmt.Fprintf(&b, "\n%s:\n", list.title)
		for _, line := range list.lines {
			b.WriteString("  - " + line + "\n")
		}
	}
	return b.String()
}
