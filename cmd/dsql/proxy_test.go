package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqlproxy"
)

// proxy is a "dsql proxy" that runs.
type proxy struct {
	cmd     *exec.Cmd
	stderr  bytes.Buffer
	ready   string // its line
	address string // the first that it names
}

// startProxy runs one until the test ends.
func startProxy(t *testing.T, env []string, args ...string) *proxy {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("dsqltest does not run here")
	}
	p := &proxy{cmd: exec.Command(binary, append([]string{"proxy", serverURL("admin")}, args...)...)}
	p.cmd.Env = append(os.Environ(), env...)
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, p.cmd.Start())
	t.Cleanup(func() { p.stop(t) })
	p.ready, _ = bufio.NewReader(stdout).ReadString('\n')
	if !strings.HasPrefix(p.ready, "# ready: ") {
		_ = p.cmd.Wait()
		t.Fatalf("%q: %s", p.ready, p.stderr.String())
	}
	p.address = strings.FieldsFunc(strings.TrimPrefix(p.ready, "# ready: "), func(r rune) bool { return r == ';' || r == ' ' })[0]
	return p
}

// stop ends it as a service manager does.
func (p *proxy) stop(t *testing.T) {
	t.Helper()
	if p.cmd.ProcessState == nil {
		require.NoError(t, p.cmd.Process.Signal(syscall.SIGTERM))
		_ = p.cmd.Wait()
		require.Equal(t, exitOK, p.cmd.ProcessState.ExitCode(), p.stderr.String())
	}
}

// pgURL is what clients of a proxy are told.
func pgURL(address, password string) string {
	return "postgres://admin:" + password + "@" + address + "/postgres?sslmode=disable"
}

func TestProxy(t *testing.T) {
	p := startProxy(t, []string{"DSQL_PROXY_PASSWORD=between us"}, "--listen", "127.0.0.1:0", "--wait", "--log-format", "json", "--drain", "5")
	require.Regexp(t, `^# ready: 127\.0\.0\.1:\d+; `, p.ready)
	conn, err := pgx.Connect(t.Context(), pgURL(p.address, "between%20us"))
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	_, err = pgx.Connect(t.Context(), pgURL(p.address, "wrong"))
	require.Error(t, err)
	p.stop(t)

	refused := false
	for line := range strings.Lines(p.stderr.String()) {
		var entry struct{ Msg, SQLState string }
		require.NoError(t, json.Unmarshal([]byte(line), &entry), line)
		refused = refused || entry.SQLState == "28P01"
		for _, secret := range []string{"between us", "X-Amz-Signature", server.Credentials().SecretAccessKey} {
			require.NotContains(t, line, secret)
		}
	}
	require.True(t, refused, p.stderr.String())
}

func TestProxyPasswordFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "password")
	require.NoError(t, os.WriteFile(file, []byte("from a file\n"), 0o600))
	p := startProxy(t, []string{"DSQL_PROXY_PASSWORD=not this"}, "--listen", "127.0.0.1:0", "--password-file", file, "--quiet", "--health", "127.0.0.1:0", "--user", "admin")
	conn, err := pgx.Connect(t.Context(), pgURL(p.address, "from%20a%20file"))
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

func TestProxySocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	p := startProxy(t, nil, "--socket", dir, "--listen", "127.0.0.1:0")
	require.Contains(t, p.ready, " and "+filepath.Join(dir, ".s.PGSQL.5432")+";")
	info, err := os.Stat(dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	for _, host := range []string{dir, "127.0.0.1"} {
		port := "5432"
		if host != dir {
			_, port, _ = net.SplitHostPort(p.address)
		}
		conn, err := pgx.Connect(t.Context(), "sslmode=disable user=admin dbname=postgres host="+host+" port="+port)
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
	}
	got := runBinary(t, nil, "proxy", serverURL("admin"), "--socket", dir)
	require.Equal(t, exitFailure, got.status)
	require.Contains(t, got.stderr, "in use")
	p.stop(t)
}

// A socket that a killed proxy has left behind is in nobody's way.
func TestProxyStaleSocket(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o700))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, ".s.PGSQL.5432"), Net: "unix"})
	require.NoError(t, err)
	l.SetUnlinkOnClose(false)
	require.NoError(t, l.Close())
	startProxy(t, nil, "--socket", dir)
}

func TestProxyCannotListen(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	open := t.TempDir()
	require.NoError(t, os.Chmod(open, 0o755))
	empty := filepath.Join(t.TempDir(), "empty")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	for _, tt := range []struct {
		args   string
		status int
		says   string
	}{
		{"--listen " + taken.Addr().String(), exitFailure, "is in use, perhaps by a PostgreSQL; choose another port"},
		{"--listen 127.0.0.1:99999", exitFailure, "--listen: "},
		{"--listen 0.0.0.0:0", exitFailure, "can be reached from other machines: listen on loopback or a unix socket, or set Password and TLS"},
		{"--listen 127.0.0.1:0 --health " + taken.Addr().String(), exitFailure, "--health: "},
		{"--socket " + open, exitFailure, "chmod 700"},
		{"--password-file " + empty, exitFailure, "is empty"},
		{"--password-file " + empty + "x", exitFailure, "--password-file: "},
		{"--tls-cert x", exitUsage, "--tls-cert and --tls-key go together"},
		{"--tls-cert x --tls-key y", exitFailure, "--tls-cert, --tls-key: "},
		{"--log-format xml", exitUsage, "neither text nor json"},
		{"--drain never", exitUsage, "write it like"},
		{"--max-connections -1 --listen 127.0.0.1:0", exitConfig, "MaxConnections"},
		{"--", exitUsage, "no command behind --"},
		{"-- no-such-command-anywhere", exitNoPsql, "no-such-command-anywhere"},
	} {
		got := runBinary(t, nil, append([]string{"proxy", serverURL("admin")}, strings.Fields(tt.args)...)...)
		require.Equal(t, tt.status, got.status, "%s: %s", tt.args, got.stderr)
		require.Contains(t, got.stderr, tt.says, tt.args)
	}
	got := runBinary(t, nil, "proxy", serverURL("nobody"), "--wait", "--listen", "127.0.0.1:0")
	require.Equal(t, exitFailure, got.status)
	require.Contains(t, got.stderr, "--wait: ")
	require.NotContains(t, got.stdout, "ready")
}

// A command behind -- finds the proxy in its environment, and its status is the proxy's.
func TestProxyCommand(t *testing.T) {
	env := []string{"PGHOST=elsewhere", "PGSERVICE=other", "PGOPTIONS=-c work_mem=1"}
	got := runBinary(t, env, "proxy", serverURL("admin"), "--", "psql", "-XAtc", "select current_user")
	require.Equal(t, result{stdout: "admin\n"}, got)
	got = runBinary(t, env, "proxy", serverURL("app"), "--", "sh", "-c", `psql -XAtc "select current_user" "$DATABASE_URL"; env | grep ^PG | sort; exit 42`)
	require.Equal(t, 42, got.status)
	require.Regexp(t, `^app\nPGDATABASE=postgres\nPGHOST=127\.0\.0\.1\nPGPASSWORD=\w{20,}\nPGPORT=\d+\nPGSSLMODE=disable\nPGUSER=app\n$`, got.stdout)
	require.Empty(t, got.stderr)

	dir := filepath.Join(t.TempDir(), "socket")
	got = runBinary(t, env, "proxy", serverURL("admin"), "--socket", dir, "--", "sh", "-c", `psql -XAtc "select 1"; psql -XAtc "select 2" "$DATABASE_URL"; echo "${PGPASSWORD-none}"`)
	require.Equal(t, result{stdout: "1\n2\nnone\n"}, got)
}

// SIGTERM is the command's to handle; what it still asks is answered.
func TestProxyCommandSignal(t *testing.T) {
	cmd := exec.Command(binary, "proxy", serverURL("admin"), "--", "sh", "-c", `trap 'psql -XAtc "select 42"; exit 3' TERM; echo up; while :; do sleep 0.05; done`)
	cmd.Env = os.Environ()
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	r := bufio.NewReader(stdout)
	line, err := r.ReadString('\n')
	require.NoError(t, err)
	require.Equal(t, "up\n", line)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	rest, err := io.ReadAll(r)
	require.NoError(t, err)
	require.Equal(t, "42\n", string(rest))
	_ = cmd.Wait()
	require.Equal(t, 3, cmd.ProcessState.ExitCode())
}

func TestHealth(t *testing.T) {
	var stats dsqlproxy.Stats
	handler := healthHandler(func() dsqlproxy.Stats { return stats })
	get := func(path string) (int, string) {
		w := httptest.NewRecorder()
		handler.ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code, w.Body.String()
	}
	for _, path := range []string{"/startup", "/liveness", "/readiness"} {
		status, body := get(path)
		require.Equal(t, 200, status)
		require.Equal(t, "ok\n", body)
	}
	for reason, s := range map[string]dsqlproxy.Stats{"draining": {Draining: true}, "--max-connections": {Full: true}, "last login": {Failing: true}} {
		stats = s
		status, body := get("/readiness")
		require.Equal(t, 503, status)
		require.Contains(t, body, reason)
		status, _ = get("/liveness")
		require.Equal(t, 200, status)
	}
	stats = dsqlproxy.Stats{Clients: 7, BytesToClient: 1 << 40}
	_, body := get("/metrics")
	require.Contains(t, body, "\n# TYPE dsql_proxy_clients gauge\ndsql_proxy_clients 7\n")
	require.Contains(t, body, "\ndsql_proxy_to_client_bytes_total 1099511627776\n")
	status, _ := get("/other")
	require.Equal(t, 404, status)
}

// The health address serves what the proxy does.
func TestProxyHealth(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	address := l.Addr().String()
	require.NoError(t, l.Close()) // free, as far as anybody can tell
	p := startProxy(t, nil, "--listen", "127.0.0.1:0", "--health", address, "--spares", "2")
	conn, err := pgx.Connect(t.Context(), pgURL(p.address, ""))
	require.NoError(t, err)
	defer conn.Close(t.Context())
	response, err := http.Get(fmt.Sprintf("http://%s/metrics", address))
	require.NoError(t, err)
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	require.NoError(t, err)
	require.Contains(t, string(body), "\ndsql_proxy_relaying 1\n")
}
