package dsqldoctor_test

import (
	"context"
	"crypto/tls"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqldoctor"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/internal/nettest"
)

const webSocketRemedy = "transport=websocket"

// twoPorts starts a server that has the two ports of a cluster, and returns the Config for it.
func twoPorts(t *testing.T) (*dsqltest.Server, dsql.Config) {
	t.Helper()
	s := dsqltest.New(t, dsqltest.WithWebSocketAddress("127.0.0.1:0"))
	timeOutWhenSilent(t, s)
	c := temporary(s)
	c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		to := s.Addr()
		if _, port, _ := net.SplitHostPort(address); port == "443" {
			to = s.WebSocketAddr()
		}
		return dial(ctx, network, to)
	}
	return s, c
}

func always443(c dsql.Config, address string) dsql.Config {
	toServer := c.DialFunc
	c.DialFunc = func(ctx context.Context, network, to string) (net.Conn, error) {
		if _, port, _ := net.SplitHostPort(to); port == "443" {
			return dial(ctx, network, address)
		}
		return toServer(ctx, network, to)
	}
	return c
}

func faultOn(phase dsqltest.Phase, effect dsqltest.Effect) func() dsqltest.Fault {
	return dsqltest.Always(dsqltest.Fault{Phase: phase, Effect: effect})
}

// The network of the report: 5432 is reset at the ClientHello, 443 is open. The first remedy is the
// WebSocket, which was tried up to a query.
func TestDiagnoseWebSocketWorks(t *testing.T) {
	s, c := twoPorts(t)
	s.SetFaults(faultOn(dsqltest.OnClientHello, dsqltest.Reset))
	r := diagnose(t, c)
	requireVerdict(t, dsqldoctor.VerdictInspection, r)
	require.Contains(t, r.Remedies[0], webSocketRemedy)
	require.Contains(t, r.Remedies[0], "port 443")
	require.Equal(t, dsqldoctor.StepOK, stepOf(t, r, "websocket").Result)
	require.Contains(t, stepOf(t, r, "websocket").Seen, s.Endpoint()+":443: TCP, TLS and the upgrade work")
	require.Contains(t, stepOf(t, r, "login").Seen, "logged in as admin by WebSocket")
	require.Equal(t, dsqldoctor.StepOK, stepOf(t, r, "query").Result)

	// The remedy works.
	for _, transport := range []string{"websocket", "auto"} {
		c.Transport = transport
		r = diagnose(t, c)
		requireVerdict(t, dsqldoctor.VerdictOK, r)
		require.Contains(t, r.Evidence[0], "login by WebSocket")
	}

	// What is wrong with the login shows on this way, too.
	c.Transport, c.User = "", "nobody"
	r = diagnose(t, c)
	requireVerdict(t, dsqldoctor.VerdictInspection, r)
	require.Contains(t, r.String(), "besides: ")
	require.Contains(t, r.String(), "unable to accept connection, access denied")
	c.Transport = "websocket"
	requireVerdict(t, dsqldoctor.VerdictAccess, diagnose(t, c))
}

// Where a WebSocket does not work either, the report says why, and does not recommend one.
func TestDiagnoseWebSocketFails(t *testing.T) {
	s, c := twoPorts(t)
	s.SetFaults(faultOn(dsqltest.OnClientHello, dsqltest.Reset))
	certificate, roots := nettest.Issue(t, "Corp Inspection", s.Endpoint())
	opened := nettest.Listen(t, func(conn *net.TCPConn) { // a proxy that opens TLS
		_ = tls.Server(conn, &tls.Config{Certificates: []tls.Certificate{certificate}}).Handshake()
		_, _ = io.Copy(io.Discard, conn)
	})
	forbids := nettest.Listen(t, func(tcp *net.TCPConn) {
		conn := tls.Server(tcp, &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"http/1.1"}})
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = io.WriteString(conn, "HTTP/1.1 403 Forbidden\r\nServer: gateway\r\nContent-Length: 0\r\n\r\n")
		_, _ = io.Copy(io.Discard, conn)
	})
	trusting := always443(c, forbids)
	trusting.RootCAs = roots

	for name, test := range map[string]struct {
		fault   func() dsqltest.Fault
		config  dsql.Config
		says    string
		verdict dsqldoctor.Verdict // with Transport "websocket"
	}{
		"TLS reset":            {faultOn(dsqltest.OnClientHello, dsqltest.Reset), c, "TCP works; connection reset after the ClientHello", dsqldoctor.VerdictWebSocket},
		"upgrade dropped":      {faultOn(dsqltest.OnUpgrade, dsqltest.HangUp), c, "TCP and TLS work; connection closed after the request for a WebSocket", dsqldoctor.VerdictWebSocket},
		"upgrade not answered": {faultOn(dsqltest.OnUpgrade, dsqltest.Silence), c, "TCP and TLS work; no answer to the request for a WebSocket", dsqldoctor.VerdictWebSocket},
		"no HTTP":              {faultOn(dsqltest.OnUpgrade, dsqltest.Garbage), c, "no WebSocket", dsqldoctor.VerdictWebSocket},
		"HTTP status":          {nil, trusting, `HTTP status 403 Forbidden from "gateway"`, dsqldoctor.VerdictWebSocket},
		"TLS opened":           {nil, always443(c, opened), "issued by CN=Corp Inspection", dsqldoctor.VerdictCertificate},
	} {
		t.Run(name, func(t *testing.T) {
			s.SetWebSocketFaults(test.fault)
			r := diagnose(t, test.config)
			requireVerdict(t, dsqldoctor.VerdictInspection, r)
			require.Equal(t, dsqldoctor.StepFailed, stepOf(t, r, "websocket").Result)
			require.Contains(t, stepOf(t, r, "websocket").Seen, test.says)
			require.Contains(t, r.Evidence[len(r.Evidence)-1], test.says)
			require.NotContains(t, r.String(), webSocketRemedy)

			config := test.config
			config.Transport = "websocket"
			r = diagnose(t, config)
			requireVerdict(t, test.verdict, r)
			require.Contains(t, r.String(), test.says)
			require.NotContains(t, r.String(), webSocketRemedy)

			config.Transport = "auto"
			requireVerdict(t, dsqldoctor.VerdictInspection, diagnose(t, config))
		})
	}
}

// Where TCP works, a WebSocket that was asked for and does not open has an easy remedy; and none is
// opened that nobody asked for.
func TestDiagnoseWebSocketNotNeeded(t *testing.T) {
	s, c := twoPorts(t)
	s.SetWebSocketFaults(faultOn(dsqltest.OnClientHello, dsqltest.Reset))
	r := diagnose(t, c)
	requireVerdict(t, dsqldoctor.VerdictOK, r)
	require.Equal(t, dsqldoctor.StepSkipped, stepOf(t, r, "websocket").Result)
	for _, a := range s.Attempts() {
		require.Equal(t, s.Addr(), a.Address)
	}
	c.Transport = "auto"
	requireVerdict(t, dsqldoctor.VerdictOK, diagnose(t, c))
}
