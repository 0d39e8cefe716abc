package dsqldoctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/internal/login"
)

func TestEndingOf(t *testing.T) {
	for want, errs := range map[ending][]error{
		endGood:        {nil},
		endSilent:      {context.DeadlineExceeded, os.ErrDeadlineExceeded, &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, syscall.ETIMEDOUT},
		endReset:       {&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, syscall.EPIPE, syscall.Errno(10054)},
		endClosed:      {io.EOF, fmt.Errorf("reading: %w", io.ErrUnexpectedEOF)},
		endRefusedPort: {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, syscall.Errno(10061)},
		endUnreachable: {syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.Errno(10051)},
		endUnknownName: {&net.DNSError{IsNotFound: true}},
		endUnresolved:  {&net.DNSError{IsTimeout: true}, &net.DNSError{IsTemporary: true}},
		endUntrusted:   {&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}},
		endAlert:       {&net.OpError{Op: "remote error", Err: errors.New("tls: unrecognized name")}},
		endNotTLS:      {tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, fmt.Errorf("%w: the answer is 'N'", login.ErrNoTLS)},
		endOtherServer: {fmt.Errorf("%w: SCRAM", login.ErrProtocol)},
		endRefusal:     {&pgconn.PgError{Code: "28000"}},
		endBroken:      {errors.New("anything"), context.Canceled},
	} {
		for _, err := range errs {
			require.Equal(t, want, endingOf(err), "%v", err)
		}
	}
}

// at is a finding of a probe that ended so in that phase.
func at(p login.Phase, e ending) finding {
	f := finding{ending: e, phase: p, limit: time.Second}
	if e != endGood {
		f.err = errors.New(string(e))
	}
	return f
}

func withTLS(f finding, state *tls.ConnectionState) finding {
	f.tls = state
	return f
}

// through are findings up to TCP, with TLS by both ways ending as given.
func through(d, c finding) *findings {
	return &findings{
		target: ReportTarget{DialAddress: "198.51.100.7:5432", ServerName: "id.dsql.us-east-1.on.aws", Region: "us-east-1", ClusterID: "id", User: adminUser},
		direct: true, credentials: at("", endGood), token: at("", endGood),
		tcp:       []tcpFinding{{"198.51.100.7:5432", at(login.PhaseDial, endGood)}},
		tls:       [2]tlsFindings{direct: {derived: d}, classic: {derived: c}},
		plaintext: at(login.PhaseLogin, endSilent),
	}
}

func TestJudge(t *testing.T) {
	fine := func() *findings {
		f := through(at(login.PhaseTLS, endGood), at(login.PhaseTLS, endGood))
		f.startup, f.login, f.query = at(login.PhaseLogin, endGood), at(login.PhaseLogin, endGood), at(phaseQuery, endGood)
		return f
	}
	refused := func(code, message, hint string) *findings {
		f := fine()
		f.login, f.query = found(login.PhaseLogin, &pgconn.PgError{Code: code, Message: message, Hint: hint}), finding{}
		return f
	}
	certificate := func(issuer string, err error) *findings {
		leaf := &x509.Certificate{Issuer: pkix.Name{Organization: []string{issuer}}, DNSNames: []string{"*.dsql.us-east-1.on.aws"}}
		f := withTLS(at(login.PhaseTLS, endUntrusted), &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}})
		f.err = err
		return through(f, f)
	}
	state := &tls.ConnectionState{}
	reset := at(login.PhaseTLS, endReset)
	for name, test := range map[string]struct {
		findings *findings
		change   func(*findings)
		want     Verdict
		says     string
	}{
		"fine":                     {fine(), nil, VerdictOK, "Everything works"},
		"clock off by two minutes": {fine(), func(f *findings) { f.skew = -2 * time.Minute }, VerdictOK, "off by 2m0s"},
		"nothing tried":            {&findings{}, nil, VerdictIncomplete, "more time"},
		"no time for TLS":          {through(finding{none: noTime}, finding{none: noTime}), nil, VerdictIncomplete, "before it could tell"},
		"no time for login":        {fine(), func(f *findings) { f.login, f.query = finding{none: noTime}, finding{none: noTime} }, VerdictIncomplete, "before it could tell"},

		"reset, from afar":        {through(reset, at(login.PhaseTLS, endReset)), nil, VerdictInspection, "deep packet inspection"},
		"all hung up, far away":   {through(reset, at(login.PhaseSSLRequest, endReset)), func(f *findings) { f.plaintext = at(login.PhaseLogin, endReset) }, VerdictInspection, "deep packet inspection"},
		"all hung up, nearby":     {through(reset, at(login.PhaseSSLRequest, endReset)), func(f *findings) { f.plaintext = at(login.PhaseLogin, endReset); f.tunnel = true }, VerdictTunnel, "ssh -N -L 15432:198.51.100.7:5432"},
		"silence":                 {through(at(login.PhaseTLS, endSilent), at(login.PhaseSSLRequest, endSilent)), nil, VerdictSilence, "nothing is ever said"},
		"silence after the S":     {through(at(login.PhaseTLS, endSilent), at(login.PhaseTLS, endSilent)), nil, VerdictInspection, "deep packet inspection"},
		"the name passes not":     {through(reset, reset), func(f *findings) { f.tls[direct].without = withTLS(at(login.PhaseTLS, endUntrusted), state) }, VerdictInspection, "server name"},
		"the size passes not":     {through(reset, reset), func(f *findings) { f.tls[classic].small = withTLS(at(login.PhaseTLS, endGood), state) }, VerdictInspectionKeyExchange, "GODEBUG"},
		"the name is turned down": {through(at(login.PhaseTLS, endAlert), at(login.PhaseTLS, endAlert)), func(f *findings) { f.tls[direct].derived.err = errors.New("remote error: tls: unrecognized name") }, VerdictSNI, "turns down the server name"},
		"any other alert":         {through(at(login.PhaseTLS, endAlert), at(login.PhaseTLS, endAlert)), nil, VerdictRefused, "turned down"},
		"direct only":             {through(at(login.PhaseTLS, endGood), reset), func(f *findings) { f.direct = false }, VerdictInspectionSSLRequest, `"direct"`},
		"SSLRequest only":         {through(reset, at(login.PhaseTLS, endGood)), nil, VerdictInspectionDirect, `"postgres"`},

		"the root":  {certificate("Amazon", x509.UnknownAuthorityError{}), nil, VerdictCertificate, "ca-certificates"},
		"own roots": {certificate("Amazon", x509.UnknownAuthorityError{}), func(f *findings) { f.ownRoots = true }, VerdictCertificate, "Leave Config.RootCAs"},
		"a proxy":   {certificate("Corp", x509.UnknownAuthorityError{}), nil, VerdictCertificate, "issued by O=Corp"},
		"expired":   {certificate("Amazon", x509.CertificateInvalidError{Reason: x509.Expired, Cert: &x509.Certificate{}}), nil, VerdictCertificate, "timedatectl"},
		"one way":   {certificate("Corp", x509.UnknownAuthorityError{}), func(f *findings) { f.tls[direct].derived = reset }, VerdictCertificate, "issued by O=Corp"},

		"expired token": {refused("28000", "unable to accept connection, access denied", "Signature expired: 20200101T000000Z is now earlier than 20200101T001500Z"), nil, VerdictClock, "ahead of the server's"},
		"token kind":    {refused("28000", "unable to accept connection, access denied", "Wrong user to action mapping. user: app, action: DbConnectAdmin"), nil, VerdictTokenKind, "Config.User"},
		"access":        {refused("28000", "unable to accept connection, access denied", ""), func(f *findings) { f.target.User = `a"b`; f.roleARN = "arn:aws:iam::1:role/r" }, VerdictAccess, `AWS IAM GRANT "a""b" TO 'arn:aws:iam::1:role/r'`},
		"China":         {refused("28000", "unable to accept connection, access denied", ""), func(f *findings) { f.target.Region = "cn-north-1" }, VerdictAccess, "arn:aws-cn:dsql:cn-north-1"},
		"the query":     {fine(), func(f *findings) { f.query = at(phaseQuery, endSilent) }, VerdictSilence, "first query"},

		"a role, and silence": {fine(), func(f *findings) {
			f.credentials, f.roleARN = finding{ending: endSilent, err: context.DeadlineExceeded}, "arn:aws:iam::1:role/r"
		}, VerdictCredentials, "The role arn:aws:iam::1:role/r cannot be assumed"},
		"two things at once": {through(reset, reset), func(f *findings) { f.credentials = at("", endBroken); f.token = finding{} }, VerdictCredentials, "besides: The network lets TCP through"},
	} {
		t.Run(name, func(t *testing.T) {
			if test.change != nil {
				test.change(test.findings)
			}
			r := test.findings.judge()
			require.Equal(t, test.want, r.verdict, r)
			require.Contains(t, r.summary+strings.Join(r.evidence, "\n")+strings.Join(r.remedies, "\n"), test.says)
		})
	}
}

// Whatever is seen of TLS: a verdict with something to say, and "ok" never.
func TestJudgeEveryPattern(t *testing.T) {
	state := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{{}}}
	endings := []ending{endUntried, endGood, endSilent, endReset, endClosed, endRefusedPort, endUnreachable, endUnresolved, endUntrusted, endAlert, endNotTLS, endOtherServer, endRefusal, endBroken}
	one := func(e ending) finding {
		f := at(login.PhaseTLS, e)
		if e == endUntrusted {
			f = withTLS(f, state)
		}
		return f
	}
	seen := map[Verdict]bool{}
	for _, d := range endings {
		for _, c := range endings {
			for _, p := range endings {
				for _, tunnel := range []bool{false, true} {
					f := through(one(d), one(c))
					f.plaintext, f.tunnel = at(login.PhaseLogin, p), tunnel
					if p != endGood {
						f.startup, f.login = at(login.PhaseLogin, c), at(login.PhaseLogin, p)
					}
					r := f.judge()
					require.NotContains(t, []Verdict{"", VerdictOK}, r.verdict, "%s %s %s", d, c, p)
					require.NotEmpty(t, r.summary)
					require.NotEmpty(t, r.remedies)
					seen[r.verdict] = true
				}
			}
		}
	}
	require.GreaterOrEqual(t, len(seen), 7, seen)
}
