package dsqldoctor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqldoctor"
	"github.com/dsqlgo/dsql/dsqltest"
)

// The server, or the network in front of it, breaks the connection. TestDiagnoseInspection has the
// faults that strike several probes at once with silence.
func TestDiagnoseFaults(t *testing.T) {
	s := dsqltest.New(t)
	timeOutWhenSilent(t, s)
	fault := func(p dsqltest.Phase, e dsqltest.Effect) dsqltest.Fault { return dsqltest.Fault{Phase: p, Effect: e} }
	for _, test := range []struct {
		fault       dsqltest.Fault
		negotiation string
		want        dsqldoctor.Verdict
	}{
		{fault(dsqltest.OnClientHello, dsqltest.Reset), "", dsqldoctor.VerdictInspection},
		{fault(dsqltest.OnClientHello, dsqltest.HangUp), "", dsqldoctor.VerdictInspection},
		{fault(dsqltest.OnSSLRequest, dsqltest.Reset), "postgres", dsqldoctor.VerdictInspectionSSLRequest},
		{fault(dsqltest.OnSSLRequest, dsqltest.Reset), "", dsqldoctor.VerdictOK},
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
			r := diagnose(t, c)
			requireVerdict(t, test.want, r)
			if test.want == dsqldoctor.VerdictInspectionSSLRequest {
				require.Contains(t, fmt.Sprint(r.Remedies), `SSLNegotiation: "direct"`)
				require.Equal(t, dsqldoctor.StepOK, stepOf(t, r, "login").Result, "by direct TLS")
			}
		})
	}
}

// What a refusal says is in the report: what denies access, and the session ID for AWS Support.
func TestDiagnoseRefusalDetails(t *testing.T) {
	const user = "User: arn:aws:iam::123456789012:user/app is not authorized to "
	for name, test := range map[string]struct {
		response pgproto3.ErrorResponse
		want     dsqldoctor.Verdict
		remedies []string // in their order
	}{
		"identity policy": {
			pgproto3.ErrorResponse{Code: "08006", Message: accessDenied, Hint: user + "perform: dsql:DbConnect on resource: arn:aws:dsql:us-east-1:123456789012:cluster/" + reportID},
			dsqldoctor.VerdictAccess, []string{`"Action": "dsql:DbConnect"`, "aws dsql get-cluster-policy --identifier " + reportID, "AWS IAM GRANT", "InvalidClientTokenId"},
		},
		"resource-based policy": {
			pgproto3.ErrorResponse{Code: "08006", Message: accessDenied, Hint: user + "access this resource"},
			dsqldoctor.VerdictAccess, []string{"AWS IAM GRANT", `"Action": "dsql:DbConnect"`, "aws:SourceVpc", "InvalidClientTokenId"},
		},
		"rotated key": {
			pgproto3.ErrorResponse{Code: "08006", Message: accessDenied},
			dsqldoctor.VerdictAccess, []string{"InvalidClientTokenId, the key was rotated", `"Action": "dsql:DbConnect"`, "aws dsql get-cluster-policy", "AWS IAM GRANT"},
		},
		"unavailable":   {pgproto3.ErrorResponse{Code: "XX000", Message: "server unavailable"}, dsqldoctor.VerdictUnavailable, []string{"Try again", "Session Id: 0123abcd"}},
		"another error": {pgproto3.ErrorResponse{Code: "58000", Message: "out of luck"}, dsqldoctor.VerdictRefused, []string{"Session Id: 0123abcd"}},
	} {
		t.Run(name, func(t *testing.T) {
			response := test.response
			response.Severity, response.Detail = "FATAL", "Session Id: 0123abcd"
			s := newFakeServer(t, func(_, token string) *pgproto3.ErrorResponse {
				if token == "" {
					return nil
				}
				return &response
			}, publicName)
			c := temporary(server)
			c.User, c.DialAddress, c.RootCAs = "app", s.address, s.roots
			r := diagnose(t, c)
			requireVerdict(t, test.want, r)
			require.Contains(t, fmt.Sprint(r.Evidence), "(DETAIL: Session Id: 0123abcd)")
			remedies := fmt.Sprint(r.Remedies)
			for _, remedy := range test.remedies {
				_, rest, ok := strings.Cut(remedies, remedy)
				require.True(t, ok, "%s: %s", remedy, r)
				remedies = rest
			}
			if test.want == dsqldoctor.VerdictAccess {
				require.Contains(t, fmt.Sprint(r.Evidence), "signed with credentials from StaticCredentials, key …LE12, temporary")
			}
		})
	}
}

// The server refuses the login.
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
			want: dsqldoctor.VerdictAccess, remedy: "InvalidClientTokenId, the key was rotated",
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
				require.Contains(t, fmt.Sprint(r.Evidence), "besides: The cluster was idle", "the startup was tested without a token")
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
		"unavailable":   {arrange: refuse(dsqltest.RefuseUnavailable), want: dsqldoctor.VerdictUnavailable, remedy: "It has what they ask for: Session Id: "},
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
			r := diagnose(t, c)
			requireVerdict(t, test.want, r)
			require.Contains(t, fmt.Sprint(r.Remedies), test.remedy)
			if test.check != nil {
				test.check(t, r)
			}
		})
	}
}
