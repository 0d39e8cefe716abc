package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
)

// local is a "dsql local" that runs.
type local struct {
	cmd    *exec.Cmd
	stderr bytes.Buffer
	lines  []string          // up to the one that says it is ready
	env    map[string]string // what a shell makes of them
}

func startLocal(t *testing.T, env []string, args ...string) *local {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("dsqltest does not run here")
	}
	l := &local{cmd: exec.Command(binary, append([]string{"local"}, args...)...)}
	l.cmd.Env = append(os.Environ(), env...)
	l.cmd.Stderr = &l.stderr
	stdout, err := l.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, l.cmd.Start())
	t.Cleanup(func() {
		if l.cmd.ProcessState == nil {
			_ = l.cmd.Process.Signal(syscall.SIGTERM)
			_ = l.cmd.Wait()
		}
	})
	scanner := bufio.NewScanner(stdout)
	for scanner.Scan() {
		l.lines = append(l.lines, scanner.Text())
		if strings.HasPrefix(scanner.Text(), "# ready") {
			break
		}
	}
	if len(l.lines) == 0 {
		err := l.cmd.Wait()
		require.NoError(t, err, l.stderr.String())
	}

	// A shell can read everything that was printed.
	shell := exec.CommandContext(t.Context(), "sh", "-c", strings.Join(l.lines, "\n")+"\nenv")
	shell.Env = []string{"PATH=" + os.Getenv("PATH")}
	out, err := shell.Output()
	require.NoError(t, err)
	l.env = make(map[string]string)
	for line := range strings.Lines(string(out)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "=")
		l.env[name] = value
	}
	return l
}

// environ is what l printed, for a process to start with.
func (l *local) environ() []string {
	var env []string
	for _, name := range l.names() {
		env = append(env, name+"="+l.env[name])
	}
	return env
}

// names are the variables in the order they were printed.
func (l *local) names() []string {
	var names []string
	for _, line := range l.lines {
		if rest, ok := strings.CutPrefix(line, "export "); ok {
			name, _, _ := strings.Cut(rest, "=")
			names = append(names, name)
		}
	}
	return names
}

// stop ends l by a signal, and expects it to end well.
func (l *local) stop(t *testing.T, signal os.Signal) {
	t.Helper()
	require.NoError(t, l.cmd.Process.Signal(signal))
	err := l.cmd.Wait()
	require.NoError(t, err, l.stderr.String())
	require.Empty(t, l.stderr.String())
}

// sql runs statements by "dsql psql", and returns what they print.
func (l *local) sql(t *testing.T, user string, statements ...string) string {
	t.Helper()
	args := []string{"psql", strings.Replace(l.env["DSQL_URL"], "//admin@", "//"+user+"@", 1), "--", "-XAtq", "-v", "ON_ERROR_STOP=1"}
	for _, s := range statements {
		args = append(args, "-c", s)
	}
	got := runBinary(t, l.environ(), args...)
	require.Equal(t, exitOK, got.status, got.stderr)
	return strings.TrimSuffix(got.stdout, "\n")
}

// The printed variables are enough for this library and for psql. Nothing is left at the end.
func TestLocal(t *testing.T) {
	for _, signal := range []os.Signal{syscall.SIGINT, syscall.SIGTERM} {
		l := startLocal(t, nil)
		require.Equal(t, []string{
			"DSQL_URL", "DSQL_HOST", "DSQL_ADDRESS", "DSQL_PORT", "DSQL_CA_FILE", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION",
		}, l.names())
		require.Equal(t, "# ready: Ctrl-C ends it", l.lines[len(l.lines)-1])
		require.Equal(t, "127.0.0.1:"+l.env["DSQL_PORT"], l.env["DSQL_ADDRESS"])
		require.Regexp(t, `^[a-z0-9]{26}\.dsql\.us-east-1\.on\.aws$`, l.env["DSQL_HOST"])
		require.Equal(t, "us-east-1", l.env["AWS_REGION"])
		require.NotContains(t, l.env["DSQL_URL"], l.env["AWS_SECRET_ACCESS_KEY"])

		for name, value := range l.env {
			if strings.HasPrefix(name, "AWS_") {
				t.Setenv(name, value)
			}
		}
		config, err := dsql.ParseConfig(l.env["DSQL_URL"])
		require.NoError(t, err)
		conn, err := dsql.Connect(t.Context(), config)
		require.NoError(t, err)
		var user string
		require.NoError(t, conn.QueryRow(t.Context(), "select current_user").Scan(&user))
		require.Equal(t, "admin", user)
		require.Equal(t, "app", l.sql(t, "app", "select current_user"))

		l.stop(t, signal) // with a session open
		require.Error(t, conn.Ping(t.Context()))
		require.NoFileExists(t, l.env["DSQL_CA_FILE"])
		require.NoDirExists(t, filepath.Dir(l.env["DSQL_CA_FILE"]))
	}
}

// The shell's AWS_SESSION_TOKEN belongs to another key.
func TestLocalAmongOtherCredentials(t *testing.T) {
	l := startLocal(t, []string{"AWS_SESSION_TOKEN=other"})
	require.Equal(t, "export AWS_SESSION_TOKEN=''", l.lines[slices.Index(l.names(), "AWS_SESSION_TOKEN")])
	t.Setenv("AWS_SESSION_TOKEN", "other")
	require.Equal(t, "admin", l.sql(t, "admin", "select current_user"))
}

func TestLocalKeepsData(t *testing.T) {
	dir := filepath.Join(dataDir(t), "new dir")
	const id = "abcdefghijklmnopqrstuvwxyz"
	// Systems hand out ports from 32768 or 49152 on, so no process gets this one between the starts.
	address := fmt.Sprint("127.0.0.1:", 20_000+rand.IntN(10_000))
	first := startLocal(t, nil, "--data", dir, "--listen", address, "--cluster-id", id, "--region", "eu-west-1", "--role", "orders", "--role", "it's")
	require.Equal(t, id+".dsql.eu-west-1.on.aws", first.env["DSQL_HOST"])
	require.Equal(t, "eu-west-1", first.env["AWS_REGION"])
	first.sql(t, "admin", "create table kept (n int)")
	first.sql(t, "admin", "insert into kept values (42)")
	first.stop(t, os.Interrupt)
	require.FileExists(t, first.env["DSQL_CA_FILE"])
	requirePrivate := func() {
		for _, name := range []string{identityFile, authorityFile} {
			info, err := os.Stat(filepath.Join(dir, name))
			require.NoError(t, err)
			require.Equal(t, os.FileMode(0o600), info.Mode())
		}
	}
	requirePrivate()

	// A second start is the same in every respect, and makes files with keys private again.
	for _, name := range []string{identityFile, authorityFile} {
		require.NoError(t, os.Chmod(filepath.Join(dir, name), 0o644))
	}
	second := startLocal(t, nil, "--data", dir, "--listen", address)
	require.Equal(t, first.lines, second.lines)
	requirePrivate()
	for name, value := range first.env {
		if name != "_" {
			second.env[name] = value
		}
	}
	require.Equal(t, "42", second.sql(t, "admin", "select n from kept"))
	require.Equal(t, "orders", second.sql(t, "orders", "select current_user"))
	second.stop(t, os.Interrupt)

	// Flags replace what the directory has.
	third := startLocal(t, nil, "--data", dir, "--region", "us-west-2", "--role", "app")
	require.Equal(t, id+".dsql.us-west-2.on.aws", third.env["DSQL_HOST"])
	require.Equal(t, first.env["AWS_SECRET_ACCESS_KEY"], third.env["AWS_SECRET_ACCESS_KEY"])
	require.Equal(t, "42", third.sql(t, "admin", "select n from kept"))
	third.sql(t, "app", "select 1")
	got := runBinary(t, third.environ(), "psql", strings.Replace(third.env["DSQL_URL"], "admin@", "orders@", 1), "--", "-c", "select 1")
	require.Contains(t, got.stderr, "access denied")
	third.stop(t, os.Interrupt)
	kept, err := openDataDir(dir)
	require.NoError(t, err)
	require.Equal(t, "us-west-2", kept.Region)
	require.Equal(t, []string{"app"}, kept.Roles)
}

// dataDir is a directory that PostgreSQL can reach: where the tests run as root, it does not.
func dataDir(t *testing.T) string {
	dir := t.TempDir()
	for _, d := range []string{dir, filepath.Dir(dir)} {
		require.NoError(t, os.Chmod(d, 0o755))
	}
	return dir
}

func TestLocalCannotStart(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	tmp := t.TempDir()
	got := runBinary(t, []string{"TMPDIR=" + tmp}, "local", "--listen", listener.Addr().String())
	require.Equal(t, exitFailure, got.status)
	require.Contains(t, got.stderr, "dsql local: --listen: listen tcp ")
	require.Contains(t, got.stderr, "address already in use")
	require.Empty(t, got.stdout)
	left, err := os.ReadDir(tmp)
	require.NoError(t, err)
	require.Empty(t, left)

	broken := dataDir(t)
	require.NoError(t, os.WriteFile(filepath.Join(broken, identityFile), []byte("{"), 0o600))
	got = runBinary(t, nil, "local", "--data", broken)
	require.Equal(t, exitFailure, got.status)
	require.Contains(t, got.stderr, identityFile+": unexpected end of JSON input; remove the file")

	_, err = openDataDir(filepath.Join(broken, identityFile, "below"))
	require.Error(t, err)
	require.False(t, errors.Is(err, os.ErrNotExist))
}
