package dsqldoctor_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqldoctor"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/internal/nettest"
)

const (
	diagnoseKey          = "ASIADIAGNOSEXAMPLE12"
	diagnoseSessionToken = "IQoJb3JpZ2luX2VjEDIAGNOSE/+=SESSION"
)

// temporary is s's Config with credentials that have everything that is to be kept secret.
func temporary(s *dsqltest.Server) dsql.Config {
	secret := s.Credentials().SecretAccessKey
	s.AllowKey(diagnoseKey, secret, diagnoseSessionToken)
	c := s.Config()
	c.Credentials = credentials.NewStaticCredentialsProvider(diagnoseKey, secret, diagnoseSessionToken)
	return c
}

// everyStep are the steps of every report, in their order.
var everyStep = []string{"configuration", "credentials", "token", "dns", "tcp", "tls direct", "tls after SSLRequest", "plaintext", "startup", "login", "query", "clock", "early auth"}

var looksSigned = regexp.MustCompile(`X-Amz-Signature=[0-9a-f]|[0-9a-f]{64}|X-Amz-Security-Token=[^\[]`)

// diagnose runs Diagnose within a time and checks what holds for every report.
func diagnose(t *testing.T, within time.Duration, c dsql.Config) *dsqldoctor.Report {
	t.Helper()
	var told []dsqldoctor.Step
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	began := time.Now()
	r := dsqldoctor.Diagnose(ctx, c, func(s dsqldoctor.Step) { told = append(told, s) })
	require.Less(t, time.Since(began), within+5*time.Second) // a busy machine may be late

	text := r.String()

	require.Equal(t, r.Steps, told)
	var names []string
	for _, s := range r.Steps {
		name, _, _ := strings.Cut(s.Name, ", ")
		if strings.HasPrefix(name, "tcp") {
			name = "tcp"
		}
		if !slices.Contains(names, name) {
			names = append(names, name)
		}
		require.NotEmpty(t, s.Seen, s.Name)
		require.Contains(t, text, s.String())
		require.NotContains(t, s.String(), "\n")
	}
	require.Equal(t, everyStep, names)
	require.NotEmpty(t, r.Summary, text)
	require.NotContains(t, text, "%!")
	require.NotContains(t, text, "\x1b")
	if r.Verdict != dsqldoctor.VerdictOK {
		require.NotEmpty(t, r.Remedies, text)
	}

	encoded, err := json.Marshal(r)
	require.NoError(t, err)
	var decoded dsqldoctor.Report
	require.NoError(t, json.Unmarshal(encoded, &decoded))
	require.Equal(t, *r, decoded)

	shown := map[string]string{"JSON": string(encoded), "String": text}
	for _, verb := range []string{"%v", "%+v", "%#v"} {
		shown[verb] = fmt.Sprintf(verb, r) + fmt.Sprintf(verb, *r) + fmt.Sprintf(verb, r.Steps)
	}
	secrets := []string{diagnoseKey, diagnoseSessionToken, url.QueryEscape(diagnoseSessionToken)}
	if static, ok := c.Credentials.(credentials.StaticCredentialsProvider); ok && static.Value.SecretAccessKey != "" {
		secrets = append(secrets, static.Value.SecretAccessKey)
	}
	for name, text := range shown {
		for _, secret := range secrets {
			require.NotContains(t, text, secret, name)
		}
		require.NotRegexp(t, looksSigned, text, name)
	}
	return r
}

// stepOf returns a report's step by its name.
func stepOf(t *testing.T, r *dsqldoctor.Report, name string) dsqldoctor.Step {
	t.Helper()
	for _, s := range r.Steps {
		if s.Name == name {
			return s
		}
	}
	require.Fail(t, "no step "+name, r.String())
	return dsqldoctor.Step{}
}

func requireVerdict(t *testing.T, want dsqldoctor.Verdict, r *dsqldoctor.Report) {
	t.Helper()
	require.Equal(t, want, r.Verdict, r.String())
}

func TestDiagnoseHealthy(t *testing.T) {
	s := dsqltest.New(t, dsqltest.WithRoundTripTime(20*time.Millisecond))
	for _, negotiation := range []string{"direct", "postgres"} {
		c := temporary(s)
		c.SSLNegotiation = negotiation
		r := diagnose(t, 20*time.Second, c)
		requireVerdict(t, dsqldoctor.VerdictOK, r)
		for _, step := range r.Steps {
			if step.Name != "dns" {
				require.Equal(t, dsqldoctor.StepOK, step.Result, step)
			}
		}
		require.Equal(t, dsqldoctor.ReportTarget{
			Host: s.Endpoint(), DialAddress: s.Addr(), ServerName: s.Endpoint(), Region: "us-east-1", ClusterID: s.ClusterID(),
			User: "admin", Database: "postgres", Action: "DbConnectAdmin",
		}, r.Target)
		require.Contains(t, stepOf(t, r, "credentials").Seen, "key …LE12, temporary")
		require.Contains(t, stepOf(t, r, "token").Seen, "AWS4-HMAC-SHA256, DbConnectAdmin for "+s.Endpoint()+" in us-east-1")
		require.Contains(t, stepOf(t, r, "token").Seen, "with a security token")
		require.Contains(t, stepOf(t, r, "tls direct").Seen, "TLS 1.3")
		require.Contains(t, stepOf(t, r, "tls direct").Seen, "CN=dsqltest root")
	}
}

// DSQL leaves a startup without TLS in silence, as far as that is on record: no reason to be slow.
func TestDiagnoseHealthyButSilentInPlaintext(t *testing.T) {
	c := temporary(server)
	c.DialAddress = newBox(t, server, box{plaintext: mute})
	r := diagnose(t, 20*time.Second, c)
	requireVerdict(t, dsqldoctor.VerdictOK, r)
	require.Equal(t, dsqldoctor.StepNote, stepOf(t, r, "plaintext").Result)
}

// What the server, or the network in front of it, does to a connection.
func TestDiagnoseFaults(t *testing.T) {
	t.Parallel() // it waits, mostly
	s := dsqltest.New(t)
	fault := func(p dsqltest.Phase, e dsqltest.Effect) dsqltest.Fault { return dsqltest.Fault{Phase: p, Effect: e} }
	for _, test := range []struct {
		fault       dsqltest.Fault
		negotiation string
		want        dsqldoctor.Verdict
	}{
		{fault(dsqltest.OnClientHello, dsqltest.Reset), "", dsqldoctor.VerdictInspection},
		{fault(dsqltest.OnClientHello, dsqltest.HangUp), "", dsqldoctor.VerdictInspection},
		{fault(dsqltest.OnClientHello, dsqltest.Silence), "", dsqldoctor.VerdictInspection},
		{fault(dsqltest.OnSSLRequest, dsqltest.Reset), "postgres", dsqldoctor.VerdictInspectionSSLRequest},
		{fault(dsqltest.OnSSLRequest, dsqltest.Silence), "postgres", dsqldoctor.VerdictInspectionSSLRequest},
		{fault(dsqltest.OnSSLRequest, dsqltest.Reset), "", dsqldoctor.VerdictOK},
		{fault(dsqltest.OnAccept, dsqltest.Silence), "", dsqldoctor.VerdictSilence},
		{fault(dsqltest.OnAccept, dsqltest.Reset), "", dsqldoctor.VerdictTunnel},
		{fault(dsqltest.OnAccept, dsqltest.HangUp), "", dsqldoctor.VerdictTunnel},
		{fault(dsqltest.OnAccept, dsqltest.Garbage), "", dsqldoctor.VerdictOtherServer},
		{fault(dsqltest.OnStartup, dsqltest.Silence), "", dsqldoctor.VerdictSilence},
		{fault(dsqltest.OnStartup, dsqltest.Reset), "", dsqldoctor.VerdictRefused},
		{fault(dsqltest.OnStartup, dsqltest.Garbage), "", dsqldoctor.VerdictOtherServer},
		{fault(dsqltest.OnPassword, dsqltest.Silence), "", dsqldoctor.VerdictSilence},
		{fault(dsqltest.OnPassword, dsqltest.HangUp), "", dsqldoctor.VerdictRefused},
		{fault(dsqltest.OnQuery, dsqltest.Silence), "", dsqldoctor.VerdictSilence},
		{fault(dsqltest.OnQuery, dsqltest.Reset), "", dsqldoctor.VerdictRefused},
		{fault(dsqltest.OnStartup, dsqltest.SkipPassword), "", dsqldoctor.VerdictOtherServer},
	} {
		t.Run(fmt.Sprint(test.fault, " ", test.negotiation), func(t *testing.T) {
			s.SetFaults(dsqltest.Always(test.fault))
			c := temporary(s)
			c.SSLNegotiation = test.negotiation
			r := diagnose(t, 6*time.Second, c)
			requireVerdict(t, test.want, r)
			if test.want == dsqldoctor.VerdictInspectionSSLRequest {
				require.Contains(t, fmt.Sprint(r.Remedies), `SSLNegotiation: "direct"`)
				require.Equal(t, dsqldoctor.StepOK, stepOf(t, r, "login").Result, "by the way round")
			}
		})
	}
}

// What the server refuses.
func TestDiagnoseRefusals(t *testing.T) {
	wrongKind := dsqltest.Refusal{Code: "28000", Message: "unable to accept connection, access denied", Hint: "Wrong user to action mapping. user: app, action: DbConnectAdmin"}
	strange := dsqltest.Refusal{Code: "XX000", Message: "out of \x1b[31m luck\n" + diagnoseSessionToken}
	otherCluster := strings.Repeat("a", 26)
	shifted := func(by time.Duration) []dsqltest.Option {
		return []dsqltest.Option{dsqltest.WithClock(func() time.Time { return time.Now().Add(by) })}
	}
	refuse := func(r dsqltest.Refusal) func(*dsqltest.Server, *dsql.Config) {
		return func(s *dsqltest.Server, _ *dsql.Config) { s.RefuseNext(1, r) } // the startup before the login brings no token
	}
	shared := dsqltest.New(t)
	for name, test := range map[string]struct {
		options []dsqltest.Option // none: shared will do
		arrange func(s *dsqltest.Server, c *dsql.Config)
		want    dsqldoctor.Verdict
		remedy  string
		check   func(t *testing.T, r *dsqldoctor.Report)
	}{
		"no role": {
			arrange: func(_ *dsqltest.Server, c *dsql.Config) { c.User = "no body" },
			want:    dsqldoctor.VerdictAccess, remedy: `AWS IAM GRANT "no body" TO 'arn:aws:iam::`,
		},
		"IAM policy": {arrange: refuse(dsqltest.RefuseAccess), want: dsqldoctor.VerdictAccess, remedy: `"Action": "dsql:DbConnectAdmin"`},
		"wrong key": {
			arrange: func(_ *dsqltest.Server, c *dsql.Config) {
				c.Credentials = credentials.NewStaticCredentialsProvider(diagnoseKey, "another secret key", "")
			},
			want: dsqldoctor.VerdictAccess, remedy: "get-caller-identity",
		},
		"token kind": {arrange: refuse(wrongKind), want: dsqldoctor.VerdictTokenKind, remedy: "Config.User"},
		"clock behind": {
			options: shifted(20 * time.Minute), want: dsqldoctor.VerdictClock, remedy: "timedatectl",
			check: func(t *testing.T, r *dsqldoctor.Report) {
				require.Regexp(t, `\((20m0s|19m59s|20m1s) behind the server's\)`, r.Summary)
				require.Equal(t, dsqldoctor.StepFailed, stepOf(t, r, "clock").Result)
			},
		},
		"clock ahead": {options: shifted(-10 * time.Minute), want: dsqldoctor.VerdictAccess, remedy: "clock"},
		"rate":        {arrange: func(s *dsqltest.Server, _ *dsql.Config) { s.SetConnectQuota(0, 0) }, want: dsqldoctor.VerdictQuota, remedy: "ConnectRate"},
		"connections": {arrange: func(s *dsqltest.Server, _ *dsql.Config) { s.SetMaxConnections(0) }, want: dsqldoctor.VerdictQuota, remedy: "pool_max_conns"},
		"waking":      {options: []dsqltest.Option{dsqltest.WithWaking(100)}, want: dsqldoctor.VerdictWaking, remedy: "ConnectTimeout"},
		"woken": {
			options: []dsqltest.Option{dsqltest.WithWaking(1)}, want: dsqldoctor.VerdictOK,
			check: func(t *testing.T, r *dsqldoctor.Report) { require.Contains(t, fmt.Sprint(r.Evidence), "waking up") },
		},
		"no token, and waking": {
			options: []dsqltest.Option{dsqltest.WithWaking(100)},
			arrange: func(_ *dsqltest.Server, c *dsql.Config) { c.Credentials = noCredentials },
			want:    dsqldoctor.VerdictCredentials, remedy: "sts get-caller-identity",
			check: func(t *testing.T, r *dsqldoctor.Report) {
				require.Contains(t, fmt.Sprint(r.Evidence), "besides: The cluster was idle", "a step runs wherever it can tell something")
			},
		},
		"cluster ID": {
			arrange: func(_ *dsqltest.Server, c *dsql.Config) { c.Host = otherCluster + ".dsql.us-east-1.on.aws" },
			want:    dsqldoctor.VerdictSNI, remedy: "aws dsql get-cluster --identifier " + otherCluster,
			check: func(t *testing.T, r *dsqldoctor.Report) {
				require.Contains(t, r.Summary, otherCluster+".dsql.us-east-1.on.aws", "the name that was sent")
				require.Contains(t, stepOf(t, r, "startup, no SNI").Seen, "sni was not received")
			},
		},
		"region": {
			arrange: func(s *dsqltest.Server, c *dsql.Config) { c.Host = s.ClusterID() + ".dsql.eu-west-1.on.aws" },
			want:    dsqldoctor.VerdictCertificate, remedy: "Check the region",
		},
		"setting": {
			arrange: func(_ *dsqltest.Server, c *dsql.Config) { c.Params = map[string]string{"client_min_messages": "debug"} },
			want:    dsqldoctor.VerdictConfig, remedy: "Config.Params",
		},
		"anything else": {arrange: refuse(strange), want: dsqldoctor.VerdictRefused, remedy: "AWS Support"},
	} {
		t.Run(name, func(t *testing.T) {
			s := shared
			if test.options != nil {
				s = dsqltest.New(t, test.options...)
			}
			defer s.SetConnectQuota(-1, 0)
			defer s.SetMaxConnections(-1)
			c := temporary(s)
			if test.arrange != nil {
				test.arrange(s, &c)
			}
			r := diagnose(t, 10*time.Second, c)
			requireVerdict(t, test.want, r)
			require.Contains(t, fmt.Sprint(r.Remedies), test.remedy)
			if test.check != nil {
				test.check(t, r)
			}
		})
	}
}

var noCredentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
	return aws.Credentials{}, errors.New("GET https://sts/?X-Amz-Security-Token=" + url.QueryEscape(diagnoseSessionToken) + "&X-Amz-Signature=0123abcd: no route")
})

func TestDiagnoseCredentials(t *testing.T) {
	expired := aws.Credentials{AccessKeyID: diagnoseKey, SecretAccessKey: "some secret key", CanExpire: true, Expires: time.Now().Add(-time.Minute)}
	for name, test := range map[string]struct {
		change func(*dsql.Config)
		want   dsqldoctor.Verdict
		says   string
	}{
		"none in the environment": {func(c *dsql.Config) { c.Credentials = nil }, dsqldoctor.VerdictCredentials, "There are no AWS credentials"},
		"the provider fails":      {func(c *dsql.Config) { c.Credentials = noCredentials }, dsqldoctor.VerdictCredentials, "no route"},
		"empty":                   {func(c *dsql.Config) { c.Credentials = credentials.NewStaticCredentialsProvider("", "", "") }, dsqldoctor.VerdictCredentials, ""},
		"expired": {func(c *dsql.Config) {
			c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return expired, nil })
		}, dsqldoctor.VerdictCredentials, "have expired"},
		"no such profile": {func(c *dsql.Config) { c.Credentials, c.Profile = nil, "nobody" }, dsqldoctor.VerdictConfig, `Profile "nobody"`},
		"role session":    {func(c *dsql.Config) { c.RoleSessionName = "x" }, dsqldoctor.VerdictConfig, "RoleSessionName is set"},
	} {
		t.Run(name, func(t *testing.T) {
			c := server.Config()
			test.change(&c)
			r := diagnose(t, 10*time.Second, c)
			requireVerdict(t, test.want, r)
			require.Contains(t, r.String(), test.says)
			require.Equal(t, dsqldoctor.StepSkipped, stepOf(t, r, "login").Result)
			require.Equal(t, dsqldoctor.StepOK, stepOf(t, r, "startup").Result, "which needs no credentials")
		})
	}
}

// A role that cannot be assumed is not the lack of credentials to ask for it with.
func TestDiagnoseRole(t *testing.T) {
	const role = "arn:aws:iam::123456789012:role/app"
	denies := func(code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "<ErrorResponse><Error><Type>Sender</Type><Code>%[1]s</Code><Message>%[1]s</Message></Error></ErrorResponse>", code)
		}
	}
	for name, test := range map[string]struct {
		sts     http.HandlerFunc // nil: nobody listens
		base    aws.CredentialsProvider
		summary string
		hidden  string // what must not be advised
	}{
		"denied":              {denies("AccessDenied"), nil, "The role " + role + " cannot be assumed", "sso login"},
		"STS is not reached":  {nil, nil, "The role " + role + " cannot be assumed", "sso login"},
		"expired":             {denies("ExpiredToken"), nil, "have expired", "trust policy"},
		"nothing to ask with": {denies("AccessDenied"), noCredentials, "There are no AWS credentials", "trust policy"},
	} {
		t.Run(name, func(t *testing.T) {
			sts := httptest.NewServer(test.sts)
			defer sts.Close()
			if test.sts == nil {
				sts.Close()
			}
			t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)
			c := temporary(server)
			c.RoleARN, c.ExternalID = role, "customer"
			if test.base != nil {
				c.Credentials = test.base
			}
			r := diagnose(t, 10*time.Second, c)
			requireVerdict(t, dsqldoctor.VerdictCredentials, r)
			require.Contains(t, r.Summary, test.summary)
			advice := fmt.Sprint(r.Remedies)
			require.NotContains(t, advice, test.hidden)
			if test.hidden != "sso login" {
				return
			}
			for _, says := range []string{"sts:AssumeRole", "trust policy", "ExternalID", "interface endpoint for sts in us-east-1", "aws sts get-caller-identity"} {
				require.Contains(t, advice, says)
			}
		})
	}
}

func TestDiagnoseConfig(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*dsql.Config)
		says   string
		dials  bool
	}{
		"no host":        {func(c *dsql.Config) { c.Host = "" }, "Host is empty", false},
		"a password":     {func(c *dsql.Config) { c.Host = "postgres://u:" + diagnoseSessionToken + "@h/" }, "connection string", false},
		"no cluster":     {func(c *dsql.Config) { c.Host = reportHost }, "VPC endpoint, which does not name the cluster", false},
		"database":       {func(c *dsql.Config) { c.Database = "car_entities" }, `Database is "car_entities", and DSQL has one database, postgres`, true},
		"negotiation":    {func(c *dsql.Config) { c.SSLNegotiation = "none" }, "SSLNegotiation", true},
		"token lifetime": {func(c *dsql.Config) { c.TokenLifetime = time.Hour * 24 * 30 }, "TokenLifetime", true},
		"params":         {func(c *dsql.Config) { c.Params = map[string]string{"sslmode": "disable"} }, "Params holds", true},
	} {
		t.Run(name, func(t *testing.T) {
			c := temporary(server)
			test.change(&c)
			r := diagnose(t, 10*time.Second, c)
			requireVerdict(t, dsqldoctor.VerdictConfig, r)
			require.Contains(t, r.Summary, test.says)
			want := dsqldoctor.StepSkipped
			if test.dials {
				want = dsqldoctor.StepOK
			}
			require.Equal(t, want, stepOf(t, r, "login").Result, r)
		})
	}
}

// The first report: a VPC endpoint without private DNS, and six settings of a client that all send the name
// that they dial. Then what follows from the same facts here.
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
	r := diagnose(t, 10*time.Second, c)
	requireVerdict(t, dsqldoctor.VerdictConfig, r)
	require.Contains(t, fmt.Sprint(r.Summary, r.Remedies), "ClusterID")

	c.ClusterID = reportID
	r = diagnose(t, 10*time.Second, c)
	requireVerdict(t, dsqldoctor.VerdictConfig, r)
	require.Contains(t, r.Summary, `Database is "car_entities"`)
	require.Equal(t, dsqldoctor.StepOK, stepOf(t, r, "login").Result)

	c.Database = ""
	r = diagnose(t, 10*time.Second, c)
	requireVerdict(t, dsqldoctor.VerdictOK, r)
	require.Equal(t, reportHost+":5432", r.Target.DialAddress)
	require.Equal(t, privateName, r.Target.ServerName)

	// The name that they sent is named where the server refuses it, and tried beside the right one.
	c.ClusterID = strings.Repeat("a", 26)
	r = diagnose(t, 10*time.Second, c)
	requireVerdict(t, dsqldoctor.VerdictSNI, r)
	require.Contains(t, r.Summary, c.ClusterID+".dsql-fnh4.us-east-1.on.aws")
	require.Contains(t, fmt.Sprint(r.Evidence), "dialled "+reportHost+":5432, sent "+c.ClusterID)
	require.Contains(t, stepOf(t, r, "startup, dialled name").Seen, "invalid sni")
	require.Contains(t, stepOf(t, r, "startup, no SNI").Seen, "sni was not received")
}

// The second report: TCP passes in 83 ms, the token is fine, a ClientHello is reset, a client that sends the
// SSLRequest waits until its timeout, and so does one without TLS.
func TestDiagnoseReportOfInspection(t *testing.T) {
	b := newBox(t, server, box{hello: always(reset), sslRequest: mute, plaintext: mute})
	c := temporary(server)
	c.DialAddress = b
	r := diagnose(t, 3*time.Second, c)
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
	for _, way := range []string{
		"another network", "VPN", "CloudShell in us-east-1",
		"ssh -N -L 15432:" + publicName + ":5432 user@jump-host", `Config.DialAddress: "localhost:15432"`, "VPC endpoint",
	} {
		require.Contains(t, fmt.Sprint(r.Remedies), way)
	}

	// The way round that it names works: a tunnel that the box does not see into.
	c.DialAddress = newBox(t, server, box{})
	requireVerdict(t, dsqldoctor.VerdictOK, diagnose(t, 10*time.Second, c))
}

func TestDiagnoseInspection(t *testing.T) {
	t.Parallel() // it waits, mostly
	s := dsqltest.New(t)
	large := func(hello []byte) act {
		if len(hello) > 1400 {
			return reset
		}
		return pass
	}
	named := func(hello []byte) act {
		if bytes.Contains(hello, []byte(".on.aws")) {
			return reset
		}
		return pass
	}
	for name, test := range map[string]struct {
		box         box
		negotiation string
		want        dsqldoctor.Verdict
		says        string
	}{
		"both ways":              {box{hello: always(reset)}, "", dsqldoctor.VerdictInspection, "deep packet inspection"},
		"both ways, in silence":  {box{hello: always(mute)}, "", dsqldoctor.VerdictInspection, "deep packet inspection"},
		"both ways, hung up":     {box{hello: always(hangUp), plaintext: mute}, "postgres", dsqldoctor.VerdictInspection, "deep packet inspection"},
		"by name":                {box{hello: named}, "", dsqldoctor.VerdictInspection, "inspection by server name"},
		"by size":                {box{hello: large}, "", dsqldoctor.VerdictInspectionKeyExchange, "GODEBUG=tlsmlkem=0"},
		"SSLRequest only":        {box{sslRequest: reset}, "postgres", dsqldoctor.VerdictInspectionSSLRequest, `SSLNegotiation: "direct"`},
		"SSLRequest, not in use": {box{sslRequest: mute}, "", dsqldoctor.VerdictOK, "psql before version 17"},
		"direct only":            {box{direct: reset}, "", dsqldoctor.VerdictInspectionDirect, `SSLNegotiation: "postgres"`},
		"direct, not in use":     {box{direct: reset}, "postgres", dsqldoctor.VerdictOK, "direct TLS does not work here"},
		"all silent":             {box{direct: mute, sslRequest: mute, plaintext: mute}, "", dsqldoctor.VerdictSilence, "nothing is ever said"},
		"all hung up":            {box{direct: hangUp, sslRequest: hangUp, plaintext: hangUp}, "", dsqldoctor.VerdictTunnel, "its far end is not reached"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := temporary(s)
			c.DialAddress, c.SSLNegotiation = newBox(t, s, test.box), test.negotiation
			r := diagnose(t, 4*time.Second, c)
			requireVerdict(t, test.want, r)
			require.Contains(t, r.String(), test.says)
		})
	}
}

// A proxy opens TLS with an authority of its own, or one that is known and answers in its own way.
func TestDiagnoseProxyOpensTLS(t *testing.T) {
	for _, negotiation := range []string{"direct", "postgres"} {
		p := newProxy(t, "Corporate Proxy CA", publicName)
		c := temporary(server)
		c.DialAddress, c.SSLNegotiation = p.address, negotiation
		r := diagnose(t, 10*time.Second, c)
		requireVerdict(t, dsqldoctor.VerdictCertificate, r)
		require.Contains(t, r.Summary, "Corporate Proxy CA")
		require.Contains(t, r.Summary, "a proxy that opens TLS")
		require.Equal(t, dsqldoctor.StepSkipped, stepOf(t, r, "login").Result)
		require.Empty(t, p.heard(), "nothing is said to a server that is not trusted")
	}

	t.Run("the missing root", func(t *testing.T) {
		for root, says := range map[string]string{"own": "RootCAs (sslrootcert) empty", "system": "ca-certificates"} {
			p := newProxy(t, "Amazon", publicName)
			c := temporary(server)
			c.DialAddress, c.RootCAs = p.address, nil
			if root == "own" {
				c.RootCAs = x509.NewCertPool()
			}
			r := diagnose(t, 10*time.Second, c)
			requireVerdict(t, dsqldoctor.VerdictCertificate, r)
			require.Contains(t, r.Summary, "lack Amazon Root CA 1")
			require.Contains(t, fmt.Sprint(r.Remedies), says)
		}
	})

	t.Run("another name", func(t *testing.T) {
		p := newProxy(t, "Amazon", "*.dsql.eu-west-1.on.aws")
		c := temporary(server)
		c.DialAddress, c.RootCAs = p.address, p.roots
		r := diagnose(t, 10*time.Second, c)
		requireVerdict(t, dsqldoctor.VerdictCertificate, r)
		require.Contains(t, r.Summary, "not for "+publicName+", but for *.dsql.eu-west-1.on.aws")
	})

	t.Run("it is trusted and tells the token", func(t *testing.T) {
		p := newProxy(t, "Corporate Proxy CA", publicName)
		c := temporary(server)
		c.DialAddress, c.RootCAs = p.address, p.roots
		r := diagnose(t, 10*time.Second, c)
		requireVerdict(t, dsqldoctor.VerdictRefused, r)
		require.Contains(t, p.heard(), "X-Amz-Signature", "the answer holds it")
		require.Contains(t, stepOf(t, r, "login").Seen, "your password is [hidden]")
	})
}

func TestDiagnosePort(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	closed := l.Addr().String()
	require.NoError(t, l.Close())

	c := temporary(server)
	c.DialAddress = closed
	r := diagnose(t, 3*time.Second, c)
	requireVerdict(t, dsqldoctor.VerdictPort, r)
	require.Contains(t, r.Summary, "near end of a tunnel")
	require.Contains(t, fmt.Sprint(r.Remedies), "ssh -N -L 15432:"+publicName+":5432")

	// The same by a name, of which a DialFunc knows where it leads.
	c.DialAddress = ""
	c.DialFunc = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, closed)
	}
	r = diagnose(t, 3*time.Second, c)
	requireVerdict(t, dsqldoctor.VerdictPort, r)
	require.Contains(t, r.Summary, "The port is closed: "+publicName+":5432")

	t.Run("PostgreSQL without TLS", func(t *testing.T) {
		c := temporary(server)
		c.DialAddress = plainPostgres(t)
		r := diagnose(t, 3*time.Second, c)
		requireVerdict(t, dsqldoctor.VerdictOtherServer, r)
		require.Contains(t, r.Summary, "PostgreSQL server that does without TLS")
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
		"no such name":        {func(uint16) (byte, []netip.Addr) { return 3, nil }, publicName, dsqldoctor.VerdictDNS, []string{"does not resolve", "aws dsql get-cluster"}},
		"private DNS is off":  {func(uint16) (byte, []netip.Addr) { return 3, nil }, privateName, dsqldoctor.VerdictDNS, []string{"--private-dns-enabled", `vpce-….dsql-fnh4.us-east-1.vpce.amazonaws.com`, reportID}},
		"no addresses":        {func(uint16) (byte, []netip.Addr) { return 0, nil }, publicName, dsqldoctor.VerdictDNS, []string{"does not resolve"}},
		"the server fails":    {func(uint16) (byte, []netip.Addr) { return 2, nil }, publicName, dsqldoctor.VerdictDNS, []string{"The resolver does not answer"}},
		"the server is quiet": {nil, publicName, dsqldoctor.VerdictDNS, []string{"The resolver does not answer"}},
	} {
		t.Run(name, func(t *testing.T) {
			nettest.NameServer(t, test.answer)
			c := temporary(server)
			c.Host, c.DialAddress = test.host, ""
			r := diagnose(t, 3*time.Second, c)
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
		r := diagnose(t, 10*time.Second, c)
		requireVerdict(t, dsqldoctor.VerdictOK, r)
		require.Equal(t, "db.example.com is 127.0.0.1 (this host)", stepOf(t, r, "dns").Seen)
	})
}

// However little time there is, and whatever does not heed its context: every step is reported, in time.
func TestDiagnoseDeadline(t *testing.T) {
	blocked := make(chan struct{})
	defer close(blocked)
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	c := temporary(server)
	c.DialFunc = func(context.Context, string, string) (net.Conn, error) {
		<-blocked
		return nil, errors.New("too late")
	}
	r := diagnose(t, time.Second, c)
	requireVerdict(t, dsqldoctor.VerdictPort, r)

	c = temporary(server)
	c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		<-blocked
		return aws.Credentials{}, nil
	})
	r = diagnose(t, 2*time.Second, c)
	requireVerdict(t, dsqldoctor.VerdictCredentials, r)
	require.Equal(t, dsqldoctor.StepOK, stepOf(t, r, "startup").Result)

	r = dsqldoctor.Diagnose(ended, temporary(server), nil)
	requireVerdict(t, dsqldoctor.VerdictIncomplete, r)
	require.Len(t, r.Steps, len(everyStep))
	for _, s := range r.Steps {
		require.Equal(t, "no time left", s.Seen, s.Name)
	}

	// The context ends on the way.
	s := dsqltest.New(t, dsqltest.WithFaults(dsqltest.Always(dsqltest.Fault{Phase: dsqltest.OnAccept, Effect: dsqltest.Silence})))
	c = temporary(s)
	ctx, cancel := context.WithCancel(t.Context())
	began := time.Now()
	r = dsqldoctor.Diagnose(ctx, c, func(s dsqldoctor.Step) {
		if strings.HasPrefix(s.Name, "tcp") {
			cancel()
		}
	})
	require.Less(t, time.Since(began), 5*time.Second)
	requireVerdict(t, dsqldoctor.VerdictIncomplete, r)
	require.Equal(t, "no time left", stepOf(t, r, "tls direct").Seen)
}

func TestStepString(t *testing.T) {
	for want, s := range map[string]dsqldoctor.Step{
		"ok       tls direct                   83ms  TLS 1.3":                     {Name: "tls direct", Result: dsqldoctor.StepOK, Took: 83 * time.Millisecond, Seen: "TLS 1.3"},
		"note     plaintext                    1.5s  no answer; there is silence": {Name: "plaintext", Result: dsqldoctor.StepNote, Took: 1500 * time.Millisecond, Seen: "no answer", Means: "there is silence"},
	} {
		require.Equal(t, want, s.String())
	}
}

// act is what a box does to a connection.
type act int

const (
	pass act = iota
	reset
	hangUp
	mute
)

// box is a middlebox in front of a server: it decides when it has seen how a connection begins.
type box struct {
	hello      func(hello []byte) act // on every ClientHello that the next two let through; nil: pass
	direct     act                    // on a ClientHello that comes first
	sslRequest act
	plaintext  act
}

func always(a act) func([]byte) act { return func([]byte) act { return a } }

func newBox(t *testing.T, s *dsqltest.Server, b box) (address string) {
	return nettest.Listen(t, func(conn *net.TCPConn) { b.serve(conn, s.Addr()) })
}

func (b box) serve(conn *net.TCPConn, upstream string) {
	up, err := net.Dial("tcp", upstream)
	if err != nil {
		return
	}
	defer up.Close()
	r := bufio.NewReaderSize(conn, 64<<10)
	for first := true; ; first = false {
		what, err := b.decide(r, first)
		if err != nil {
			return
		}
		switch what {
		case reset:
			_ = conn.SetLinger(0)
			return
		case hangUp:
			return
		case mute:
			_, _ = io.Copy(io.Discard, r)
			return
		}
		if head, _ := r.Peek(8); !isSSLRequest(head) {
			break
		}
		if _, err := io.CopyN(up, r, 8); err != nil {
			return
		}
		if _, err := io.CopyN(conn, up, 1); err != nil {
			return
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(conn, up)
		_ = conn.CloseWrite()
	}()
	_, _ = io.Copy(up, r)
	up.Close()
	<-done
}

func (b box) decide(r *bufio.Reader, first bool) (act, error) {
	head, err := r.Peek(8)
	if err != nil {
		return 0, err
	}
	switch {
	case head[0] == 0x16:
		if first && b.direct != pass {
			return b.direct, nil
		}
		hello, err := r.Peek(5 + int(binary.BigEndian.Uint16(head[3:])))
		if err != nil || b.hello == nil {
			return pass, err
		}
		return b.hello(hello), nil
	case isSSLRequest(head):
		return b.sslRequest, nil
	}
	return b.plaintext, nil
}

func isSSLRequest(head []byte) bool { return binary.BigEndian.Uint32(head[4:]) == 80877103 }

// proxy ends TLS itself, with a certificate of its own authority, asks for the password and tells it back.
type proxy struct {
	address string
	roots   *x509.CertPool
	mu      sync.Mutex
	said    bytes.Buffer
}

func (p *proxy) heard() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.said.String()
}

func newProxy(t *testing.T, authority string, names ...string) *proxy {
	certificate, roots := nettest.Issue(t, authority, names...)
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"postgresql"}}
	p := &proxy{roots: roots}
	p.address = nettest.Listen(t, func(conn *net.TCPConn) { p.serve(conn, config) })
	return p
}

func (p *proxy) serve(raw *net.TCPConn, config *tls.Config) {
	r := bufio.NewReader(raw)
	head, err := r.Peek(8)
	if err != nil {
		return
	}
	if head[0] != 0x16 {
		if !isSSLRequest(head) {
			return
		}
		_, _ = r.Discard(8)
		_, _ = raw.Write([]byte("S"))
	}
	conn := tls.Server(&peeked{raw, r}, config)
	backend := pgproto3.NewBackend(io.TeeReader(conn, lockedWriter{p}), conn)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return
	}
	backend.Send(&pgproto3.AuthenticationCleartextPassword{})
	_ = backend.Flush()
	_ = backend.SetAuthType(pgproto3.AuthTypeCleartextPassword)
	message, err := backend.Receive()
	if password, ok := message.(*pgproto3.PasswordMessage); ok && err == nil {
		backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "XX000", Message: "your password is " + password.Password})
		_ = backend.Flush()
		_, _ = io.Copy(io.Discard, conn)
	}
}

type peeked struct {
	net.Conn
	r io.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

type lockedWriter struct{ p *proxy }

func (w lockedWriter) Write(b []byte) (int, error) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	return w.p.said.Write(b)
}

// plainPostgres answers as a PostgreSQL without TLS does.
func plainPostgres(t *testing.T) (address string) {
	return nettest.Listen(t, func(conn *net.TCPConn) {
		backend := pgproto3.NewBackend(conn, conn)
		for {
			message, err := backend.ReceiveStartupMessage()
			if err != nil {
				return
			}
			if _, ok := message.(*pgproto3.SSLRequest); !ok {
				break
			}
			_, _ = conn.Write([]byte("N"))
		}
		backend.Send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}})
		_ = backend.Flush()
		_, _ = io.Copy(io.Discard, conn)
	})
}
