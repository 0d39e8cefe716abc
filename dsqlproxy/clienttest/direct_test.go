package clienttest

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const page = "../../docs/other-languages.md"

var runnable = regexp.MustCompile("(?ms)^<!-- run: ([^ ]+) -->\n```[a-z]+\n(.*?)^```$")

// snippets are the programs of the page, as they have to read here: the name to dial is the local
// endpoint's address, and the file of roots holds its authority.
func snippets(t *testing.T) map[string]string {
	text, err := os.ReadFile(page)
	require.NoError(t, err)
	host, port, err := net.SplitHostPort(cluster.Addr())
	require.NoError(t, err)
	here := strings.NewReplacer(
		"vpce-0123456789abcdef0-abcdefgh.dsql-fnh4.us-east-1.vpce.amazonaws.com", host,
		"<id>", cluster.ClusterID(),
		"5432", port,
		"/etc/ssl/certs/ca-certificates.crt", caFile,
	)
	found := map[string]string{}
	for _, m := range runnable.FindAllStringSubmatch(string(text), -1) {
		changed := here.Replace(m[2])
		require.Contains(t, changed, cluster.PrivateEndpoint())
		found[m[1]] = changed
	}
	return found
}

// directEnv is that of a program without the proxy: dsql on its PATH, to sign tokens, and the local
// endpoint's authority among the system's.
func directEnv(t *testing.T) []string {
	return append(awsEnv(), "PATH="+filepath.Dir(binary)+":"+os.Getenv("PATH"), "HOME="+t.TempDir(),
		"DSQL_URL="+vpcURL(), "SSL_CERT_FILE="+caFile, "NODE_EXTRA_CA_CERTS="+caFile)
}

// runSnippet writes a program of the page to a file and runs it. It must log in under the name that
// the page is about, and only with the name: the certificate was verified.
func runSnippet(t *testing.T, name, dir, file, command string, args ...string) {
	t.Helper()
	code, ok := snippets(t)[name]
	require.True(t, ok, "%s has no program %q", page, name)
	before := len(cluster.Attempts())
	run := func(code string) (string, error) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, file), []byte(code), 0o600))
		cmd := exec.CommandContext(t.Context(), command, args...)
		cmd.Dir, cmd.Env = dir, directEnv(t)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := run(code)
	require.NoError(t, err, out)
	require.Equal(t, "admin\n", out)
	attempts := cluster.Attempts()[before:]
	require.NotEmpty(t, attempts)
	for _, a := range attempts {
		require.Equal(t, cluster.PrivateEndpoint(), a.ServerName)
	}

	out, err = run(strings.ReplaceAll(code, cluster.PrivateEndpoint(), "db.example.com"))
	require.Error(t, err, "the program takes any certificate: %s", out)
}

func TestDirectAsyncpg(t *testing.T) {
	pythonModule(t, "asyncpg")
	runSnippet(t, "asyncpg", t.TempDir(), "direct.py", python, "direct.py")
}

func TestDirectPsycopg(t *testing.T) {
	pythonModule(t, "psycopg")
	runSnippet(t, "psycopg", t.TempDir(), "direct.py", python, "direct.py")
}

func TestDirectNodePostgres(t *testing.T) {
	runSnippet(t, "node-postgres", nodeClients(t), "direct-pg.mjs", "node", "direct-pg.mjs")
}

func TestDirectPostgresJS(t *testing.T) {
	runSnippet(t, "postgres.js", nodeClients(t), "direct-postgres.mjs", "node", "direct-postgres.mjs")
}

func TestDirectJDBC(t *testing.T) {
	jar, dir := pgJDBC(t), t.TempDir()
	store := filepath.Join(dir, "roots.p12")
	out, err := exec.Command("keytool", "-importcert", "-noprompt", "-alias", "local", "-file", caFile, "-keystore", store, "-storetype", "PKCS12", "-storepass", "changeit").CombinedOutput()
	require.NoError(t, err, string(out))
	runSnippet(t, "JDBC", dir, "Direct.java", "sh", "-c", "javac -cp "+jar+" Direct.java && exec java -cp "+jar+":. -Djavax.net.ssl.trustStore="+store+" -Djavax.net.ssl.trustStorePassword=changeit Direct")
}

// Every program of the page that says so is run by a test above.
func TestPageHasNoOtherPrograms(t *testing.T) {
	found := snippets(t)
	for _, name := range []string{"asyncpg", "psycopg", "node-postgres", "postgres.js", "JDBC"} {
		require.Contains(t, found, name)
		delete(found, name)
	}
	require.Empty(t, found)
}
