// Package clients has clients that nobody here wrote run against "dsql local": psql, node-postgres,
// asyncpg, psycopg2 and pgjdbc, as their packages install them. A client that is missing is skipped.
package clients

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/examples/ecosystem/internal/local"
)

// result is what each program prints, as JSON: it logs in under verify-full, runs parameters, a
// transaction that is rolled back and one that is committed, COPY, and a query that it cancels.
type result struct {
	User       string // who it is
	Version    string // server_version, as the client knows it
	Parameter  string // a row by its key, with a parameter
	RolledBack string // the row after a ROLLBACK
	Committed  string // and after a COMMIT
	Copied     int    // rows by COPY
	Cancelled  string // SQLSTATE of the query that was cancelled
	After      int    // a query after that, on the same connection
	WrongName  string // what it says of a certificate for another name
}

var want = result{User: "admin", Version: "16.15", Parameter: "it's ü", RolledBack: "it's ü", Committed: "changed", Copied: 3, Cancelled: "57014", After: 1}

func TestClients(t *testing.T) {
	endpoint := local.Start(t)
	for _, client := range []struct {
		name    string
		command func(t *testing.T, dir string) *exec.Cmd
		refusal string // in WrongName
		noCopy  bool
	}{
		{"asyncpg", python("asyncpg"), "certificate verify failed", false},
		{"psycopg2", python("psycopg2"), "does not match host name", false},
		{"pgjdbc", java, "could not be verified", false},
		{"node-postgres", node, "ERR_TLS_CERT_ALTNAME_INVALID", true}, // COPY is another package's
	} {
		t.Run(client.name, func(t *testing.T) {
			got := run[result](t, endpoint, client.command(t, t.TempDir()))
			require.Contains(t, got.WrongName, client.refusal)
			want := want
			got.WrongName = ""
			if client.noCopy {
				want.Copied = 0
			}
			require.Equal(t, want, got)
		})
	}
}

// run has a program print JSON.
func run[T any](t *testing.T, endpoint local.Endpoint, cmd *exec.Cmd) (value T) {
	t.Helper()
	var stderr strings.Builder
	cmd.Env, cmd.Stderr = environ(t, endpoint), &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	require.NoError(t, json.Unmarshal(out, &value), string(out)+stderr.String())
	return value
}

// environ is the endpoint's environment, with a token as the password.
func environ(t *testing.T, endpoint local.Endpoint) []string {
	t.Helper()
	env := endpoint.Environ()
	token := exec.CommandContext(t.Context(), endpoint.Command, "token", "--reveal")
	token.Env = env
	out, err := token.Output()
	require.NoError(t, err)
	return append(env, "PGPASSWORD="+strings.TrimSpace(string(out)))
}

func command(t *testing.T, name string, args ...string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, name, args...)
}

// python runs client_<module>.py with a Python that has the module: Debian's packages are for Debian's own.
func python(module string) func(t *testing.T, dir string) *exec.Cmd {
	return func(t *testing.T, dir string) *exec.Cmd {
		for _, python := range []string{"python3", "/usr/bin/python3"} {
			if command(t, python, "-c", "import "+module).Run() == nil {
				return command(t, python, "client_"+module+".py")
			}
		}
		t.Skipf("no Python here has %s: apt-get install python3-%[1]s", module)
		return nil
	}
}

// java runs Client.java from its source. Its resolver gets the endpoint's name from a file.
func java(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	const driver = "/usr/share/java/postgresql.jar"
	if _, err := os.Stat(driver); err != nil {
		t.Skip("pgjdbc is not installed: apt-get install libpostgresql-jdbc-java")
	}
	if _, err := exec.LookPath("javac"); err != nil {
		t.Skip("there is no JDK: apt-get install default-jdk-headless")
	}
	return command(t, "sh", "-c", `printf '127.0.0.1 %s wrong.example.com\n' "$DSQL_HOST" > "$0/hosts" && exec java -Djdk.net.hosts.file="$0/hosts" -cp `+driver+` Client.java`, dir)
}

// node runs client.mjs with the node-postgres that the example beside this one has.
func node(t *testing.T, dir string) *exec.Cmd {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	for _, file := range []string{"../node/package.json", "../node/package-lock.json", "client.mjs"} {
		content, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(file)), content, 0o600))
	}
	npm := command(t, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
	npm.Dir = dir
	out, err := npm.CombinedOutput()
	require.NoError(t, err, string(out))
	cmd := command(t, "node", "client.mjs")
	cmd.Dir = dir
	return cmd
}

func TestPsql(t *testing.T) {
	if _, err := exec.LookPath("psql"); err != nil {
		t.Skip("psql is not installed: apt-get install postgresql-client")
	}
	endpoint := local.Start(t)
	env := append(environ(t, endpoint), "PGUSER=admin", "PGDATABASE=postgres", "PGHOST="+endpoint.Env["DSQL_HOST"], "PGHOSTADDR=127.0.0.1",
		"PGPORT="+endpoint.Env["DSQL_PORT"], "PGSSLMODE=verify-full", "PGSSLROOTCERT="+endpoint.Env["DSQL_CA_FILE"])
	psql := func(args ...string) *exec.Cmd {
		cmd := command(t, "psql", append([]string{"-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1", "-v", "VERBOSITY=verbose"}, args...)...)
		cmd.Env = env
		return cmd
	}
	answer := func(args ...string) string {
		out, err := psql(args...).CombinedOutput()
		require.NoError(t, err, string(out))
		return strings.TrimSpace(string(out))
	}
	require.Equal(t, "admin 16.15", answer("-c", `\echo :USER :SERVER_VERSION_NAME`))
	answer("-c", "create table psql (id int primary key, name text)")

	script := psql("-v", "name=it's ü", "-f", "-")
	script.Stdin = strings.NewReader(`
insert into psql values (1, :'name');
begin;
update psql set name = 'lost';
rollback;
select name from psql;
begin;
update psql set name = 'changed';
commit;
copy psql from stdin;
2	b
3	c
\.
select string_agg(name, ',' order by id) from psql;
\copy (select id from psql order by id) to stdout
`)
	out, err := script.CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, "it's ü\nchanged,b,c\n1\n2\n3\n", string(out))
	require.Contains(t, answer("-c", `\d psql`), "id|integer||not null")

	// Ctrl-C sends a cancel request.
	const sleeping = "select pg_sleep(60)"
	sleeper := psql("-c", sleeping)
	var said strings.Builder
	sleeper.Stdout, sleeper.Stderr = &said, &said
	require.NoError(t, sleeper.Start())
	require.Eventually(t, func() bool {
		return answer("-c", "select count(*) from pg_stat_activity where query = '"+sleeping+"'") == "1"
	}, time.Minute, 10*time.Millisecond)
	require.NoError(t, sleeper.Process.Signal(os.Interrupt))
	require.Error(t, sleeper.Wait())
	require.Contains(t, said.String(), "57014: canceling statement due to user request")

	env = append(env, "PGHOST=wrong.example.com")
	out, err = psql("-c", "select 1").CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "does not match host name")
}
