package dsql

import (
	"errors"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/dsqlgo/dsql/internal/httpproxy"
	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/transport"
	"github.com/dsqlgo/dsql/internal/wsconn"
)

// The values of Config.Transport.
const (
	transportTCP       = string(transport.TCP)
	transportWebSocket = string(transport.WebSocket)
	transportAuto      = "auto"
)

// The ports of a cluster.
const (
	tcpPort       = 5432
	webSocketPort = 443
)

// tcpPatience is how long TCP and TLS may take with Transport "auto", before a WebSocket is tried. A
// SYN that is lost is sent again after 1 s (RFC 6298), so one lost packet is no reason to switch.
const tcpPatience = 3 * time.Second

// transports is what all Configs of this process know about the networks to their endpoints.
var transports transport.Memory

// defaultPort returns the port to dial if c says none.
func (c Config) defaultPort() uint16 {
	if c.Transport == transportWebSocket {
		return webSocketPort
	}
	return tcpPort
}

// setTransport sets the fields of k that belong to c.Transport.
func (k *connector) setTransport(c Config) {
	if k.transport = c.Transport; k.transport == "" {
		k.transport = transportTCP
	}
	k.tls = login.TLSConfig(k.endpoint.ServerName, c.RootCAs)
	k.sslRequest = c.SSLNegotiation == "postgres"
	// A DialFunc of the user decides for itself whether to use a proxy.
	k.webSocketDial, k.isProxied = c.DialFunc, func(string) bool { return false }
	if c.DialFunc == nil {
		proxies := httpproxy.Dialer{Dial: k.dial, Proxy: http.ProxyFromEnvironment}
		k.webSocketDial = proxies.DialContext
		k.isProxied = func(address string) bool {
			proxy, err := proxies.For(address)
			return err == nil && proxy != ""
		}
	}
	if strings.TrimSpace(c.DialAddress) != "" {
		_, port, err := splitAddress("DialAddress", c.DialAddress)
		k.samePort = err == nil && port != 0
	}
}

// isStopped reports whether err, the end of an attempt in a phase, means that the network stopped the
// attempt, so that the other transport may get through. It does not for what a cluster says, nor for a
// certificate that does not verify on the port of PostgreSQL: who is in between there should be
// noticed. On the port of HTTPS somebody often is, so there everything counts that comes before the
// login. proxied says that WebSockets go through a proxy, which resolves names that are unknown here.
func isStopped(t transport.Transport, phase login.Phase, err error, proxied bool) bool {
	var dns *net.DNSError
	switch {
	case phase == phasePacing || phase == phaseToken || phase == login.PhaseLogin:
		return false
	case errors.As(err, &dns):
		return proxied && t == transport.TCP
	case t == transport.WebSocket:
		return true
	}
	return !errors.Is(err, login.ErrNoTLS) && isTransient(phase, err)
}

// isTransientUpgrade reports whether another upgrade may succeed.
func isTransientUpgrade(err error) bool {
	var status *wsconn.StatusError
	if errors.As(err, &status) {
		return isTransientStatus(status.Code)
	}
	return !errors.Is(err, wsconn.ErrNoWebSocket)
}

// isTransientStatus reports whether a server may answer differently to the next request (RFC 9110,
// 15.5.9 and 15.6; RFC 6585, 4).
func isTransientStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}
