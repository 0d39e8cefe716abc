package main

import (
	"context"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/internal/nettest"
)

// The real psql logs in by every form of an endpoint, under verify-full.
func TestPsqlEndpointForms(t *testing.T) {
	_, port, err := net.SplitHostPort(server.Addr())
	require.NoError(t, err)
	const me = "select current_user"
	ca := "&sslrootcert=" + url.PathEscape(caPath)
	vpce := server.VPCEndpoint()
	for _, tt := range []struct {
		name, connString string
		lookups          map[string][]string
		sni              string
	}{
		{name: "public endpoint through a dial address", connString: serverURL("app")},
		{name: "keywords", connString: "host=" + server.Endpoint() + " dial_address=" + server.Addr() + " user=app sslrootcert='" + caPath + "'"},
		{
			name: "PrivateLink name", connString: "dsql://app@" + server.PrivateEndpoint() + "?dial_address=" + server.Addr() + ca,
			sni: server.PrivateEndpoint(),
		},
		{
			name: "VPC endpoint", connString: "dsql://app@" + vpce + ":" + port + "?cluster_id=" + clusterID + ca,
			lookups: map[string][]string{vpce: {"127.0.0.1"}}, sni: server.PrivateEndpoint(),
		},
		{
			name: "VPC endpoint of which one address is dead", connString: "dsql://app@" + vpce + ":" + port + "?cluster_id=" + clusterID + ca,
			lookups: map[string][]string{vpce: {"127.0.0.2", "127.0.0.1"}}, sni: server.PrivateEndpoint(),
		},
		{name: "address", connString: "dsql://app@127.0.0.1:" + port + "?region=us-east-1&cluster_id=" + clusterID + ca},
		{
			name: "tunnel", connString: "dsql://app@" + server.Endpoint() + "?dial_address=localhost:" + port + ca,
			lookups: map[string][]string{"localhost": {"127.0.0.1"}},
		},
		{
			name: "name of one's own", connString: "dsql://app@db.example.com:" + port + "?server_name=" + server.Endpoint() + ca,
			lookups: map[string][]string{"db.example.com": {"127.0.0.1"}},
		},
		{name: "cluster ID", connString: "dsql://app@" + clusterID + "?region=us-east-1&dial_address=" + server.Addr() + ca},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seen := watchAttempts()
			got := runHere(t, func(c *command) {
				c.lookup = func(_ context.Context, host string) ([]string, error) {
					require.Contains(t, tt.lookups, host)
					return tt.lookups[host], nil
				}
			}, "psql", tt.connString, "--", "-XAt", "-c", me)
			require.Equal(t, result{stdout: "app\n"}, got)
			attempts := seen()
			require.Len(t, attempts, 1)
			if tt.sni == "" {
				tt.sni = server.Endpoint()
			}
			require.Equal(t, tt.sni, attempts[0].ServerName)
			require.Equal(t, tt.sni, attempts[0].TokenHost)
			require.Equal(t, "ok", attempts[0].Outcome)
		})
	}
}

// The certificate is checked against the roots that the connection string names, and no others.
func TestPsqlVerifies(t *testing.T) {
	other := dsqltest.New(t)
	wrong := filepath.Join(t.TempDir(), "other.pem")
	require.NoError(t, os.WriteFile(wrong, other.CAPEM(), 0o600))
	seen := watchAttempts()
	got := runBinary(t, nil, "psql", urlOf(server, wrong, "app"), "--", "-c", "select 1")
	require.Equal(t, 2, got.status) // psql's: it could not connect
	require.Contains(t, got.stderr, "certificate verify failed")

	// A certificate of the right authority for another name.
	_, port, err := net.SplitHostPort(server.Addr())
	require.NoError(t, err)
	got = runBinary(t, nil, "psql", "dsql://app@"+clusterID+"?region=eu-west-1&dial_address=localhost:"+port+"&sslrootcert="+url.PathEscape(caPath), "--", "-c", "select 1")
	require.Equal(t, 2, got.status)
	require.Contains(t, got.stderr, `does not match host name "`+clusterID+`.dsql.eu-west-1.on.aws"`)
	for _, a := range seen() {
		require.Empty(t, a.TokenID, "the token was sent")
	}
}

// The environment leads psql nowhere else, and what changes only its looks stays.
func TestPsqlEnvironment(t *testing.T) {
	hostile := []string{
		"PGHOST=evil.example.com", "PGHOSTADDR=127.0.0.9", "PGPORT=1", "PGUSER=mallory", "PGDATABASE=other", "PGPASSWORD=secret",
		"PGSSLMODE=disable", "PGSERVICE=evil", "PGSERVICEFILE=/nowhere", "PGOPTIONS=-c a=b", "PGSSLCERT=/nowhere", "PGCLUSTER=99/main",
		"PGREQUIRESSL=0", "PGSYSCONFDIR=/nowhere", "PGTZ=Asia/Tokyo",
	}
	got := runBinary(t, hostile, "psql", serverURL("app")+"&application_name=my%20app", "--", "-XAt", "-c", "select current_user, current_database(), current_setting('timezone'), current_setting('application_name')")
	require.Equal(t, result{stdout: "app|postgres|Asia/Tokyo|my app\n"}, got)

	got = runBinary(t, hostile, "psql", serverURL("app")+"&timezone=Asia/Tokyo&search_path=a&statement_timeout=5s&pool_max_conns=3", "--", "-XAt", "-c", "show timezone")
	require.Equal(t, "Asia/Tokyo\n", got.stdout)
	require.Contains(t, got.stderr, "not passed on, because libpq has no environment variable for it: search_path, statement_timeout;")
	require.NotContains(t, got.stderr, "pool_max_conns")
}

// What --print-env prints and what token prints are enough for a psql that nobody helps, also in a
// shell that has other things set.
func TestPsqlPrintEnv(t *testing.T) {
	script := `
PGSERVICE=evil PGSSLCERT=/nowhere PGHOSTADDR=127.0.0.9
export PGSERVICE PGSSLCERT PGHOSTADDR
env=$("$1" psql --print-env) && eval "$env"
PGPASSWORD=$("$1" token) psql -XAt -c 'select current_user'`
	cmd := exec.CommandContext(t.Context(), "sh", "-c", script, "sh", binary)
	cmd.Env = append(os.Environ(), "DSQL_URL="+serverURL("app"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, "app\n", string(out))

	// A second one leaves nothing of the first.
	got := runBinary(t, []string{"PGHOSTADDR=127.0.0.9", "SSL_CERT_FILE=" + caPath}, "psql", "--print-env", "dsql://app@"+server.Endpoint())
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Contains(t, got.stdout, "unset PGHOSTADDR\n")
	require.NotContains(t, got.stdout, "export PGHOSTADDR")
	require.NotContains(t, got.stdout, "PGPASSWORD")
}

func TestPsqlExitStatus(t *testing.T) {
	const closed = nettest.ClosedAddress
	for _, tt := range []struct {
		name, connString string
		args             []string
		status           int
		stderr           string
	}{
		{"success", serverURL("app"), []string{"-Xc", "select 1"}, 0, ""},
		{"a failing query", serverURL("app"), []string{"-Xc", "select 1/0"}, 1, "division by zero"},
		{"an unknown argument", serverURL("app"), []string{"--nonsense"}, 1, "unrecognized option"},
		{"closed port", "dsql://app@" + server.Endpoint() + "?dial_address=" + closed + "&sslrootcert=" + url.PathEscape(caPath), []string{"-Xc", "select 1"}, 2, "Connection refused"},
		{"unknown role", serverURL("nobody"), []string{"-Xc", "select 1"}, 2, "access denied"},
		{"failing script", serverURL("app"), []string{"-X", "-v", "ON_ERROR_STOP=1", "-f", "testdata/fails.sql"}, 3, "division by zero"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := runBinary(t, nil, append([]string{"psql", tt.connString, "--"}, tt.args...)...)
			require.Equal(t, tt.status, got.status, got.stderr)
			require.Contains(t, got.stderr, tt.stderr)
		})
	}
}

func TestPsqlStdin(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), binary, "psql", serverURL("app"), "--", "-XAt")
	cmd.Stdin = strings.NewReader("select 6*7;\n")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, "42\n", string(out))
}

// fakePsql puts a shell script on PATH that says it is a psql of some version.
func fakePsql(t *testing.T, version, script string) {
	t.Helper()
	dir := t.TempDir()
	text := "#!/bin/sh\nif [ \"$1\" = --version ]; then echo '" + version + "'; exit; fi\n" + script
	require.NoError(t, os.WriteFile(filepath.Join(dir, "psql"), []byte(text), 0o700))
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
}

func TestPsqlTokenIsInNoArgument(t *testing.T) {
	fakePsql(t, "psql (PostgreSQL) 17.2", `echo "$# $*"; tr '\0' ' ' </proc/$$/cmdline 2>/dev/null; echo; echo "$PGPASSWORD"`)
	got := runBinary(t, nil, "psql", serverURL("app"), "--", "-c", "select 1")
	require.Equal(t, exitOK, got.status, got.stderr)
	lines := strings.Split(got.stdout, "\n")
	require.Equal(t, "2 -c select 1", lines[0])
	require.NotContains(t, lines[1], "X-Amz")
	require.Equal(t, "DbConnect", parameters(t, lines[2]+"\n").Get("Action"))
}

// --print-env serves every program that uses libpq, so it needs no psql.
func TestPsqlPrintEnvWithoutPsql(t *testing.T) {
	bundle := filepath.Join(t.TempDir(), "bundle.pem")
	require.NoError(t, os.WriteFile(bundle, server.CAPEM(), 0o600))
	t.Setenv("SSL_CERT_FILE", bundle)
	t.Setenv("PATH", t.TempDir())
	base := "dsql://app@" + server.Endpoint()
	for _, tt := range []struct{ connString, roots, negotiation string }{
		{base, bundle, "direct"},
		{base + "?sslrootcert=system", bundle, "direct"},
		{base + "?sslrootcert=" + url.PathEscape(caPath), caPath, "direct"},
		{base + "?sslnegotiation=direct", bundle, "direct"},
		{base + "?sslnegotiation=postgres", bundle, "postgres"},
	} {
		got := runHere(t, nil, "psql", "--print-env", tt.connString)
		require.Equal(t, exitOK, got.status, got.stderr)
		for _, line := range []string{"PGSSLROOTCERT=" + quote(tt.roots), "PGSSLNEGOTIATION=" + tt.negotiation, "PGSSLMODE=verify-full", "PGCONNECT_TIMEOUT=30"} {
			require.Contains(t, got.stdout, "export "+line+"\n")
		}
	}

	got := runHere(t, nil, "psql", base)
	require.Equal(t, exitNoPsql, got.status)
	require.Contains(t, got.stderr, "dsql psql: psql is not on PATH; install it")
}

// The shell takes nothing for a command that comes from the environment or the connection string.
func TestPsqlPrintEnvQuotes(t *testing.T) {
	const name = "'; touch d; $(touch e) `touch f` sslrootcert=/dev/null"
	got := runBinary(t, []string{"PG;touch${IFS}a;=x", "PG$(touch b)=x", "PG\ntouch c\n=x", "PGé=x", "PG_KNOWN=x"},
		"psql", "--print-env", serverURL("app")+"&application_name="+url.PathEscape(name))
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Contains(t, got.stdout, "unset PG_KNOWN\n")

	cmd := exec.CommandContext(t.Context(), "sh", "-c", `eval "$1" && echo "$PGAPPNAME" && ls`, "sh", got.stdout)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, name+"\n", string(out), "and no file")
}

// A name that does not resolve is an error of this command, not of psql.
func TestPsqlLookupFails(t *testing.T) {
	got := runHere(t, nil, "psql", "dsql://app@db.example.com?server_name="+server.Endpoint()+"&sslrootcert="+url.PathEscape(caPath))
	require.Equal(t, exitFailure, got.status)
	require.Equal(t, "dsql psql: no such host: db.example.com; run dsql doctor to see why\n", got.stderr)
}

// psql knows no WebSockets: one that was asked for is an error, and one that may be is left out.
func TestPsqlTransport(t *testing.T) {
	connString := "dsql://app@" + server.Endpoint() + "?dial_address=127.0.0.1&sslrootcert=" + url.PathEscape(caPath)
	got := runHere(t, nil, "psql", "--print-env", connString+"&transport=websocket")
	require.Equal(t, exitFailure, got.status)
	require.Contains(t, got.stderr, "start psql behind dsql proxy")
	got = runHere(t, nil, "psql", "--print-env", connString+"&transport=auto")
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Contains(t, got.stdout, "export PGPORT=5432\n")
}

func TestPsqlAddresses(t *testing.T) {
	got := runHere(t, func(c *command) {
		c.lookup = func(context.Context, string) ([]string, error) { return []string{"10.0.0.1", "fd00::2"}, nil }
	}, "psql", "--print-env", "dsql://app@"+server.VPCEndpoint()+":5433?connect_timeout=1500ms&cluster_id="+clusterID+"&sslrootcert="+url.PathEscape(caPath))
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Contains(t, got.stdout, "export PGHOSTADDR=10.0.0.1,fd00::2\n")
	require.Contains(t, got.stdout, "export PGHOST="+server.PrivateEndpoint()+","+server.PrivateEndpoint()+"\n")
	require.Contains(t, got.stdout, "export PGPORT=5433\n")
	require.Contains(t, got.stdout, "export PGCONNECT_TIMEOUT=2\n")

	got = runHere(t, nil, "psql", "--print-env", "dsql://app@[::1]:"+strconv.Itoa(5434)+"?region=us-east-1&cluster_id="+clusterID+"&sslrootcert="+url.PathEscape(caPath))
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Contains(t, got.stdout, "export PGHOSTADDR=::1\n")
}

func TestSSLRootCert(t *testing.T) {
	for connString, want := range map[string]string{
		"dsql://h":                      "",
		"dsql://h?sslrootcert=/a/b.pem": "/a/b.pem",
		"dsql://h?x=1&SSLRootCert=%2Fa%20b%2B+.pem%23":                     "/a b++.pem#",
		"dsql://h?sslrootcert=system&x=1":                                  "system",
		"postgres://h/db?sslrootcert=a\n":                                  "a",
		"host=h sslrootcert=/a/b.pem user=u":                               "/a/b.pem",
		"sslrootcert=/a/b.pem":                                             "/a/b.pem",
		"host=h sslrootcert = '/a b/it\\'s.pem' user=u":                    "/a b/it's.pem",
		`host=h SSLROOTCERT=/a\ b.pem`:                                     "/a b.pem",
		`host=h sslrootcert=a'b user=u`:                                    "a'b",
		"host=h sslrootcert='' user=u":                                     "",
		"host=h xsslrootcert=a":                                            "",
		"host=h application_name='x sslrootcert=/evil' sslrootcert=/a.pem": "/a.pem",
		`host=h application_name=x\ sslrootcert=/evil`:                     "",
		"dsql://h?application_name=x%26sslrootcert=/evil":                  "",
		"dsql://h/?application_name=a%3Fsslrootcert%3D/evil":               "",
	} {
		require.Equal(t, want, sslRootCert(connString), connString)
	}
}
