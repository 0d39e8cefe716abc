package dsqldoctor_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqldoctor"
	"github.com/dsqlgo/dsql/dsqltest"
)

const (
	diagnoseKey          = "ASIADIAGNOSEXAMPLE12"
	diagnoseSessionToken = "IQoJb3JpZ2luX2VjEDIAGNOSE/+=SESSION"
)

// temporary returns the Config of s, with credentials that have every secret part.
func temporary(s *dsqltest.Server) dsql.Config {
	secret := s.Credentials().SecretAccessKey
	s.AllowKey(diagnoseKey, secret, diagnoseSessionToken)
	c := s.Config()
	c.Credentials = credentials.NewStaticCredentialsProvider(diagnoseKey, secret, diagnoseSessionToken)
	return c
}

// everyStep are the steps of every report, in their order.
var everyStep = []string{"configuration", "credentials", "token", "dns", "tcp", "tls direct", "tls after SSLRequest", "plaintext", "websocket", "startup", "login", "query", "clock", "early auth"}

var looksSigned = regexp.MustCompile(`X-Amz-Signature=[0-9a-f]|[0-9a-f]{64}|X-Amz-Security-Token=[^\[]`)

// diagnose runs Diagnose and checks what holds for every report.
func diagnose(t *testing.T, c dsql.Config) *dsqldoctor.Report {
	t.Helper()
	return diagnoseWith(t, c, hooks)
}

func diagnoseWith(t *testing.T, c dsql.Config, h dsqldoctor.TestHooks) *dsqldoctor.Report {
	t.Helper()
	var steps []dsqldoctor.Step
	r := dsqldoctor.DiagnoseWith(t.Context(), c, func(s dsqldoctor.Step) { steps = append(steps, s) }, h)
	require.Less(t, r.Elapsed, 4*time.Minute, "a probe that gets no answer was not ended")

	text := r.String()

	require.Equal(t, r.Steps, steps)
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
		r := diagnose(t, c)
		requireVerdict(t, dsqldoctor.VerdictOK, r)
		for _, step := range r.Steps {
			if step.Name != "dns" && step.Name != "websocket" {
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

// A server that does not answer a startup without TLS is healthy.
func TestDiagnosePlaintextUnanswered(t *testing.T) {
	c := temporary(server)
	c.DialAddress = newMiddlebox(t, server, middlebox{plaintext: ignore})
	r := diagnose(t, c)
	requireVerdict(t, dsqldoctor.VerdictOK, r)
	require.Equal(t, dsqldoctor.StepNote, stepOf(t, r, "plaintext").Result)
}

// Probes that ignore their context do not hold up the report.
func TestDiagnoseContextIgnored(t *testing.T) {
	blocked := make(chan struct{})
	defer close(blocked)
	h := hooks
	h.Grace = 10 * time.Millisecond // after which such a probe is left behind

	c := temporary(server)
	c.DialFunc = func(ctx context.Context, _, _ string) (net.Conn, error) {
		timeOut(ctx)
		<-blocked
		return nil, errors.New("too late")
	}
	r := diagnoseWith(t, c, h)
	requireVerdict(t, dsqldoctor.VerdictPort, r)

	c = temporary(server)
	c.Credentials = aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		timeOut(ctx)
		<-blocked
		return aws.Credentials{}, nil
	})
	r = diagnoseWith(t, c, h)
	requireVerdict(t, dsqldoctor.VerdictCredentials, r)
	require.Equal(t, dsqldoctor.StepOK, stepOf(t, r, "startup").Result)
}

// A report whose time is over is complete all the same.
func TestDiagnoseContextEnds(t *testing.T) {
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	r := dsqldoctor.Diagnose(ended, temporary(server), nil)
	requireVerdict(t, dsqldoctor.VerdictIncomplete, r)
	require.Len(t, r.Steps, len(everyStep))
	for _, s := range r.Steps {
		require.Equal(t, "no time left", s.Seen, s.Name)
	}

	// It ends after the TCP connection, and then nothing answers.
	s := dsqltest.New(t, dsqltest.WithFaults(dsqltest.Always(dsqltest.Fault{Phase: dsqltest.OnAccept, Effect: dsqltest.Silence})))
	ctx, cancel := context.WithCancel(t.Context())
	r = dsqldoctor.DiagnoseWith(ctx, temporary(s), func(s dsqldoctor.Step) {
		if strings.HasPrefix(s.Name, "tcp") {
			cancel()
		}
	}, hooks)
	require.Less(t, r.Elapsed, 4*time.Minute)
	requireVerdict(t, dsqldoctor.VerdictIncomplete, r)
	require.Equal(t, "no time left", stepOf(t, r, "tls direct").Seen)
}
