package dsqldoctor

// Verdict is the kind of problem that keeps a connection from working. If there are several, it is
// the one that a connection meets first; the evidence names the others.
type Verdict string

// The verdicts.
const (
	VerdictOK          Verdict = "ok"          // everything works
	VerdictConfig      Verdict = "config"      // a field of the Config is wrong
	VerdictCredentials Verdict = "credentials" // no AWS credentials, expired ones, or a role that cannot be assumed
	VerdictTokenKind   Verdict = "token-kind"  // a token for DbConnect where DbConnectAdmin is needed, or the reverse
	VerdictAccess      Verdict = "access"      // denied by an IAM policy, a resource-based policy or the role mapping
	VerdictClock       Verdict = "clock"       // this host's clock is wrong

	VerdictDNS         Verdict = "dns"          // the name does not resolve
	VerdictPort        Verdict = "port"         // no TCP connection: port closed or filtered, or no route
	VerdictIPv6        Verdict = "ipv6"         // the name has IPv6 addresses only, and this host no route to them
	VerdictTunnel      Verdict = "tunnel"       // the tunnel or proxy on this host does not reach its far end
	VerdictSilence     Verdict = "silence"      // the connection opens, and then nothing answers
	VerdictInspection  Verdict = "inspection"   // the network allows TCP and blocks TLS
	VerdictSNI         Verdict = "sni"          // the server knows no cluster by the name that was sent
	VerdictWebSocket   Verdict = "websocket"    // Transport asks for a WebSocket, and none opens
	VerdictCertificate Verdict = "certificate"  // the certificate is not trusted, or is for another name
	VerdictOtherServer Verdict = "other-server" // the server that answers is not DSQL

	VerdictInspectionSSLRequest  Verdict = "inspection-ssl-request"  // the network blocks TLS after an SSLRequest only
	VerdictInspectionDirect      Verdict = "inspection-direct"       // the network blocks direct TLS only
	VerdictInspectionKeyExchange Verdict = "inspection-key-exchange" // the network blocks a ClientHello larger than one packet

	VerdictQuota       Verdict = "quota"       // too many connections, or too many new ones a second
	VerdictWaking      Verdict = "waking"      // the cluster was idle and is starting
	VerdictUnavailable Verdict = "unavailable" // the service is unavailable for the moment
	VerdictRefused     Verdict = "refused"     // refused, for a reason that no other verdict names
	VerdictIncomplete  Verdict = "incomplete"  // the time was over before the reason was found
)
