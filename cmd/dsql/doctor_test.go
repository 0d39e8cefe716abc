package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqldoctor"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/internal/nettest"
)

// Every verdict has a status, and the manual says which.
func TestVerdictStatuses(t *testing.T) {
	source, err := os.ReadFile("../../dsqldoctor/verdict.go")
	require.NoError(t, err)
	declared := regexp.MustCompile(`(?m)^\tVerdict\w+ +Verdict = "([a-z0-9-]+)"`).FindAllStringSubmatch(string(source), -1)
	require.NotEmpty(t, declared)
	_, section, ok := strings.Cut(manual("doctor"), "\nEXIT STATUS\n")
	require.True(t, ok)
	section, _, _ = strings.Cut(section, "\n    2 ")
	for _, m := range declared {
		verdict := dsqldoctor.Verdict(m[1])
		require.Contains(t, verdictStatuses, verdict)
		found := regexp.MustCompile(`(?m)^    (\d+) (?:.|\n {9})*[ :]` + regexp.QuoteMeta(m[1]) + `(?:[,:\n]|$)`).FindStringSubmatch(section)
		require.NotNil(t, found, m[1])
		require.Equal(t, verdictStatuses[verdict], atoi(t, found[1]), m[1])
	}
	require.Len(t, verdictStatuses, len(declared))
}

func atoi(t *testing.T, s string) (n int) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(s), &n))
	return n
}

// The built command meets one verdict of each class.
func TestDoctorExitStatus(t *testing.T) {
	const closed = nettest.ClosedAddress

	asleep := dsqltest.New(t, dsqltest.WithWaking(1_000))
	ahead := dsqltest.New(t, dsqltest.WithClock(func() time.Time { return time.Now().Add(time.Hour) }))
	own := func(s *dsqltest.Server) (connString string, env []string) {
		ca := filepath.Join(t.TempDir(), "ca.pem")
		require.NoError(t, os.WriteFile(ca, s.CAPEM(), 0o600))
		key := s.Credentials()
		return urlOf(s, ca, "admin"), []string{"AWS_ACCESS_KEY_ID=" + key.AccessKeyID, "AWS_SECRET_ACCESS_KEY=" + key.SecretAccessKey}
	}
	asleepURL, asleepEnv := own(asleep)
	aheadURL, aheadEnv := own(ahead)

	for _, tt := range []struct {
		verdict    dsqldoctor.Verdict
		connString string
		env        []string
		status     int
	}{
		{dsqldoctor.VerdictOK, serverURL("admin"), nil, 0},
		{dsqldoctor.VerdictConfig, "dsql://nowhere", nil, 10},
		{dsqldoctor.VerdictConfig, "mysql://nowhere", nil, 10},
		{dsqldoctor.VerdictCredentials, serverURL("admin"), []string{"AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY="}, 11},
		{dsqldoctor.VerdictAccess, serverURL("nobody"), nil, 12},
		{dsqldoctor.VerdictPort, "dsql://admin@" + server.Endpoint() + "?dial_address=" + closed + "&sslrootcert=" + url.PathEscape(caPath), nil, 13},
		{dsqldoctor.VerdictCertificate, "dsql://admin@" + server.Endpoint() + "?dial_address=" + server.Addr(), nil, 14},
		{dsqldoctor.VerdictWaking, asleepURL, asleepEnv, 15},
		{dsqldoctor.VerdictClock, aheadURL, aheadEnv, 16},
	} {
		t.Run(string(tt.verdict), func(t *testing.T) {
			text := runBinary(t, tt.env, "doctor", tt.connString)
			require.Equal(t, tt.status, text.status, text.stdout+text.stderr)
			require.Contains(t, text.stdout, "verdict: "+string(tt.verdict)+"\n")
			require.Empty(t, text.stderr)
			require.NotContains(t, text.stdout, "\x1b")

			asJSON := runBinary(t, append(tt.env, "DSQL_URL="+tt.connString), "doctor", "--json")
			require.Equal(t, tt.status, asJSON.status)
			require.Empty(t, asJSON.stderr)
			var r dsqldoctor.Report
			require.NoError(t, json.Unmarshal([]byte(asJSON.stdout), &r))
			require.Equal(t, tt.verdict, r.Verdict)
			require.NotEmpty(t, r.Steps)
			for _, s := range r.Steps {
				require.Contains(t, text.stdout, s.Name)
			}
			require.Len(t, regexp.MustCompile(`(?m)^(ok|failed) +\S+ +configuration: `).FindAllString(text.stdout, -1), 1, "each step once")
			if tt.verdict != dsqldoctor.VerdictOK {
				require.NotEmpty(t, r.Summary)
				require.NotEmpty(t, r.Remedies)
			}
		})
	}
}

// An image FROM scratch has no root certificates.
func TestDoctorWithoutRoots(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the system verifies certificates itself here")
	}
	got := runBinary(t, []string{"SSL_CERT_FILE=/nonexistent", "SSL_CERT_DIR=/nonexistent"},
		"doctor", "dsql://admin@"+server.Endpoint()+"?dial_address="+server.Addr())
	require.Equal(t, exitTLS, got.status, got.stdout+got.stderr)
	require.Contains(t, got.stdout, "This host has no root certificates")
	require.Contains(t, got.stdout, "apt-get install ca-certificates")
	require.Contains(t, got.stdout, `import _ "golang.org/x/crypto/x509roots/fallback"`)
}

// lineWriter hands each write over as it is made.
type lineWriter chan string

func (w lineWriter) Write(p []byte) (int, error) {
	w <- string(p)
	return len(p), nil
}

// A step is printed when it ends, not at the end of all: here TCP connects, and nothing more
// happens until the reader of the first steps lets the time run out.
func TestDoctorIsLive(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	out := make(lineWriter)
	done := make(chan int, 1)
	go func() {
		c := &command{env: os.Environ(), stdout: out, stderr: io.Discard, terminal: func(io.Writer) bool { return false }}
		done <- c.run(ctx, []string{"doctor", "--timeout", "1m", "dsql://admin@" + server.Endpoint() + "?dial_address=" + silent.Addr().String()})
		close(out)
	}()
	var lines []string
	for line := range out {
		lines = append(lines, line)
		if strings.Contains(line, "  tcp ") {
			cancel()
		}
	}
	require.NotEqual(t, exitOK, <-done)
	require.Regexp(t, `^ok +\S+  configuration: `, lines[0])
	tcp := slices.IndexFunc(lines, func(line string) bool { return strings.HasPrefix(line, "ok ") && strings.Contains(line, "  tcp ") })
	require.Positive(t, tcp)
	require.Greater(t, len(lines), tcp+1)
}

// --timeout holds on a network that swallows everything.
func TestDoctorTimeout(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // connects, and never answers
	require.NoError(t, err)
	defer silent.Close()
	got := runBinary(t, nil, "doctor", "--timeout", "3", "--json", "dsql://admin@"+server.Endpoint()+"?dial_address="+silent.Addr().String())
	require.Equal(t, exitNetwork, got.status, got.stdout+got.stderr)
	var r dsqldoctor.Report
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &r))
	// A step gets a third of the time that is left, and 5 s of the default 20 s.
	require.NotContains(t, got.stdout, "within 5s")
	require.Regexp(t, "no answer to the ClientHello within (1s|[0-9.]+ms)", got.stdout)
}

func TestDoctorCompare(t *testing.T) {
	saved := filepath.Join(t.TempDir(), "works.json")
	works := runBinary(t, nil, "doctor", "--json", serverURL("admin"))
	require.Equal(t, exitOK, works.status, works.stdout)
	require.NoError(t, os.WriteFile(saved, []byte(works.stdout), 0o600))

	same := runBinary(t, nil, "doctor", "--compare", saved, serverURL("admin"))
	require.Equal(t, exitOK, same.status)
	require.Contains(t, same.stdout, "Every step ended alike.")
	require.NotRegexp(t, `(?m)^\*`, same.stdout)

	broken := "dsql://admin@" + server.Endpoint() + "?dial_address=" + server.Addr()
	got := runBinary(t, nil, "doctor", "--compare", saved, broken)
	require.Equal(t, exitTLS, got.status)
	require.Contains(t, got.stdout, "other: "+saved)
	require.Regexp(t, `(?m)^  configuration +ok \S+ +ok \S+$`, got.stdout)
	require.Regexp(t, `(?m)^\* tls direct +ok \S+ +failed \S+\n      other: .*\n      here:  .*certificate`, got.stdout)
	require.Contains(t, got.stdout, "Steps with a * ended differently.")

	got = runBinary(t, nil, "doctor", "--json", "--compare", saved, broken)
	require.Equal(t, exitTLS, got.status)
	var both struct{ Other, Here *dsqldoctor.Report }
	require.NoError(t, json.Unmarshal([]byte(got.stdout), &both))
	require.Equal(t, dsqldoctor.VerdictOK, both.Other.Verdict)
	require.Equal(t, dsqldoctor.VerdictCertificate, both.Here.Verdict)
}

// A report in a file may be anybody's: what it says cannot move the cursor or change colours.
func TestDoctorCompareEscapes(t *testing.T) {
	const escapes = "\x1b]0;title\x07 \x1b[2J \u009b31m \u202e \r"
	crafted := dsqldoctor.Report{Verdict: "ok" + escapes, Steps: []dsqldoctor.Step{
		{Name: "configuration", Result: "failed" + escapes, Seen: "seen" + escapes},
		{Name: "extra" + escapes, Result: dsqldoctor.StepFailed, Seen: "seen" + escapes},
	}}
	text, err := json.Marshal(crafted)
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "crafted.json")
	require.NoError(t, os.WriteFile(file, text, 0o600))
	got := runBinary(t, nil, "doctor", "--compare", file, serverURL("admin"))
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Contains(t, got.stdout, "extra")
	require.Contains(t, got.stdout, "other: seen")
	require.NotRegexp(t, `[^\n[:print:]…]`, strings.ReplaceAll(got.stdout, "…", ""))
}

func TestComparison(t *testing.T) {
	at := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	other := &dsqldoctor.Report{Time: at, Verdict: dsqldoctor.VerdictOK, Steps: []dsqldoctor.Step{
		{Name: "configuration", Result: dsqldoctor.StepOK},
		{Name: "tcp 10.0.0.7:5432", Result: dsqldoctor.StepOK, Took: 20 * time.Millisecond},
		{Name: "tls direct", Result: dsqldoctor.StepOK, Took: 31 * time.Millisecond, Seen: "TLS 1.3"},
		{Name: "login", Result: dsqldoctor.StepOK, Took: 40 * time.Millisecond},
	}}
	here := &dsqldoctor.Report{Time: at.Add(time.Hour), Verdict: dsqldoctor.VerdictInspection, Steps: []dsqldoctor.Step{
		{Name: "configuration", Result: dsqldoctor.StepOK},
		{Name: "tcp 10.1.0.8:5432", Result: dsqldoctor.StepOK, Took: 83 * time.Millisecond, Seen: "connected"},
		{Name: "tcp [fd00::7]:5432", Result: dsqldoctor.StepFailed, Took: time.Millisecond, Seen: "no route to host"},
		{Name: "tls direct", Result: dsqldoctor.StepFailed, Took: 85 * time.Millisecond, Seen: "connection reset by peer"},
		{Name: "login", Result: dsqldoctor.StepSkipped, Seen: "no TLS"},
	}}
	require.Equal(t, `other: home.json, 2030-01-02T03:04:05Z, verdict ok
here:  2030-01-02T04:04:05Z, verdict inspection

  step                other    here
  configuration       ok 0s    ok 0s
  tcp 10.0.0.7:5432   ok 20ms  -
  tcp 10.1.0.8:5432   -        ok 83ms
* tcp [fd00::7]:5432  -        failed 1ms
      here:  no route to host
* tls direct          ok 31ms  failed 85ms
      other: TLS 1.3
      here:  connection reset by peer
* login               ok 40ms  skipped
      here:  no TLS

Steps with a * ended differently.
`, compareReports("home.json", other, here, plain))

	here = &dsqldoctor.Report{Time: at, Verdict: dsqldoctor.VerdictOK, Steps: other.Steps, Target: dsqldoctor.ReportTarget{User: "app"}}
	text := compareReports("home.json", other, here, plain)
	require.Contains(t, text, "The reports are about different endpoints")
	require.Contains(t, text, "Every step ended alike.")
	require.NotContains(t, text, "*")

	require.Equal(t, []string{"a", "b", "c"}, mergedNames(reportOf("c"), reportOf("a", "b")))
	require.Equal(t, []string{"a", "x", "b", "y", "c"}, mergedNames(reportOf("a", "b", "c"), reportOf("a", "x", "b", "y")))
}

func reportOf(names ...string) *dsqldoctor.Report {
	r := new(dsqldoctor.Report)
	for _, name := range names {
		r.Steps = append(r.Steps, dsqldoctor.Step{Name: name})
	}
	return r
}
