package dsqldoctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/refusal"
)

// skewToNote is from where a clock that is off is worth a word. Tokens are refused later
// than that: an expired one after its lifetime, one from the future after some minutes.
const skewToNote = time.Minute

// findings is all that the verdict depends on.
type findings struct {
	target   ReportTarget
	invalid  error  // what is wrong with the Config by itself
	direct   bool   // SSLNegotiation
	tunnel   bool   // the dialled address is the near end of something
	ownRoots bool   // RootCAs is set
	roleARN  string // to be assumed, and granted

	credentials finding
	token       finding
	dns         finding
	tcp         []tcpFinding
	tls         [2]tlsFindings // direct, after SSLRequest
	plaintext   finding
	startup     finding
	login       finding
	query       finding
	skew        time.Duration // of the server's clock against this host's, where it is known
}

type tcpFinding struct {
	address string
	finding
}

// tlsFindings are the ways to begin TLS with one negotiation.
type tlsFindings struct{ derived, dialled, without, small finding }

func (t tlsFindings) otherSNI() bool {
	return t.dialled.tls != nil || t.without.tls != nil
}

const (
	direct  = 0
	classic = 1
)

var negotiations = [2]string{direct: "direct TLS", classic: "TLS after an SSLRequest"}

// configured is the negotiation that SSLNegotiation asks for; the other one is 1 less this.
func (f *findings) configured() int {
	if f.direct {
		return direct
	}
	return classic
}

// working is the negotiation by which the server can be reached, the configured one if
// that will do, or -1.
func (f *findings) working() int {
	for _, n := range []int{f.configured(), 1 - f.configured()} {
		if f.tls[n].derived.ending == endGood {
			return n
		}
	}
	return -1
}

// ruling is a verdict with its reasons.
type ruling struct {
	verdict  Verdict
	summary  string
	evidence []string
	remedies []string
}

// judge says what the findings add up to. Each kind of trouble is judged by itself, since
// they do not exclude one another; the first that a connection would meet is the verdict, and
// the others are named beside it.
func (f *findings) judge() ruling {
	var all []ruling
	for _, look := range []func() (ruling, bool){f.judgeConfig, f.judgeCredentials, f.judgeNetwork, f.judgeServer} {
		if r, found := look(); found {
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return f.fine()
	}
	first := all[0]
	for _, r := range all[1:] {
		first.evidence = append(first.evidence, "besides: "+r.summary)
		first.evidence = append(first.evidence, r.evidence...)
		first.remedies = append(first.remedies, r.remedies...)
	}
	return first
}

func (f *findings) judgeConfig() (ruling, bool) {
	err := f.invalid
	if err == nil && errors.Is(f.credentials.err, dsql.ErrConfig) {
		err = f.credentials.err
	}
	switch {
	case err == nil:
		return ruling{}, false
	case errors.Is(err, dsql.ErrCredentials):
		return f.credentialsRuling(err), true
	}
	what := strings.TrimPrefix(err.Error(), dsql.ErrConfig.Error()+": ")
	fault, remedy, _ := strings.Cut(what, "; ")
	r := ruling{verdict: VerdictConfig, summary: "The configuration cannot work: " + strings.Replace(fault, ": ", " ", 1) + "."}
	if remedy != "" {
		r.remedies = []string{strings.ToUpper(remedy[:1]) + remedy[1:] + "."}
	}
	if f.login.ending == endGood {
		r.evidence = []string{"apart from that, the login works"}
	}
	return r, true
}

func (f *findings) judgeCredentials() (ruling, bool) {
	for _, probe := range []finding{f.credentials, f.token} {
		if probe.tried() && probe.ending != endGood && !errors.Is(probe.err, dsql.ErrConfig) {
			return f.credentialsRuling(probe.err), true
		}
	}
	return ruling{}, false
}

func (f *findings) credentialsRuling(err error) ruling {
	summary := "There are no AWS credentials to sign a token with."
	switch {
	case strings.Contains(strings.ToLower(err.Error()), "expired"):
		summary = "The AWS credentials have expired."
	case f.roleARN != "" && roleFailed(err):
		return ruling{
			verdict:  VerdictCredentials,
			summary:  fmt.Sprintf("The role %s cannot be assumed.", f.roleARN),
			evidence: []string{err.Error()},
			remedies: []string{
				"See who asks for the role, and whether there are credentials to ask with: aws sts get-caller-identity",
				"Let them in on both sides: sts:AssumeRole on the role in their IAM policy, and they in the role's trust policy; where that asks for an external ID, Config.ExternalID must be the same.",
				fmt.Sprintf("Open a route to STS: HTTPS to sts.%s.amazonaws.com; a VPC without internet needs an interface endpoint for sts in %s, with private DNS.", f.target.Region, f.target.Region),
			},
		}
	}
	return ruling{
		verdict:  VerdictCredentials,
		summary:  summary,
		evidence: []string{err.Error()},
		remedies: []string{
			"Find out which credentials there are: aws sts get-caller-identity",
			"Renew or set them: aws sso login (or aws configure, or the AWS_* variables), or give the program a role; Config.Profile names a profile, Config.Credentials takes a provider.",
		},
	}
}

// roleFailed tells STS's refusal from the lack of credentials to ask it with, which the SDK tells apart
// only in words. Of what ran out of time it says not even that: then STS is likelier than the credentials.
func roleFailed(err error) bool {
	text := err.Error()
	return !strings.Contains(text, "get identity") &&
		(strings.Contains(text, "STS: AssumeRole,") || errors.Is(err, context.DeadlineExceeded))
}

// judgeNetwork looks at what is between here and a verified TLS session.
func (f *findings) judgeNetwork() (ruling, bool) {
	if f.dns.tried() && f.dns.ending != endGood {
		return f.judgeDNS(), true
	}
	if len(f.tcp) == 0 {
		return ruling{}, false
	}
	tried, connected := false, false
	for _, t := range f.tcp {
		tried = tried || t.tried()
		connected = connected || t.ending == endGood
	}
	if !connected {
		if !tried {
			return ruling{}, false
		}
		return f.judgeTCP(), true
	}
	return f.judgeTLS()
}

func (f *findings) judgeDNS() ruling {
	name := hostOf(f.target.DialAddress)
	r := ruling{verdict: VerdictDNS, evidence: []string{f.dns.text()}}
	if f.dns.ending != endUnknownName {
		r.summary = fmt.Sprintf("The resolver does not answer for %s.", name)
		r.remedies = []string{
			"Look up the name by hand, also with another resolver: dig " + name + "; dig @1.1.1.1 " + name,
			"Check this host's resolver (/etc/resolv.conf), and whether the firewall lets it out on port 53.",
		}
		return r
	}
	r.summary = fmt.Sprintf("The name %s does not resolve.", name)
	r.remedies = []string{"Compare it with the endpoint that AWS states: aws dsql get-cluster --identifier " + f.target.ClusterID + " --region " + f.target.Region}
	if strings.Contains(name, ".dsql-") {
		r.remedies = append(r.remedies,
			"PrivateLink names resolve inside the VPC, and with private DNS switched on: aws ec2 modify-vpc-endpoint --vpc-endpoint-id <vpce-id> --private-dns-enabled (the VPC needs DNS support and DNS host names).")
		if !strings.Contains(name, "vpce") {
			r.remedies = append(r.remedies,
				fmt.Sprintf("Without private DNS, dial the VPC endpoint by its own name: Config{Host: \"vpce-….%s.%s.vpce.amazonaws.com\", ClusterID: %q}",
					strings.Split(name, ".")[1], f.target.Region, f.target.ClusterID))
		}
	}
	r.remedies = append(r.remedies, "If the address is known, dial it: Config.DialAddress: \"<address>:5432\"; the name stays what it is for TLS and the token.")
	return r
}

func (f *findings) judgeTCP() ruling {
	name := f.target.DialAddress
	r := ruling{verdict: VerdictPort}
	counts := map[ending]int{}
	only6 := true
	for _, t := range f.tcp {
		if !t.tried() {
			continue
		}
		counts[t.ending]++
		only6 = only6 && is6(t.address)
		r.evidence = append(r.evidence, t.address+": "+t.text())
	}
	switch {
	case only6 && counts[endUnreachable] > 0 && counts[endRefusedPort] == 0:
		r.verdict = VerdictIPv6
		r.summary = fmt.Sprintf("%s leads to IPv6 addresses only, and this host has no route to them.", hostOf(name))
		r.remedies = []string{
			"Give the host or container IPv6 (a subnet with an IPv6 range and a route ::/0; in Docker, a network with --ipv6).",
			"Or use a resolver that returns the IPv4 addresses too: DSQL's public names have both; dig A " + hostOf(name),
			"Or dial an IPv4 address: Config.DialAddress: \"<address>:5432\".",
		}
		return r
	case f.tunnel && counts[endReset] > 0:
		return f.judgeTunnel(r)
	case f.tunnel && counts[endRefusedPort] > 0:
		r.summary = fmt.Sprintf("Nothing listens on %s, which should be the near end of a tunnel or proxy.", name)
		r.remedies = []string{"Start the tunnel, and leave it running: " + f.sshCommand(), "Check the port in Config.DialAddress."}
		return r
	case counts[endRefusedPort] > 0:
		r.summary = fmt.Sprintf("The port is closed: %s refuses TCP connections.", name)
		r.remedies = []string{"Check the port: DSQL's is 5432.", "Check the address: a stale DNS entry or /etc/hosts may lead to another host."}
	case counts[endUnreachable] > 0 && counts[endSilent] == 0:
		r.summary = fmt.Sprintf("There is no route to %s.", name)
		r.remedies = []string{"If the address is private, connect to its VPC first (VPN, peering, transit gateway)."}
	case counts[endSilent] > 0:
		r.summary = fmt.Sprintf("The port is filtered: nothing answers at %s.", name)
		r.remedies = []string{
			"In AWS: let the security group of this host out to port 5432, and that of the VPC endpoint in from it; look at the network ACLs and at the route to the internet (NAT) as well.",
			"Elsewhere: ask for outgoing TCP 5432 to be opened.",
		}
	default:
		r.summary = fmt.Sprintf("No TCP connection to %s can be opened.", name)
	}
	r.remedies = append(r.remedies, f.detours()...)
	return r
}

func is6(address string) bool {
	a, err := netip.ParseAddrPort(address)
	return err == nil && a.Addr().Is6()
}

// judgeTLS tells a wrong certificate from a wrong server, and both from a box on the way.
func (f *findings) judgeTLS() (ruling, bool) {
	n := f.configured()
	mine, other := f.tls[n], f.tls[1-n]
	d, k := f.tls[direct], f.tls[classic]
	switch {
	case mine.derived.ending == endGood || !mine.derived.tried():
		return ruling{}, false
	case mine.derived.ending == endUntrusted:
		return f.judgeCertificate(mine.derived), true
	case other.derived.ending == endUntrusted:
		return f.judgeCertificate(other.derived), true
	}

	r := ruling{evidence: []string{f.connectedIn(), negotiations[direct] + ": " + d.derived.text(), negotiations[classic] + ": " + k.derived.text()}}
	if f.plaintext.tried() {
		r.evidence = append(r.evidence, "without TLS: "+f.plaintext.text())
	}
	switch p := f.plaintext.ending; {
	case other.derived.ending == endGood && n == classic:
		r.verdict = VerdictInspectionSSLRequest
		r.summary = "Something on the way stops PostgreSQL's SSLRequest; direct TLS passes."
		r.remedies = []string{
			`Use direct TLS: Config.SSLNegotiation: "direct", which is the default (sslnegotiation=direct in a connection string; psql and libpq from version 17).`,
		}
		return r, true
	case other.derived.ending == endGood:
		r.verdict = VerdictInspectionDirect
		r.summary = "Something on the way stops direct TLS; TLS after an SSLRequest passes."
		r.remedies = []string{`Ask for TLS the old way: Config.SSLNegotiation: "postgres" (sslnegotiation=postgres in a connection string).`}
		return r, true
	case d.derived.ending == endNotTLS || k.derived.ending == endNotTLS,
		p == endGood || p == endOtherServer:
		return f.judgeOther(r), true
	case d.small.tls != nil || k.small.tls != nil:
		r.verdict = VerdictInspectionKeyExchange
		r.summary = "Something on the way cannot cope with the larger ClientHello of post-quantum TLS; a small one passes."
		r.remedies = []string{
			"Switch the post-quantum key exchanges off for the program: GODEBUG=tlsmlkem=0,tlssecpmlkem=0",
			"Or in code: dsql.NewPool(ctx, config, func(p *pgxpool.Config) { p.ConnConfig.TLSConfig.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256} })",
			"Have the firewall updated: a ClientHello may span several packets (RFC 8446, 4.1.2).",
		}
		return r, true
	case mine.derived.ending == endAlert:
		return f.judgeAlert(r, mine), true
	case d.derived.ending == endSilent && k.derived.ending == endSilent && k.derived.phase == login.PhaseSSLRequest && p == endSilent &&
		!d.otherSNI() && !k.otherSNI():
		r.verdict = VerdictSilence
		r.summary = fmt.Sprintf("TCP connects to %s, and then nothing is ever said.", f.target.DialAddress)
		r.remedies = []string{
			"What accepted the connection may be a box on the way, a proxy, or a load balancer whose target is gone: try from another network to see whether the endpoint is to blame.",
			"Check the cluster: aws dsql get-cluster --identifier " + f.target.ClusterID + " --region " + f.target.Region,
		}
		r.remedies = append(r.remedies, f.detours()...)
		return r, true
	case f.tunnel && d.derived.ending.hungUp() && k.derived.ending.hungUp() && k.derived.phase != login.PhaseTLS && p.hungUp():
		return f.judgeTunnel(r), true
	}
	r.verdict = VerdictInspection
	r.summary = "The network lets TCP through to the endpoint and stops TLS on it: deep packet inspection."
	switch {
	case d.otherSNI() || k.otherSNI():
		r.summary = "The network lets TCP and TLS through, but not with the cluster's name in it: inspection by server name."
		r.evidence = append(r.evidence, "with another SNI, or none, the handshake gets further")
	case d.derived.ending == endReset || k.derived.ending == endReset:
		r.evidence = append(r.evidence, "a server that is down does not accept TCP, and DSQL answers a ClientHello: a reset comes from a box on the way")
	}
	if f.credentials.ending == endGood && f.token.ending == endGood {
		r.evidence = append(r.evidence, "credentials and token are fine, so the code and AWS are not to blame")
	}
	r.remedies = f.detours()
	r.remedies = append(r.remedies, fmt.Sprintf("Ask whoever runs the network to let TLS to %s, TCP port %s, pass without inspection.", f.target.ServerName, portOf(f.target.DialAddress)))
	return r, true
}

func (f *findings) connectedIn() string {
	for _, t := range f.tcp {
		if t.ending == endGood {
			return fmt.Sprintf("TCP to %s connects in %s", t.address, rounded(t.took))
		}
	}
	return ""
}

// judgeTunnel is about something near that hangs up on everybody.
func (f *findings) judgeTunnel(r ruling) ruling {
	r.verdict = VerdictTunnel
	r.summary = fmt.Sprintf("The tunnel or proxy at %s accepts connections, but its far end is not reached.", f.target.DialAddress)
	r.remedies = []string{
		"Look at what the tunnel itself says; its far end must be the endpoint, as the host that it runs from sees it: " + f.sshCommand(),
		"Check that the far host resolves that name and may go out to port 5432.",
	}
	return r
}

// judgeOther is about a server that does not speak TLS, or does without.
func (f *findings) judgeOther(r ruling) ruling {
	r.verdict = VerdictOtherServer
	r.summary = fmt.Sprintf("What answers at %s is not DSQL.", f.target.DialAddress)
	if f.plaintext.ending == endGood || f.plaintext.ending == endOtherServer {
		r.summary = fmt.Sprintf("What answers at %s is a PostgreSQL server that does without TLS, not DSQL.", f.target.DialAddress)
	}
	r.remedies = []string{
		"Check Host, Port and DialAddress: a local PostgreSQL may have taken the port that a tunnel was meant to have.",
		"If a proxy on the way answers in the endpoint's place, use another way:",
	}
	r.remedies = append(r.remedies, f.detours()...)
	return r
}

// judgeAlert is about a server that ends the handshake in TLS's own words.
func (f *findings) judgeAlert(r ruling, t tlsFindings) ruling {
	if t.otherSNI() || strings.Contains(t.derived.text(), "unrecognized name") {
		r.verdict = VerdictSNI
		r.summary = fmt.Sprintf("The server turns down the server name %s during TLS.", f.target.ServerName)
		r.remedies = f.nameRemedies()
		return r
	}
	r.verdict = VerdictRefused
	r.summary = fmt.Sprintf("The TLS handshake with %s is turned down: %s.", f.target.DialAddress, t.derived.text())
	r.remedies = []string{"DSQL takes TLS 1.2 and 1.3 with common ciphers; what answers may be another server or a proxy: check Host, Port and DialAddress, or try another network."}
	return r
}

// judgeCertificate says whose certificate it was that is not accepted.
func (f *findings) judgeCertificate(t finding) ruling {
	leaf := t.tls.PeerCertificates[0]
	r := ruling{verdict: VerdictCertificate, evidence: []string{t.err.Error(), describe(t.tls)}}
	var (
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case errors.As(t.err, &invalid) && invalid.Reason == x509.Expired:
		r.summary = fmt.Sprintf("The certificate is valid from %s to %s, and this host's clock says it is %s.",
			leaf.NotBefore.UTC().Format(time.DateOnly), leaf.NotAfter.UTC().Format(time.DateOnly), time.Now().UTC().Format(time.DateOnly))
		r.remedies = append([]string{"Compare this host's clock with another one: AWS does not let its certificates expire."}, clockRemedies...)
	case errors.As(t.err, &host):
		r.summary = fmt.Sprintf("The server's certificate is not for %s, but for %s.", f.target.ServerName, namesOf(leaf))
		r.remedies = []string{
			"Check the region in Host, Region or ServerName, and that DialAddress leads to the same endpoint.",
			"Behind a VPC endpoint, give its vpce-… name as Host and the cluster's ID as ClusterID: the name for TLS follows from both.",
		}
	case isAmazon(t.tls):
		r.summary = "The certificate is Amazon's, but the roots to check it with lack Amazon Root CA 1."
		if f.ownRoots {
			r.remedies = []string{"Leave Config.RootCAs (sslrootcert) empty, so that the system's roots count, or add https://www.amazontrust.com/repository/AmazonRootCA1.pem to it."}
		} else {
			r.remedies = []string{
				"Install the system's roots (apt-get install ca-certificates, apk add ca-certificates; in an image from scratch, copy /etc/ssl/certs/ca-certificates.crt into it).",
				"Or add https://www.amazontrust.com/repository/AmazonRootCA1.pem to Config.RootCAs (sslrootcert).",
			}
		}
	default:
		r.summary = fmt.Sprintf("The certificate is not Amazon's: a proxy that opens TLS, or another server, presents one issued by %s.", leaf.Issuer)
		r.remedies = []string{
			fmt.Sprintf("Ask whoever runs the proxy to except %s from TLS inspection: it could read the token and all data.", f.target.ServerName),
			"If that authority is your own and to be trusted with both, add its root to Config.RootCAs (sslrootcert).",
		}
		r.remedies = append(r.remedies, f.detours()...)
	}
	return r
}

// judgeServer looks at what the server says once TLS is up.
func (f *findings) judgeServer() (ruling, bool) {
	last := f.login
	switch {
	case !last.tried():
		last = f.startup
	case last.ending == endGood && f.query.tried():
		last = f.query
	}
	if !last.tried() || last.ending == endGood {
		return ruling{}, false
	}
	r := ruling{evidence: []string{last.text()}}
	switch {
	case last.kind == refusal.InvalidSNI:
		r.verdict = VerdictSNI
		r.summary = fmt.Sprintf("The server knows no cluster by the server name %s.", f.target.ServerName)
		r.evidence = append(r.evidence, fmt.Sprintf("dialled %s, sent %s as SNI", f.target.DialAddress, f.target.ServerName))
		r.remedies = f.nameRemedies()
	case last.kind == refusal.ClusterWaking:
		r.verdict = VerdictWaking
		r.summary = "The cluster was idle and is waking up."
		r.remedies = []string{"Try again in some seconds. Connect, NewPool and OpenDB do so by themselves until Config.ConnectTimeout (30 s by default) or the context ends."}
	case last.kind == refusal.TooManyConnections:
		r.verdict = VerdictQuota
		r.summary = "The cluster has as many connections as its quota allows."
		r.remedies = []string{
			"Close what is idle, and use smaller pools: pool_max_conns in Config.Params, times the number of processes.",
			"Have the quota raised (Service Quotas, Amazon Aurora DSQL): 10,000 connections a cluster by default.",
		}
	case last.kind == refusal.RateExceeded:
		r.verdict = VerdictQuota
		r.summary = "More connections are being opened than the cluster's quota allows."
		r.remedies = []string{
			"Keep connections in a pool instead of opening one a request, and start processes one after the other.",
			"Config.ConnectRate and ConnectBurst pace one process: give each its share of 100 a second after a burst of 1,000, or have the quota raised (Service Quotas, Amazon Aurora DSQL).",
		}
	case last.kind == refusal.TokenExpired:
		r.verdict = VerdictClock
		r.summary = "The server takes a fresh token for an expired one: this host's clock is wrong" + refusal.ClockSkew(last.hint, time.Now()) + "."
		r.remedies = clockRemedies
	case last.kind == refusal.WrongAction:
		r.verdict = VerdictTokenKind
		r.summary = fmt.Sprintf("The token is of the wrong kind: the role %q does not go with the action %s.", f.target.User, f.target.Action)
		r.remedies = []string{
			`The role admin, written so, needs a token for DbConnectAdmin, and every other role one for DbConnect. This library signs the right kind for Config.User: leave it empty, or "admin", for the administrator.`,
		}
	case last.kind == refusal.AccessDenied:
		r.verdict = VerdictAccess
		r.summary = fmt.Sprintf("The cluster was found, and refuses this identity the role %q.", f.target.User)
		r.remedies = f.accessRemedies()
	case last.code == "0A000" && strings.Contains(last.text(), "configuration parameter"):
		r.verdict = VerdictConfig
		r.summary = "The configuration cannot work: Params holds a setting that DSQL does not take."
		r.remedies = []string{"Remove the setting that the message names from Config.Params."}
	case last.ending == endRefusal:
		r.verdict = VerdictRefused
		r.summary = fmt.Sprintf("The server refuses the %s.", last.stage())
		r.remedies = []string{"See what the message says. If it is not about what the Config asks for, try again, and then ask AWS Support, with this report."}
	case last.ending == endOtherServer:
		r.verdict = VerdictOtherServer
		r.summary = "The server is trusted, but does not do what DSQL does."
		r.remedies = []string{"Check Host, Port and DialAddress, and whose certificate it is that was accepted."}
	case last.ending == endSilent:
		r.verdict = VerdictSilence
		r.summary = fmt.Sprintf("TLS is set up, and then the server does not answer the %s.", last.stage())
		r.remedies = []string{"Try again: one host behind the endpoint may be at fault.", "If it stays so, ask AWS Support, with this report."}
	default:
		r.verdict = VerdictRefused
		r.summary = fmt.Sprintf("TLS is set up, and then the %s fails.", last.stage())
		r.remedies = []string{"Try again: one host behind the endpoint may be at fault.", "If it stays so, ask AWS Support, with this report."}
	}
	return r, true
}

// fine is the ruling when nothing is wrong, as far as it was seen.
func (f *findings) fine() ruling {
	if f.query.ending != endGood {
		return ruling{
			verdict:  VerdictIncomplete,
			summary:  "It ended before it could tell.",
			remedies: []string{"Give it more time: 20 s are enough for every verdict."},
		}
	}
	r := ruling{verdict: VerdictOK, summary: fmt.Sprintf("Everything works: connected to %s as %s.", f.target.ServerName, f.target.User)}
	r.evidence = []string{fmt.Sprintf("login by %s in %s", negotiations[f.working()], rounded(f.login.took))}
	if f.startup.kind != refusal.None {
		r.evidence = append(r.evidence, "a moment before, the server said: "+f.startup.text())
	}
	for _, t := range f.tcp {
		if t.tried() && t.ending != endGood {
			r.evidence = append(r.evidence, fmt.Sprintf("%s: %s; the other addresses make up for it", t.address, t.text()))
		}
	}
	if other := f.tls[1-f.configured()].derived; other.tried() && other.ending != endGood {
		r.evidence = append(r.evidence, fmt.Sprintf("%s does not work here: %s", negotiations[1-f.configured()], other.text()))
		if f.configured() == direct {
			r.evidence = append(r.evidence, "so clients that know only the SSLRequest fail on this network, psql before version 17 among them")
		}
	}
	if off := f.skew.Abs(); off >= skewToNote {
		r.evidence = append(r.evidence, "this host's clock is off by "+off.Round(time.Second).String())
		r.remedies = clockRemedies
	}
	return r
}

var clockRemedies = []string{"Set this host's clock: timedatectl set-ntp true (Linux; on EC2 chrony with 169.254.169.123), sudo sntp -sS time.apple.com (macOS), w32tm /resync (Windows). A virtual machine or WSL that slept needs it too."}

func (f *findings) nameRemedies() []string {
	return []string{
		"Check that the cluster exists, and in this region: aws dsql get-cluster --identifier " + f.target.ClusterID + " --region " + f.target.Region,
		"Check Host, ClusterID and ServerName: the SNI must be <cluster-id>.dsql.<region>.on.aws or, behind PrivateLink, <cluster-id>.dsql-<suffix>.<region>.on.aws, never a vpce-… name or an address.",
		fmt.Sprintf("Through a VPC endpoint: Config{Host: \"vpce-….dsql-<suffix>.%s.vpce.amazonaws.com\", ClusterID: %q}, and no ServerName.", f.target.Region, f.target.ClusterID),
	}
}

func (f *findings) accessRemedies() []string {
	partition := "aws"
	if strings.HasPrefix(f.target.Region, "cn-") {
		partition = "aws-cn"
	}
	role := f.roleARN
	if role == "" {
		role = "arn:" + partition + ":iam::<account>:role/<name>"
	}
	remedies := []string{
		"See as whom the token is signed: aws sts get-caller-identity",
		fmt.Sprintf(`Allow it in IAM: {"Effect": "Allow", "Action": "dsql:%s", "Resource": "arn:%s:dsql:%s:<account>:cluster/%s"}`,
			f.target.Action, partition, f.target.Region, f.target.ClusterID),
	}
	if f.target.User != adminUser {
		name := pgx.Identifier{f.target.User}.Sanitize()
		remedies = append(remedies, fmt.Sprintf("Map the role to it, as admin: CREATE ROLE %s WITH LOGIN; AWS IAM GRANT %s TO '%s'; (SELECT * FROM sys.iam_pg_role_mappings lists what there is)", name, name, role))
	}
	return append(remedies, "Check that the credentials belong to the cluster's account, that no SCP or permission boundary stands against it, and that this host's clock is right: a clock that is ahead is refused in the same words.")
}

// detours are the ways round a network that is in the way.
func (f *findings) detours() []string {
	return []string{
		"Try another network (a phone's hotspot tells at once), or a VPN.",
		fmt.Sprintf("AWS CloudShell in %s is inside AWS's network: run the same there.", f.target.Region),
		fmt.Sprintf("Through a jump host that reaches the endpoint: %s, and then Config.DialAddress: \"localhost:15432\", with all else as it is.", f.sshCommand()),
		fmt.Sprintf("For a VPC that is reached by VPN or Direct Connect, a VPC endpoint: aws dsql get-vpc-endpoint-service-name --identifier %s --region %s names the service.", f.target.ClusterID, f.target.Region),
	}
}

// sshCommand leads to the endpoint itself, also where DialAddress is a tunnel already.
func (f *findings) sshCommand() string {
	far := f.target.DialAddress
	if nearby(hostOf(far)) {
		far = net.JoinHostPort(f.target.ServerName, fmt.Sprint(defaultPort))
	}
	return "ssh -N -L 15432:" + far + " user@jump-host"
}

// text says what was seen, for a reader.
func (f finding) text() string {
	step := map[login.Phase]string{login.PhaseDial: "the connection request", login.PhaseSSLRequest: "the SSLRequest", login.PhaseTLS: "the ClientHello", login.PhaseLogin: "the startup message"}[f.phase]
	var record tls.RecordHeaderError
	switch {
	case !f.tried():
		return f.none
	case f.ending == endGood:
		return "works"
	case f.ending == endSilent && step != "":
		return fmt.Sprintf("no answer to %s within %s", step, rounded(f.limit))
	case f.ending == endSilent:
		return fmt.Sprintf("no answer within %s", rounded(f.limit))
	case f.ending == endReset && f.phase != login.PhaseDial:
		return "connection reset after " + step
	case f.ending == endClosed && f.phase != login.PhaseDial:
		return "connection closed after " + step
	case f.hint != "":
		return fmt.Sprintf("%v (HINT: %s)", f.err, f.hint)
	case errors.As(f.err, &record):
		return "the answer to " + step + " is not TLS"
	}
	return f.err.Error()
}

// means says what a probe's failure stands for by itself.
func (f finding) means() string {
	switch f.ending {
	case endSilent:
		return "it is dropped on the way, or nobody is there"
	case endReset, endClosed:
		return "something on the way ends it, or what answers is not the endpoint"
	case endRefusedPort:
		return "nothing listens there, or a firewall says so"
	case endUnreachable:
		return "this host has no route to it"
	case endUnknownName:
		return "no name server knows it"
	case endUnresolved:
		return "the name servers do not do their work"
	case endUntrusted:
		return f.err.Error()
	case endNotTLS, endOtherServer:
		return "this is not DSQL"
	}
	return f.advice
}

// stage names what the server was asked for.
func (f finding) stage() string {
	if f.phase == phaseQuery {
		return "first query"
	}
	return "login"
}

func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}

// isAmazon tells the service's own chain from others, by its names: it is no proof.
func isAmazon(state *tls.ConnectionState) bool {
	for _, c := range state.PeerCertificates {
		for _, o := range c.Issuer.Organization {
			if o == "Amazon" || strings.HasPrefix(o, "Starfield ") {
				return true
			}
		}
	}
	return false
}

// describe says whose certificate was shown.
func describe(state *tls.ConnectionState) string {
	leaf := state.PeerCertificates[0]
	var issuers []string
	for _, c := range state.PeerCertificates {
		if issuer := c.Issuer.String(); !slices.Contains(issuers, issuer) {
			issuers = append(issuers, issuer)
		}
	}
	return fmt.Sprintf("certificate of %s for %s, until %s, issued by %s", subjectOf(leaf), namesOf(leaf), leaf.NotAfter.UTC().Format(time.DateOnly), strings.Join(issuers, ", that by "))
}

func subjectOf(c *x509.Certificate) string {
	if s := c.Subject.String(); s != "" {
		return s
	}
	return "an empty subject"
}

func namesOf(c *x509.Certificate) string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name"
	}
	return strings.Join(names, ", ")
}

func rounded(d time.Duration) time.Duration {
	if d > time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(100 * time.Microsecond)
}
