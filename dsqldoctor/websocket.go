package dsqldoctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/internal/httpproxy"
	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/wsconn"
)

// The values of Config.Transport.
const (
	transportWebSocket = "websocket"
	transportAuto      = "auto"
)

// webSocketFinding is a WebSocket to the cluster, up to the login.
type webSocketFinding struct {
	address string // "host:port"
	proxy   string // the HTTP proxy of the environment on the way, or ""
	finding
}

// resolveWebSocket finds out where Transport "websocket" would connect to, and how.
func (d *diagnosis) resolveWebSocket(ctx context.Context, c dsql.Config) {
	c.Transport = transportWebSocket
	if c.Port == 5432 {
		c.Port = 0 // as the remedy says
	}
	e, f := start(ctx, d, d.limits.step, func(ctx context.Context) (dsql.Endpoint, finding) {
		e, err := c.Endpoint(ctx)
		return e, newFinding("", err)
	})()
	if !f.ok() {
		d.webSocket.skipped = f.description()
		return
	}
	d.webSocket.address = e.DialAddress
	d.prober.webSocketAddress, d.prober.webSocketDial = e.DialAddress, d.prober.dial
	if c.DialFunc == nil {
		proxies := httpproxy.Dialer{Dial: d.prober.dial, Proxy: http.ProxyFromEnvironment}
		d.prober.webSocketDial = proxies.DialContext
		d.webSocket.proxy, _ = proxies.For(e.DialAddress) // an error shows when it is dialled
	}
}

// testWebSocket opens a WebSocket if the configuration uses one, or if nothing else gets through.
func (d *diagnosis) testWebSocket(ctx context.Context) {
	_, works := d.working()
	switch {
	case works && d.transport == "":
		d.webSocket.skipped = "TCP and TLS work, so there is no need for one"
	case d.webSocket.address != "":
		w := &d.webSocket
		w.finding = startProbe(ctx, d, d.limits.step, d.prober.upgrade)()
	}
	d.recordWebSocket()
}

func (d *diagnosis) recordWebSocket() {
	w := d.webSocket
	s := Step{Name: stepWebSocket, Result: StepOK, Took: w.took, Seen: w.describe()}
	switch {
	case !w.tried():
		s.Result = StepSkipped
	case !w.ok():
		s.Result, s.Means = StepFailed, w.meaning()
	}
	d.record(s)
}

// describe says what was observed, and on which way.
func (w webSocketFinding) describe() string {
	if !w.tried() {
		return w.skipped
	}
	text := w.address + ": "
	switch {
	case w.ok():
		text += fmt.Sprintf("TCP, TLS and the upgrade work, in %s", roundDuration(w.took))
	case w.tls != nil && w.outcome == outcomeBadCertificate:
		text += describeChain(w.tls) + ", which is not accepted"
	case w.phase == login.PhaseUpgrade:
		text += "TCP and TLS work; " + w.description()
	case w.phase == login.PhaseTLS:
		text += "TCP works; " + w.description()
	default:
		text += w.description()
	}
	if w.proxy != "" {
		text += ", through the HTTP proxy " + w.proxy + " that the environment names"
	}
	return text
}

// upgrade opens a WebSocket and closes it. It says nothing to a server whose certificate is not
// accepted.
func (p *prober) upgrade(ctx context.Context) finding {
	o := tlsOptions{negotiation: webSocket, serverName: p.serverName}
	config := login.TLSConfig(o.serverName, p.roots)
	config.InsecureSkipVerify = true
	conn, f := p.openTLS(ctx, o, config)
	if conn == nil {
		return f
	}
	defer conn.NetConn().Close()
	if err := verify(*f.tls, p.serverName, p.roots); err != nil {
		f.outcome, f.err = outcomeBadCertificate, err
		return f
	}
	upgraded, err := wsconn.Upgrade(ctx, conn, p.serverName)
	if err == nil {
		upgraded.Close()
	}
	state := f.tls
	f = newFinding(login.PhaseUpgrade, err)
	f.tls = state
	return f
}

// concludeWebSocket decides why the WebSocket that the configuration asks for does not open. It returns
// nil if it does, or if it was not tested.
func (f *findings) concludeWebSocket() *conclusion {
	w := f.webSocket
	if !w.failed() {
		return nil
	}
	if w.outcome == outcomeBadCertificate {
		c := f.certificateProblem(w.finding)
		c.evidence = append(c.evidence, "WebSocket: "+w.describe())
		return c
	}
	c := &conclusion{verdict: VerdictWebSocket, evidence: []string{"WebSocket: " + w.describe()}}
	var status *wsconn.StatusError
	var proxy *httpproxy.StatusError
	switch {
	case errors.As(w.err, &proxy):
		c.summary = fmt.Sprintf("The HTTP proxy %s does not connect to the endpoint: %s.", proxy.Proxy, proxy.Status)
		c.remedies = []string{
			fmt.Sprintf("Ask whoever runs the proxy to allow CONNECT to %s.", w.address),
			"Or go without the proxy: list .on.aws in NO_PROXY, or set Config.DialFunc.",
		}
	case errors.Is(w.err, httpproxy.ErrEnvironment):
		c.summary = "The environment names an HTTP proxy that cannot be used."
		c.remedies = []string{"Set HTTPS_PROXY to http://host:port, or list .on.aws in NO_PROXY."}
	case errors.As(w.err, &status), w.outcome == outcomeNoWebSocket:
		c.summary = fmt.Sprintf("The server at %s does not open a WebSocket.", w.address)
		c.remedies = []string{"Its certificate is for the cluster and is accepted, so it is the service itself, or a proxy whose root is trusted here. Check the cluster: " + f.getClusterCommand()}
	case w.phase == login.PhaseUpgrade:
		c.summary = "The network allows TLS on the port of HTTPS, and drops the request for a WebSocket."
	case w.phase == login.PhaseTLS:
		c.summary = fmt.Sprintf("The network blocks TLS to %s as well.", w.address)
	default:
		c.summary = fmt.Sprintf("No TCP connection to %s can be opened.", w.address)
	}
	c.remedies = append(c.remedies, "See whether TCP works on this network: leave Config.Transport empty, and diagnose again.")
	c.remedies = append(c.remedies, f.workarounds()...)
	return c
}

// webSocketRemedy is for a network on which nothing but a WebSocket works.
func (f *findings) webSocketRemedy() string {
	text := `Use a WebSocket, which is HTTPS to the network and works here: Config.Transport: "websocket" (transport=websocket in a connection string), or "auto" for TCP wherever that works.`
	if portOf(f.target.DialAddress) != portOf(f.webSocket.address) {
		text += fmt.Sprintf(" It goes to port %s; do not set Port to 5432.", portOf(f.webSocket.address))
	}
	return text + " psql and other clients reach it through dsql proxy."
}

// dialFor returns the dialer and address for a negotiation.
func (p *prober) dialFor(n negotiation) func(context.Context) (net.Conn, error) {
	if n == webSocket {
		return func(ctx context.Context) (net.Conn, error) { return p.webSocketDial(ctx, "tcp", p.webSocketAddress) }
	}
	return func(ctx context.Context) (net.Conn, error) { return p.dial(ctx, "tcp", p.address) }
}
