package dsqldoctor_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqldoctor"
	"github.com/dsqlgo/dsql/dsqltest"
)

// The first report from the field: a VPC endpoint without private DNS, and six settings of a client
// that all send the dialled name as SNI. Then the same case with this library.
func TestDiagnoseReportOfSixSettings(t *testing.T) {
	source, err := dsql.NewTokenSource(t.Context(), dsql.Config{Host: publicName, User: reportUser, Credentials: server.Config().Credentials})
	require.NoError(t, err)
	token, err := source.Token(t.Context())
	require.NoError(t, err)
	parse := func(connString string) func() (*pgx.ConnConfig, error) {
		return func() (*pgx.ConnConfig, error) { return pgx.ParseConfig(connString) }
	}
	keywords := "host=" + reportHost + " user=" + reportUser + " dbname=car_entities sslmode="
	tlsOf := func(c *tls.Config) func() (*pgx.ConnConfig, error) {
		return func() (*pgx.ConnConfig, error) {
			cc, err := pgx.ParseConfig(keywords + "require")
			cc.TLSConfig = c
			return cc, err
		}
	}
	for _, row := range []struct {
		setting string
		config  func() (*pgx.ConnConfig, error)
	}{
		{"the token URL-encoded in a connection string", parse("postgres://" + reportUser + ":" + url.QueryEscape(token.Reveal()) + "@" + reportHost + "/car_entities?sslmode=require")},
		{"parameters instead of a connection string", func() (*pgx.ConnConfig, error) {
			cc, err := pgx.ParseConfig("sslmode=require host=" + reportHost)
			cc.User, cc.Database = reportUser, "car_entities"
			return cc, err
		}},
		{"certificates not verified", tlsOf(&tls.Config{InsecureSkipVerify: true, ServerName: reportHost})},
		{"the server name set to the endpoint's", tlsOf(&tls.Config{ServerName: reportHost, InsecureSkipVerify: true})},
		{"the server name left to the driver", func() (*pgx.ConnConfig, error) {
			cc, err := pgx.ParseConfig(keywords + "require sslsni=1")
			return cc, err
		}},
		{"sslmode=require", parse(keywords + "require")},
	} {
		t.Run(row.setting, func(t *testing.T) {
			d := &dialled{}
			cc, err := row.config()
			require.NoError(t, err)
			cc.DialFunc, cc.LookupFunc = d.dial, func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
			cc.Password, cc.Fallbacks = token.Reveal(), nil
			before := len(server.Attempts())
			_, err = pgx.ConnectConfig(t.Context(), cc)
			var refused *pgconn.PgError
			require.ErrorAs(t, err, &refused)
			require.Equal(t, "unable to accept connection, invalid sni", refused.Message)
			require.Equal(t, []string{reportHost + ":5432"}, d.all())
			require.Equal(t, reportHost, server.Attempts()[before].ServerName)
		})
	}

	c := throughNames(&dialled{})
	c.Host, c.User, c.Database = reportHost, reportUser, "car_entities"
	r := diagnose(t, c)
	requireVerdict(t, dsqldoctor.VerdictConfig, r)
	require.Contains(t, fmt.Sprint(r.Summary, r.Remedies), "ClusterID")

	c.ClusterID = reportID
	r = diagnose(t, c)
	requireVerdict(t, dsqldoctor.VerdictConfig, r)
	require.Contains(t, r.Summary, `Database is "car_entities"`)
	require.Equal(t, dsqldoctor.StepOK, stepOf(t, r, "login").Result)

	c.Database = ""
	r = diagnose(t, c)
	requireVerdict(t, dsqldoctor.VerdictOK, r)
	require.Equal(t, reportHost+":5432", r.Target.DialAddress)
	require.Equal(t, privateName, r.Target.ServerName)

	// If the server knows no cluster by the name, the report names it, and tests others.
	c.ClusterID = strings.Repeat("a", 26)
	r = diagnose(t, c)
	requireVerdict(t, dsqldoctor.VerdictSNI, r)
	require.Contains(t, r.Summary, c.ClusterID+".dsql-fnh4.us-east-1.on.aws")
	require.Contains(t, fmt.Sprint(r.Evidence), "dialled "+reportHost+":5432, sent "+c.ClusterID)
	require.Contains(t, stepOf(t, r, "startup, dialled name").Seen, "invalid sni")
	require.Contains(t, stepOf(t, r, "startup, no SNI").Seen, "sni was not received")
}

// The second report from the field: TCP connects in 83 ms and the token is fine. A ClientHello is
// reset. Clients that send an SSLRequest, or no TLS at all, get no answer until their timeout.
func TestDiagnoseReportOfInspection(t *testing.T) {
	b := newMiddlebox(t, server, middlebox{hello: always(reset), sslRequest: ignore, plaintext: ignore})
	c := temporary(server)
	c.DialAddress = b
	r := diagnose(t, c)
	for _, row := range []struct {
		step   string
		result dsqldoctor.StepResult
		seen   string
	}{
		{"tcp " + b, dsqldoctor.StepOK, "connected"},
		{"token", dsqldoctor.StepOK, "AWS4-HMAC-SHA256, DbConnectAdmin for " + publicName},
		{"token", dsqldoctor.StepOK, "good for 15m0s, with a security token"},
		{"tls direct", dsqldoctor.StepFailed, "connection reset after the ClientHello"},
		{"tls after SSLRequest", dsqldoctor.StepFailed, "no answer to the SSLRequest within"},
		{"plaintext", dsqldoctor.StepNote, "no answer to the startup message within"},
		{"login", dsqldoctor.StepSkipped, "there is no TLS"},
	} {
		s := stepOf(t, r, row.step)
		require.Equal(t, row.result, s.Result, s)
		require.Contains(t, s.Seen, row.seen)
	}
	requireVerdict(t, dsqldoctor.VerdictInspection, r)
	require.Contains(t, r.Summary, "deep packet inspection")
	require.Contains(t, fmt.Sprint(r.Evidence), "credentials and token are fine")
	for _, workaround := range []string{
		"another network", "VPN", "CloudShell in us-east-1",
		"ssh -N -L 15432:" + publicName + ":5432 user@jump-host", `Config.DialAddress: "localhost:15432"`, "VPC endpoint",
	} {
		require.Contains(t, fmt.Sprint(r.Remedies), workaround)
	}

	// The tunnel that it suggests works.
	c.DialAddress = newMiddlebox(t, server, middlebox{})
	requireVerdict(t, dsqldoctor.VerdictOK, diagnose(t, c))
}

func TestDiagnoseInspection(t *testing.T) {
	s := dsqltest.New(t)
	large := func(hello []byte) action {
		if len(hello) > 1400 {
			return reset
		}
		return forward
	}
	named := func(hello []byte) action {
		if bytes.Contains(hello, []byte(".on.aws")) {
			return reset
		}
		return forward
	}
	for name, test := range map[string]struct {
		box         middlebox
		negotiation string
		want        dsqldoctor.Verdict
		says        string
	}{
		"both ways":               {middlebox{hello: always(reset)}, "", dsqldoctor.VerdictInspection, "deep packet inspection"},
		"both ways, in silence":   {middlebox{hello: always(ignore)}, "", dsqldoctor.VerdictInspection, "deep packet inspection"},
		"both ways, hung up":      {middlebox{hello: always(hangUp), plaintext: ignore}, "postgres", dsqldoctor.VerdictInspection, "deep packet inspection"},
		"by name":                 {middlebox{hello: named}, "", dsqldoctor.VerdictInspection, "inspection by server name"},
		"by size":                 {middlebox{hello: large}, "", dsqldoctor.VerdictInspectionKeyExchange, "GODEBUG=tlsmlkem=0"},
		"SSLRequest only, silent": {middlebox{sslRequest: ignore}, "postgres", dsqldoctor.VerdictInspectionSSLRequest, `SSLNegotiation: "direct"`},
		"SSLRequest only":         {middlebox{sslRequest: reset}, "postgres", dsqldoctor.VerdictInspectionSSLRequest, `SSLNegotiation: "direct"`},
		"SSLRequest, not in use":  {middlebox{sslRequest: ignore}, "", dsqldoctor.VerdictOK, "psql before version 17"},
		"direct only":             {middlebox{directTLS: reset}, "", dsqldoctor.VerdictInspectionDirect, `SSLNegotiation: "postgres"`},
		"direct, not in use":      {middlebox{directTLS: reset}, "postgres", dsqldoctor.VerdictOK, "direct TLS, which the configuration does not use, fails"},
		"all silent":              {middlebox{directTLS: ignore, sslRequest: ignore, plaintext: ignore}, "", dsqldoctor.VerdictSilence, "never answers"},
		"all hung up":             {middlebox{directTLS: hangUp, sslRequest: hangUp, plaintext: hangUp}, "", dsqldoctor.VerdictTunnel, "does not reach its far end"},
	} {
		t.Run(name, func(t *testing.T) {
			c := temporary(s)
			c.DialAddress, c.SSLNegotiation = newMiddlebox(t, s, test.box), test.negotiation
			r := diagnose(t, c)
			requireVerdict(t, test.want, r)
			require.Contains(t, r.String(), test.says)
		})
	}
}

// A proxy that decrypts TLS has a certificate of its own. The token goes to one that is trusted
// only.
func TestDiagnoseDecryptingProxy(t *testing.T) {
	for _, negotiation := range []string{"direct", "postgres"} {
		p := newProxy(t, "Corporate Proxy CA", publicName)
		c := temporary(server)
		c.DialAddress, c.SSLNegotiation = p.address, negotiation
		r := diagnose(t, c)
		requireVerdict(t, dsqldoctor.VerdictCertificate, r)
		require.Contains(t, r.Summary, "Corporate Proxy CA")
		require.Contains(t, r.Summary, "a proxy that decrypts TLS")
		require.Equal(t, dsqldoctor.StepSkipped, stepOf(t, r, "login").Result)
		require.Empty(t, p.decrypted(), "nothing is sent to a server that is not trusted")
	}

	t.Run("the missing root", func(t *testing.T) {
		for root, says := range map[string]string{"own": "RootCAs (sslrootcert) empty", "system": "ca-certificates"} {
			p := newProxy(t, "Amazon", publicName)
			c := temporary(server)
			c.DialAddress, c.RootCAs = p.address, nil
			if root == "own" {
				c.RootCAs = x509.NewCertPool()
			}
			r := diagnose(t, c)
			requireVerdict(t, dsqldoctor.VerdictCertificate, r)
			require.Contains(t, r.Summary, "Amazon Root CA 1 is not among the root certificates")
			require.Contains(t, fmt.Sprint(r.Remedies), says)
		}
	})

	t.Run("another name", func(t *testing.T) {
		p := newProxy(t, "Amazon", "*.dsql.eu-west-1.on.aws")
		c := temporary(server)
		c.DialAddress, c.RootCAs = p.address, p.roots
		r := diagnose(t, c)
		requireVerdict(t, dsqldoctor.VerdictCertificate, r)
		require.Contains(t, r.Summary, "not for "+publicName+", but for *.dsql.eu-west-1.on.aws")
	})

	t.Run("it is trusted, and its answer holds the token", func(t *testing.T) {
		p := newProxy(t, "Corporate Proxy CA", publicName)
		c := temporary(server)
		c.DialAddress, c.RootCAs = p.address, p.roots
		r := diagnose(t, c)
		requireVerdict(t, dsqldoctor.VerdictRefused, r)
		require.Contains(t, p.decrypted(), "X-Amz-Signature", "the proxy got the token")
		require.Contains(t, stepOf(t, r, "login").Seen, "your password is [hidden]")
	})
}
