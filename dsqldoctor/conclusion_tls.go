package dsqldoctor

import (
	"fmt"
	"strings"

	"github.com/dsqlgo/dsql/internal/login"
)

// concludeTLS decides why TLS fails on an open TCP connection. It returns nil if it does not fail.
func (f *findings) concludeTLS() *conclusion {
	n := f.configuredTLS()
	configured, other := f.tls[n].usual, f.tls[n.other()].usual
	switch {
	case !configured.failed():
		return nil
	case configured.outcome == outcomeBadCertificate:
		return f.certificateProblem(configured)
	case other.outcome == outcomeBadCertificate:
		return f.certificateProblem(other)
	}
	c := &conclusion{evidence: f.tlsEvidence()}
	switch {
	case other.ok():
		f.oneNegotiationBlocked(c)
	case f.isOtherServer():
		f.otherServerProblem(c)
	case f.tls[direct].smallHello.tls != nil || f.tls[sslRequest].smallHello.tls != nil:
		keyExchangeBlocked(c)
	case configured.outcome == outcomeTLSAlert:
		f.alertProblem(c)
	case f.nothingAnswers():
		f.silenceProblem(c)
	case f.dialsThisHost() && f.everyConnectionIsCut():
		return f.tunnelProblem(c)
	default:
		f.inspectionProblem(c)
	}
	return c
}

func (f *findings) tlsEvidence() []string {
	var evidence []string
	for _, t := range f.tcp {
		if t.ok() {
			evidence = append(evidence, fmt.Sprintf("TCP to %s connects in %s", t.address, roundDuration(t.took)))
			break
		}
	}
	for _, n := range []negotiation{direct, sslRequest} {
		evidence = append(evidence, n.String()+": "+f.tls[n].usual.description())
	}
	if f.plaintext.tried() {
		evidence = append(evidence, "without TLS: "+f.plaintext.description())
	}
	return evidence
}

// isOtherServer tells whether an answer is not TLS, or a session opens without TLS.
func (f *findings) isOtherServer() bool {
	return f.tls[direct].usual.outcome == outcomeNotTLS || f.tls[sslRequest].usual.outcome == outcomeNotTLS || f.acceptsPlaintext()
}

func (f *findings) acceptsPlaintext() bool {
	return f.plaintext.ok() || f.plaintext.outcome == outcomeNotDSQL
}

// nothingAnswers tells whether the other end sent no byte, whatever was sent to it.
func (f *findings) nothingAnswers() bool {
	d, s := f.tls[direct], f.tls[sslRequest]
	return d.usual.outcome == outcomeTimeout &&
		s.usual.outcome == outcomeTimeout && s.usual.phase == login.PhaseSSLRequest &&
		f.plaintext.outcome == outcomeTimeout &&
		!d.otherSNIWorks() && !s.otherSNIWorks()
}

func (f *findings) everyConnectionIsCut() bool {
	d, s := f.tls[direct].usual, f.tls[sslRequest].usual
	return d.outcome.isCut() && s.outcome.isCut() && s.phase != login.PhaseTLS && f.plaintext.outcome.isCut()
}

func (f *findings) oneNegotiationBlocked(c *conclusion) {
	if f.configuredTLS() == sslRequest {
		c.verdict = VerdictInspectionSSLRequest
		c.summary = "The network blocks PostgreSQL's SSLRequest and allows direct TLS."
		c.remedies = []string{
			`Use direct TLS: Config.SSLNegotiation: "direct", which is the default (sslnegotiation=direct in a connection string; in psql and libpq from version 17).`,
		}
		return
	}
	c.verdict = VerdictInspectionDirect
	c.summary = "The network blocks direct TLS and allows TLS after an SSLRequest."
	c.remedies = []string{`Ask for TLS with an SSLRequest: Config.SSLNegotiation: "postgres" (sslnegotiation=postgres in a connection string).`}
}

func (f *findings) otherServerProblem(c *conclusion) {
	c.verdict = VerdictOtherServer
	c.summary = fmt.Sprintf("The server at %s is not DSQL.", f.target.DialAddress)
	if f.acceptsPlaintext() {
		c.summary = fmt.Sprintf("The server at %s is a PostgreSQL server without TLS, not DSQL.", f.target.DialAddress)
	}
	c.remedies = []string{
		"Check Host, Port and DialAddress: a local PostgreSQL may listen on the port that a tunnel should have.",
		"If a proxy in the network answers instead of the endpoint, avoid it:",
	}
	c.remedies = append(c.remedies, f.workarounds()...)
}

func keyExchangeBlocked(c *conclusion) {
	c.verdict = VerdictInspectionKeyExchange
	c.summary = "The network blocks the larger ClientHello of post-quantum TLS and allows a small one."
	c.remedies = []string{
		"Switch off the post-quantum key exchanges in the program's environment: GODEBUG=tlsmlkem=0,tlssecpmlkem=0",
		"Or in code: dsql.NewPool(ctx, config, func(p *pgxpool.Config) { p.ConnConfig.TLSConfig.CurvePreferences = []tls.CurveID{tls.X25519, tls.CurveP256} })",
		"Have the firewall updated: a ClientHello may span several packets (RFC 8446, section 4.1.2).",
	}
}

func (f *findings) alertProblem(c *conclusion) {
	configured := f.tls[f.configuredTLS()]
	if configured.otherSNIWorks() || strings.Contains(configured.usual.description(), "unrecognized name") {
		c.verdict = VerdictSNI
		c.summary = fmt.Sprintf("The server rejects the server name %s during TLS.", f.target.ServerName)
		c.remedies = f.nameRemedies()
		return
	}
	c.verdict = VerdictRefused
	c.summary = fmt.Sprintf("%s rejects the TLS handshake: %s.", f.target.DialAddress, configured.usual.description())
	c.remedies = []string{"DSQL accepts TLS 1.2 and 1.3 with common ciphers, so this may be another server or a proxy: check Host, Port and DialAddress, or try another network."}
}

func (f *findings) silenceProblem(c *conclusion) {
	c.verdict = VerdictSilence
	c.summary = fmt.Sprintf("%s accepts TCP connections and then never answers.", f.target.DialAddress)
	c.remedies = []string{
		"A firewall, a proxy, or a load balancer without a target may have accepted the connection. Try from another network to see whether the endpoint itself is at fault.",
		"Check the cluster: " + f.getClusterCommand(),
	}
	c.remedies = append(c.remedies, f.workarounds()...)
}

func (f *findings) inspectionProblem(c *conclusion) {
	d, s := f.tls[direct], f.tls[sslRequest]
	c.verdict = VerdictInspection
	c.summary = "The network allows TCP to the endpoint and blocks TLS: deep packet inspection."
	switch {
	case d.otherSNIWorks() || s.otherSNIWorks():
		c.summary = "The network allows TCP and TLS, but blocks the cluster's server name: inspection by server name."
		c.evidence = append(c.evidence, "with another SNI, or none, the handshake gets further")
	case d.usual.outcome == outcomeReset || s.usual.outcome == outcomeReset:
		c.evidence = append(c.evidence, "a server that is down does not accept TCP, and DSQL answers a ClientHello: the reset comes from the network")
	}
	if f.credentials.ok() && f.token.ok() {
		c.evidence = append(c.evidence, "credentials and token are fine, so neither the program nor AWS is the cause")
	}
	c.remedies = append(f.workarounds(),
		fmt.Sprintf("Ask whoever runs the network to allow TLS to %s, TCP port %s, without inspection.", f.target.ServerName, portOf(f.target.DialAddress)))
}
