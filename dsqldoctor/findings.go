package dsqldoctor

import (
	"net"
	"net/netip"
	"strings"
	"time"
)

// findings is everything that the conclusion depends on.
type findings struct {
	target      ReportTarget
	configErr   error  // what is wrong with the Config alone
	directTLS   bool   // the Config asks for direct TLS, not for an SSLRequest
	transport   string // Config.Transport; "" also for "tcp"
	ownRoots    bool   // Config.RootCAs is set
	assumedRole string // Config.RoleARN
	signer      string // which credentials signed the token, as a step describes them

	// The system has no root certificates at all. Set if a certificate failed the check with them.
	noSystemRoots bool

	credentials finding
	token       finding
	dns         finding
	tcp         []tcpFinding
	tls         [2]tlsFindings // by negotiation
	plaintext   finding
	webSocket   webSocketFinding
	startup     finding
	login       finding
	otherName   otherNameFinding
	query       finding
	clockOffset time.Duration // the server's clock minus this host's; 0 if not known
}

type tcpFinding struct {
	address string
	finding
}

// negotiation is how a client gets TLS that carries PostgreSQL's protocol.
type negotiation int

const (
	direct     negotiation = iota // a ClientHello comes first
	sslRequest                    // an SSLRequest comes first
	webSocket                     // a ClientHello comes first, and in TLS the upgrade to a WebSocket
)

func (n negotiation) String() string {
	return [...]string{direct: "direct TLS", sslRequest: "TLS after an SSLRequest", webSocket: "WebSocket"}[n]
}

// stepName is the name of the step that tests n, which is not webSocket.
func (n negotiation) stepName() string {
	return [...]string{direct: stepTLSDirect, sslRequest: stepTLSSSLRequest}[n]
}

// other is the other way to get TLS over TCP.
func (n negotiation) other() negotiation { return 1 - n }

// tlsFindings are the results of one negotiation. The variants are tried only where usual fails.
type tlsFindings struct {
	usual       finding // as a connection does it
	dialledName finding // with the name that is dialled as SNI
	noSNI       finding
	smallHello  finding // with a ClientHello that fits into one packet
}

// otherSNIWorks tells whether a handshake got through with another SNI than the usual one.
func (t tlsFindings) otherSNIWorks() bool { return t.dialledName.tls != nil || t.noSNI.tls != nil }

// configuredTLS is the negotiation that the Config asks for over TCP.
func (f *findings) configuredTLS() negotiation {
	if f.directTLS {
		return direct
	}
	return sslRequest
}

// working returns a negotiation that sets up verified TLS, preferably one that the Config asks for.
func (f *findings) working() (n negotiation, ok bool) {
	all := []negotiation{f.configuredTLS(), webSocket, f.configuredTLS().other()}
	switch f.transport {
	case "":
		all[1], all[2] = all[2], all[1]
	case transportWebSocket:
		all[0], all[1] = all[1], all[0]
	}
	for _, n := range all {
		if n == webSocket && f.webSocket.ok() || n != webSocket && f.tls[n].usual.ok() {
			return n, true
		}
	}
	return 0, false
}

// dialsThisHost tells whether the dialled address is the near end of a tunnel or proxy.
func (f *findings) dialsThisHost() bool { return isThisHost(hostOf(f.target.DialAddress)) }

func isThisHost(host string) bool {
	a, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && a.IsLoopback()
}

// isName tells a host name from an IP address. Only a name may be sent as SNI (RFC 6066, section
// 3).
func isName(host string) bool {
	_, err := netip.ParseAddr(host)
	return err != nil && host != ""
}

// hostOf returns the host of a "host:port".
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// portOf returns the port of a "host:port".
func portOf(address string) string {
	_, port, _ := net.SplitHostPort(address)
	return port
}
