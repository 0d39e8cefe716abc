package dsqldoctor

import (
	"fmt"
	"testing"

	"github.com/dsqlgo/dsql/internal/httpproxy"
	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/wsconn"
)

func TestConcludeWebSocket(t *testing.T) {
	reset := ended(outcomeReset, login.PhaseTLS)
	closed := finding{outcome: outcomePortClosed, phase: login.PhaseDial, err: fmt.Errorf("connection refused")}
	// with returns the findings of a host on which TLS on 5432 is reset, with a WebSocket that ended so.
	with := func(transport string, f finding) *findings {
		all := findingsWithTLS(reset, reset)
		all.transport = transport
		all.webSocket = webSocketFinding{address: "id.dsql.us-east-1.on.aws:443", finding: f}
		return all
	}
	refusedByProxy := newFinding(login.PhaseDial, &httpproxy.StatusError{Proxy: "proxy.corp:3128", Code: 407, Status: "407 Proxy Authentication Required"})
	wrongProxy := newFinding(login.PhaseDial, fmt.Errorf("%w is wrong", httpproxy.ErrEnvironment))
	status := newFinding(login.PhaseUpgrade, &wsconn.StatusError{Code: 403, Status: "403 Forbidden"})
	ok := ended(outcomeOK, login.PhaseUpgrade)
	testConclude(t, map[string]concludeTest{
		"works":                        {with("", ok), nil, VerdictInspection, "transport=websocket"},
		"works, where 5432 is closed":  {with("", ok), func(f *findings) { f.tcp = []tcpFinding{{"198.51.100.7:5432", closed}} }, VerdictPort, "transport=websocket"},
		"works, by a proxy, no DNS":    {with("", ok), func(f *findings) { f.dns = ended(outcomeUnknownName, "") }, VerdictDNS, "transport=websocket"},
		"fails too":                    {with("", reset), nil, VerdictInspection, "WebSocket: id.dsql.us-east-1.on.aws:443: TCP works; connection reset"},
		"configured, and no TLS":       {with("websocket", reset), nil, VerdictWebSocket, "blocks TLS to id.dsql.us-east-1.on.aws:443 as well"},
		"configured, and no TCP":       {with("websocket", closed), nil, VerdictWebSocket, "No TCP connection to id.dsql.us-east-1.on.aws:443"},
		"configured, and no WebSocket": {with("websocket", status), nil, VerdictWebSocket, "403 Forbidden"},
		"configured, TCP unknown":      {with("websocket", status), nil, VerdictWebSocket, "See whether TCP works"},
		"proxy wants a password":       {with("websocket", refusedByProxy), nil, VerdictWebSocket, "allow CONNECT to id.dsql.us-east-1.on.aws:443"},
		"proxy is no URL":              {with("websocket", wrongProxy), nil, VerdictWebSocket, "Set HTTPS_PROXY"},
		"auto, and neither":            {with("auto", reset), nil, VerdictInspection, "TCP works; connection reset"},
	})
}
