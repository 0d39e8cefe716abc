package clienttest

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// program finds one of PostgreSQL's, which Debian keeps off PATH.
func program(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/" + name)
	if len(found) == 0 {
		t.Skipf("there is no %s on this machine", name)
	}
	return found[len(found)-1]
}

func TestPsql(t *testing.T) {
	psql := program(t, "psql")
	env := append(startProxy(t), "PGAPPNAME=checks")
	run := func(script string) string {
		return runProgram(t, "", env, "sh", "-c", psql+` -XAtq -v ON_ERROR_STOP=1 <<'EOF'`+"\n"+script+"\nEOF")
	}
	require.Equal(t, "checks 42\n", run(`\set n 42
select current_setting('application_name'), :n \g (fieldsep=' ')`))
	run("create table psql_t (id int primary key, v text);")
	require.Equal(t, "1\n", run(`begin; insert into psql_t values (1, 'one'); commit;
begin; insert into psql_t values (2, 'two'); rollback;
select count(*) from psql_t;`))
	rows := strings.Repeat("x", 100)
	run(`\copy psql_t from program 'for i in $(seq 2 1001); do echo "$i	` + rows + `"; done'`)
	require.Len(t, strings.Fields(strings.ReplaceAll(run(`\copy (select id from psql_t) to stdout`), "\n", " ")), 1001)

	failed := exec.Command(psql, "-X", "-v", "VERBOSITY=verbose", "-c", "insert into psql_t values (1, 'again')")
	failed.Env = env
	out, err := failed.CombinedOutput()
	require.Error(t, err)
	require.Contains(t, string(out), "ERROR:  23505: ")
	require.Contains(t, string(out), "DETAIL:  Key (id)=(1) already exists.")
	run("drop table psql_t;")

	for range connects() {
		require.Equal(t, "1\n", runProgram(t, "", env, psql, "-XAtc", "select 1"))
	}
}

// Ctrl-C in psql cancels the statement, by a CancelRequest in plaintext to the proxy.
func TestPsqlCancel(t *testing.T) {
	cmd := exec.Command(program(t, "psql"), "-X", "-v", "VERBOSITY=verbose", "-c", "select pg_sleep(60)")
	cmd.Env = startProxy(t)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case <-ended:
			require.Contains(t, out.String(), "ERROR:  57014: ")
			return
		case <-time.After(100 * time.Millisecond): // again, until it meets the statement
			if cancelled := cluster.Sessions(); cancelled > 0 {
				_ = cmd.Process.Signal(syscall.SIGINT)
			}
		}
	}
}

func TestPgbench(t *testing.T) {
	pgbench := program(t, "pgbench")
	env := startProxy(t)
	for _, protocol := range []string{"simple", "extended", "prepared"} {
		out := runProgram(t, "", env, "sh", "-c", "echo 'select 1 + :client_id;' | "+pgbench+" -n -c 8 -t 200 -M "+protocol+" -f /dev/stdin")
		require.Contains(t, out, "number of transactions actually processed: 1600/1600")
		require.Contains(t, out, "number of failed transactions: 0")
	}
	// A connection for each transaction.
	out := runProgram(t, "", env, "sh", "-c", "echo 'select 1;' | "+pgbench+" -n -C -c 4 -t "+strconv.Itoa(connects()/4)+" -f /dev/stdin")
	require.Regexp(t, regexp.MustCompile(`actually processed: (\d+)/\d+`), out)
	require.Contains(t, out, "number of failed transactions: 0")
}
