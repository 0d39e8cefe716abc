package dsqldoctor

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"

	"github.com/dsqlgo/dsql/internal/login"
)

// testTLS sets up TLS in both ways, and a session without TLS. Where TLS fails, variants show
// whether the network or the server objects to the name, to the size of the ClientHello, or to TLS
// itself.
func (d *diagnosis) testTLS(ctx context.Context) {
	negotiations := []negotiation{direct, sslRequest}
	reason := ""
	switch {
	case d.transport == transportWebSocket:
		reason = "the configuration asks for a WebSocket"
	case d.prober.address == "":
		reason = "there is no TCP connection"
	}
	if reason != "" {
		for _, n := range negotiations {
			d.skip(n.stepName(), reason)
		}
		d.skip(stepPlaintext, reason)
		return
	}
	var waits []func() finding
	for _, n := range negotiations {
		waits = append(waits, d.startHandshake(ctx, tlsOptions{negotiation: n, serverName: d.target.ServerName}))
	}
	waitPlaintext := startProbe(ctx, d, d.limits.plaintext, d.prober.startupPlaintext)
	for i, n := range negotiations {
		d.tls[n].usual = waits[i]()
		d.recordHandshake(n.stepName(), d.tls[n].usual)
	}
	for _, n := range negotiations {
		if d.tls[n].usual.outcome == outcomeBadCertificate && !d.ownRoots {
			d.noSystemRoots = login.SystemHasNoRoots()
		}
	}
	d.plaintext = waitPlaintext()
	d.recordPlaintext()
	d.testTLSVariants(ctx, negotiations)
}

func (d *diagnosis) startHandshake(ctx context.Context, o tlsOptions) (wait func() finding) {
	return startProbe(ctx, d, d.limits.step, func(ctx context.Context) finding { return d.prober.handshake(ctx, o) })
}

// testTLSVariants tries other handshakes with the negotiations that failed, all at once.
func (d *diagnosis) testTLSVariants(ctx context.Context, negotiations []negotiation) {
	type variant struct {
		name   string
		result *finding
		wait   func() finding
	}
	dialled, skipDialled := d.dialledSNI()
	var variants []variant
	for _, n := range negotiations {
		t := &d.tls[n]
		if o := t.usual.outcome; !o.isBlocked() && o != outcomeTLSAlert {
			continue
		}
		add := func(name string, result *finding, o tlsOptions) {
			o.negotiation = n
			variants = append(variants, variant{n.stepName() + ", " + name, result, d.startHandshake(ctx, o)})
		}
		if skipDialled == "" {
			add("dialled name", &t.dialledName, tlsOptions{serverName: dialled})
		} else {
			skipped := func() finding { return finding{skipped: skipDialled} }
			variants = append(variants, variant{n.stepName() + ", dialled name", &t.dialledName, skipped})
		}
		add("no SNI", &t.noSNI, tlsOptions{})
		add("small ClientHello", &t.smallHello, tlsOptions{serverName: d.target.ServerName, smallHello: true})
	}
	for _, v := range variants {
		*v.result = v.wait()
		d.recordHandshake(v.name, *v.result)
	}
}

// dialledSNI returns the host that is dialled, for use as SNI, or the reason not to try it.
func (d *diagnosis) dialledSNI() (name, skip string) {
	name = hostOf(d.target.DialAddress)
	switch {
	case name == d.target.ServerName:
		return "", "it is the name that was sent"
	case !isName(name):
		return "", "an address cannot be sent as SNI"
	}
	return name, ""
}

func (d *diagnosis) recordHandshake(name string, f finding) {
	if f.tls == nil {
		d.recordFinding(name, f, "")
		return
	}
	certificate := describeChain(f.tls)
	if first := d.tls[direct].usual.tls; first != nil && name != stepTLSDirect && first.PeerCertificates[0].Equal(f.tls.PeerCertificates[0]) {
		certificate = "the same certificate"
	}
	s := Step{Name: name, Result: StepOK, Took: f.took}
	s.Seen = fmt.Sprintf("%s, %s, ALPN %s; %s", tls.VersionName(f.tls.Version), tls.CipherSuiteName(f.tls.CipherSuite),
		cmp.Or(f.tls.NegotiatedProtocol, "none"), certificate)
	if !f.ok() {
		s.Result, s.Means = StepFailed, f.err.Error()
	}
	d.record(s)
}

func (d *diagnosis) recordPlaintext() {
	f := d.plaintext
	s := Step{Name: stepPlaintext, Result: StepNote, Took: f.took, Seen: f.description()}
	switch {
	case !f.tried():
		s.Result = StepSkipped
	case f.outcome == outcomeRefused, f.outcome.isCut():
		s.Result, s.Means = StepOK, "TLS is required, as it should be"
	case f.outcome == outcomeTimeout:
		s.Means = "the server does not answer without TLS"
	case f.ok(), f.outcome == outcomeNotDSQL:
		s.Seen, s.Means = "the server opens sessions without TLS", "DSQL does not"
	}
	d.record(s)
}
