package dsqldoctor_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqldoctor"
	"github.com/dsqlgo/dsql/internal/nettest"
)

func TestDiagnosePort(t *testing.T) {
	const closed = nettest.ClosedAddress

	c := temporary(server)
	c.DialAddress = closed
	r := diagnose(t, c)
	requireVerdict(t, dsqldoctor.VerdictPort, r)
	require.Contains(t, r.Summary, "where a tunnel or proxy is expected")
	require.Contains(t, fmt.Sprint(r.Remedies), "ssh -N -L 15432:"+publicName+":5432")

	// The same, by a name that a DialFunc resolves.
	c.DialAddress = ""
	c.DialFunc = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, closed)
	}
	r = diagnose(t, c)
	requireVerdict(t, dsqldoctor.VerdictPort, r)
	require.Contains(t, r.Summary, "The port is closed: "+publicName+":5432")

	t.Run("PostgreSQL without TLS", func(t *testing.T) {
		c := temporary(server)
		c.DialAddress = plainPostgres(t)
		r := diagnose(t, c)
		requireVerdict(t, dsqldoctor.VerdictOtherServer, r)
		require.Contains(t, r.Summary, "PostgreSQL server without TLS")
	})
}

// Name servers that fail.
func TestDiagnoseDNS(t *testing.T) {
	for name, test := range map[string]struct {
		answer func(kind uint16) (rcode byte, addresses []netip.Addr)
		host   string
		want   dsqldoctor.Verdict
		says   []string
	}{
		"no such name":       {func(uint16) (byte, []netip.Addr) { return 3, nil }, publicName, dsqldoctor.VerdictDNS, []string{"does not resolve", "aws dsql get-cluster"}},
		"private DNS is off": {func(uint16) (byte, []netip.Addr) { return 3, nil }, privateName, dsqldoctor.VerdictDNS, []string{"--private-dns-enabled", `vpce-….dsql-fnh4.us-east-1.vpce.amazonaws.com`, reportID}},
		"no addresses":       {func(uint16) (byte, []netip.Addr) { return 0, nil }, publicName, dsqldoctor.VerdictDNS, []string{"does not resolve"}},
		"the server fails":   {func(uint16) (byte, []netip.Addr) { return 2, nil }, publicName, dsqldoctor.VerdictDNS, []string{"The resolver does not answer"}},
		"no answer":          {nil, publicName, dsqldoctor.VerdictDNS, []string{"The resolver does not answer"}},
	} {
		t.Run(name, func(t *testing.T) {
			answer := test.answer
			if answer == nil {
				ended := make(chan struct{})
				defer close(ended)
				answer = func(uint16) (byte, []netip.Addr) {
					timeOutAll()
					<-ended
					return 2, nil
				}
			}
			nettest.NameServer(t, answer)
			c := temporary(server)
			c.Host, c.DialAddress = test.host, ""
			r := diagnose(t, c)
			requireVerdict(t, test.want, r)
			for _, says := range test.says {
				require.Contains(t, r.String(), says)
			}
			require.Equal(t, dsqldoctor.StepSkipped, stepOf(t, r, "tcp").Result)
			require.Equal(t, dsqldoctor.StepOK, stepOf(t, r, "token").Result)
		})
	}

	t.Run("both addresses", func(t *testing.T) {
		_, port, err := net.SplitHostPort(server.Addr())
		require.NoError(t, err)
		nettest.NameServer(t, func(kind uint16) (byte, []netip.Addr) {
			if kind == 1 {
				return 0, []netip.Addr{netip.MustParseAddr("127.0.0.1")}
			}
			return 0, nil
		})
		c := temporary(server)
		c.DialAddress = "db.example.com:" + port
		r := diagnose(t, c)
		requireVerdict(t, dsqldoctor.VerdictOK, r)
		require.Equal(t, "db.example.com is 127.0.0.1 (this host)", stepOf(t, r, "dns").Seen)
	})
}
