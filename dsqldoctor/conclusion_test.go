package dsqldoctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/internal/login"
)

// ended is the finding of a probe that ended like this in that phase.
func ended(o outcome, phase login.Phase) finding {
	f := finding{outcome: o, phase: phase, limit: time.Second}
	if o != outcomeOK {
		f.err = errors.New(string(o))
	}
	return f
}

func withTLS(f finding, state *tls.ConnectionState) finding {
	f.tls = state
	return f
}

// findingsWithTLS are those of a host that gets as far as TLS, which ends as given.
func findingsWithTLS(directTLS, afterSSLRequest finding) *findings {
	return &findings{
		target:    ReportTarget{DialAddress: "198.51.100.7:5432", ServerName: "id.dsql.us-east-1.on.aws", Region: "us-east-1", ClusterID: "id", User: adminUser},
		directTLS: true, credentials: ended(outcomeOK, ""), token: ended(outcomeOK, ""),
		tcp:       []tcpFinding{{"198.51.100.7:5432", ended(outcomeOK, login.PhaseDial)}},
		tls:       [2]tlsFindings{direct: {usual: directTLS}, sslRequest: {usual: afterSSLRequest}},
		plaintext: ended(outcomeTimeout, login.PhaseLogin),
	}
}

// healthyFindings are those of a connection that works.
func healthyFindings() *findings {
	f := findingsWithTLS(ended(outcomeOK, login.PhaseTLS), ended(outcomeOK, login.PhaseTLS))
	f.startup, f.login, f.query = ended(outcomeOK, login.PhaseLogin), ended(outcomeOK, login.PhaseLogin), ended(outcomeOK, phaseQuery)
	return f
}

// refusedFindings are those of a login that the server refuses.
func refusedFindings(refused *pgconn.PgError) *findings {
	f := healthyFindings()
	f.login, f.query = newFinding(login.PhaseLogin, refused), finding{}
	return f
}

// concludeTest is a row of a table: the findings, a change to them, the verdict, and a part of what
// the conclusion says.
type concludeTest struct {
	findings *findings
	change   func(*findings)
	want     Verdict
	says     string
}

func testConclude(t *testing.T, tests map[string]concludeTest) {
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			if test.change != nil {
				test.change(test.findings)
			}
			c := test.findings.conclude()
			require.Equal(t, test.want, c.verdict, c)
			require.Contains(t, c.summary+strings.Join(c.evidence, "\n")+strings.Join(c.remedies, "\n"), test.says)
		})
	}
}

func TestConclude(t *testing.T) {
	noTime := finding{skipped: noTimeLeft}
	reset := ended(outcomeReset, login.PhaseTLS)
	testConclude(t, map[string]concludeTest{
		"healthy":                  {healthyFindings(), nil, VerdictOK, "Everything works"},
		"clock off by two minutes": {healthyFindings(), func(f *findings) { f.clockOffset = -2 * time.Minute }, VerdictOK, "wrong by 2m0s"},
		"nothing tried":            {&findings{}, nil, VerdictIncomplete, "more time"},
		"no time for TLS":          {findingsWithTLS(noTime, noTime), nil, VerdictIncomplete, "more time"},
		"no time for the login":    {healthyFindings(), func(f *findings) { f.login, f.query = noTime, noTime }, VerdictIncomplete, "more time"},
		"STS does not answer": {healthyFindings(), func(f *findings) {
			f.credentials, f.assumedRole = finding{outcome: outcomeTimeout, err: context.DeadlineExceeded}, "arn:aws:iam::1:role/r"
		}, VerdictCredentials, "The role arn:aws:iam::1:role/r cannot be assumed"},
		"two problems": {findingsWithTLS(reset, reset), func(f *findings) {
			f.credentials, f.token = ended(outcomeFailed, ""), finding{}
		}, VerdictCredentials, "besides: The network allows TCP"},
	})
}

func TestConcludeTLS(t *testing.T) {
	var (
		ok        = ended(outcomeOK, login.PhaseTLS)
		reset     = ended(outcomeReset, login.PhaseTLS)
		alert     = ended(outcomeTLSAlert, login.PhaseTLS)
		timeout   = ended(outcomeTimeout, login.PhaseTLS)
		noAnswer  = ended(outcomeTimeout, login.PhaseSSLRequest)
		cut       = ended(outcomeReset, login.PhaseSSLRequest)
		handshake = &tls.ConnectionState{}
	)
	testConclude(t, map[string]concludeTest{
		"every ClientHello is reset": {findingsWithTLS(reset, reset), nil, VerdictInspection, "deep packet inspection"},
		"all connections are reset": {findingsWithTLS(reset, cut), func(f *findings) {
			f.plaintext = ended(outcomeReset, login.PhaseLogin)
		}, VerdictInspection, "deep packet inspection"},
		"all connections to this host are reset": {findingsWithTLS(reset, cut), func(f *findings) {
			f.plaintext, f.target.DialAddress = ended(outcomeReset, login.PhaseLogin), "127.0.0.1:15432"
		}, VerdictTunnel, "ssh -N -L 15432:id.dsql.us-east-1.on.aws:5432"},
		"no byte comes back":                      {findingsWithTLS(timeout, noAnswer), nil, VerdictSilence, "never answers"},
		"the SSLRequest alone is answered":        {findingsWithTLS(timeout, timeout), nil, VerdictInspection, "deep packet inspection"},
		"another SNI works":                       {findingsWithTLS(reset, reset), func(f *findings) { f.tls[direct].noSNI = withTLS(reset, handshake) }, VerdictInspection, "server name"},
		"a small ClientHello works":               {findingsWithTLS(reset, reset), func(f *findings) { f.tls[sslRequest].smallHello = withTLS(ok, handshake) }, VerdictInspectionKeyExchange, "GODEBUG"},
		"the alert is about the name":             {findingsWithTLS(alert, alert), func(f *findings) { f.tls[direct].usual.err = errors.New("remote error: tls: unrecognized name") }, VerdictSNI, "rejects the server name"},
		"another alert":                           {findingsWithTLS(alert, alert), nil, VerdictRefused, "rejects the TLS handshake"},
		"direct TLS works, SSLRequest configured": {findingsWithTLS(ok, reset), func(f *findings) { f.directTLS = false }, VerdictInspectionSSLRequest, `"direct"`},
		"SSLRequest works, direct TLS configured": {findingsWithTLS(reset, ok), nil, VerdictInspectionDirect, `"postgres"`},
		"an answer that is not TLS":               {findingsWithTLS(ended(outcomeNotTLS, login.PhaseTLS), reset), nil, VerdictOtherServer, "is not DSQL"},
		"a session without TLS":                   {findingsWithTLS(reset, reset), func(f *findings) { f.plaintext = ended(outcomeOK, login.PhaseLogin) }, VerdictOtherServer, "without TLS"},
	})
}

func TestConcludeCertificate(t *testing.T) {
	issuedBy := func(issuer string, err error) finding {
		leaf := &x509.Certificate{Issuer: pkix.Name{Organization: []string{issuer}}, DNSNames: []string{"*.dsql.us-east-1.on.aws"}}
		f := withTLS(ended(outcomeBadCertificate, login.PhaseTLS), &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}})
		f.err = err
		return f
	}
	unknown := x509.UnknownAuthorityError{}
	amazon, corporate := issuedBy("Amazon", unknown), issuedBy("Corp", unknown)
	expired := issuedBy("Amazon", x509.CertificateInvalidError{Reason: x509.Expired, Cert: &x509.Certificate{}})
	reset := ended(outcomeReset, login.PhaseTLS)
	testConclude(t, map[string]concludeTest{
		"the root is missing":                {findingsWithTLS(amazon, amazon), nil, VerdictCertificate, "ca-certificates"},
		"the root is missing in RootCAs":     {findingsWithTLS(amazon, amazon), func(f *findings) { f.ownRoots = true }, VerdictCertificate, "Leave Config.RootCAs"},
		"the system has no roots":            {findingsWithTLS(amazon, amazon), func(f *findings) { f.noSystemRoots = true }, VerdictCertificate, "x509roots/fallback"},
		"a proxy's certificate":              {findingsWithTLS(corporate, corporate), nil, VerdictCertificate, "issued by O=Corp"},
		"a proxy's, after a SSLRequest only": {findingsWithTLS(reset, corporate), nil, VerdictCertificate, "issued by O=Corp"},
		"expired":                            {findingsWithTLS(expired, expired), nil, VerdictCertificate, "timedatectl"},
	})
}

func TestConcludeRefusal(t *testing.T) {
	denied := func(hint string) *pgconn.PgError {
		return &pgconn.PgError{Severity: "FATAL", Code: "08006", Message: "unable to accept connection, access denied", Hint: hint}
	}
	testConclude(t, map[string]concludeTest{
		"expired token": {refusedFindings(denied("Signature expired: 20200101T000000Z is now earlier than 20200101T001500Z")), nil, VerdictClock, "ahead of the server's"},
		"token kind":    {refusedFindings(denied("Wrong user to action mapping. user: app, action: DbConnectAdmin")), nil, VerdictTokenKind, "Config.User"},
		"access": {refusedFindings(denied("")), func(f *findings) {
			f.target.User, f.assumedRole = `a"b`, "arn:aws:iam::1:role/r"
		}, VerdictAccess, `AWS IAM GRANT "a""b" TO 'arn:aws:iam::1:role/r'`},
		"access in China": {refusedFindings(denied("")), func(f *findings) { f.target.Region = "cn-north-1" }, VerdictAccess, "arn:aws-cn:dsql:cn-north-1"},
		"no answer to the query": {healthyFindings(), func(f *findings) {
			f.query = ended(outcomeTimeout, phaseQuery)
		}, VerdictSilence, "first query"},
	})
}

// Whatever ends TLS, a startup without it, and the login: there is a verdict with a summary and a
// remedy, and it is never ok.
func TestConcludeEveryCombination(t *testing.T) {
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}
	handshakeEnded := func(o outcome) finding {
		f := ended(o, login.PhaseTLS)
		if o == outcomeBadCertificate {
			f = withTLS(f, state)
		}
		return f
	}
	outcomes := []outcome{
		outcomeNone, outcomeOK, outcomeTimeout, outcomeReset, outcomeClosed, outcomePortClosed, outcomeNoRoute, outcomeResolverFailed,
		outcomeBadCertificate, outcomeTLSAlert, outcomeNotTLS, outcomeNotDSQL, outcomeRefused, outcomeFailed,
	}
	seen := map[Verdict]bool{}
	for _, directTLS := range outcomes {
		for _, afterSSLRequest := range outcomes {
			for _, plaintext := range outcomes {
				for _, address := range []string{"198.51.100.7:5432", "127.0.0.1:15432"} {
					f := findingsWithTLS(handshakeEnded(directTLS), handshakeEnded(afterSSLRequest))
					f.plaintext, f.target.DialAddress = ended(plaintext, login.PhaseLogin), address
					if plaintext != outcomeOK {
						f.startup, f.login = ended(afterSSLRequest, login.PhaseLogin), ended(plaintext, login.PhaseLogin)
					}
					c := f.conclude()
					require.NotContains(t, []Verdict{"", VerdictOK}, c.verdict, "%s %s %s", directTLS, afterSSLRequest, plaintext)
					require.NotEmpty(t, c.summary)
					require.NotEmpty(t, c.remedies)
					seen[c.verdict] = true
				}
			}
		}
	}
	require.GreaterOrEqual(t, len(seen), 7, seen)
}
