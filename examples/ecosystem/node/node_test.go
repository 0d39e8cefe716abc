// Package node has AWS's own connector for Node run against "dsql local", which
// has to be what it takes for a cluster.
package node

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/examples/ecosystem/internal/local"
)

const withCA = `export NODE_EXTRA_CA_CERTS="$DSQL_CA_FILE"; `

func TestConnector(t *testing.T) {
	dir := install(t)
	exports := local.Start(t).Exports

	type result struct {
		User       string
		N          int
		Attempts   int
		Authorized bool
		Servername string
		ALPN       any // false for none
	}
	endpoint := strings.TrimSpace(shell(t, dir, exports, `echo "$DSQL_HOST"`))
	want := result{User: "admin", N: 11, Attempts: 2, Authorized: true, Servername: endpoint, ALPN: false}
	require.Equal(t, want, decode[result](t, shell(t, dir, exports, withCA+"node query.mjs")))
	want.ALPN = "postgresql"
	require.Equal(t, want, decode[result](t, shell(t, dir, exports, withCA+"PGSSLNEGOTIATION=direct node query.mjs")))

	// It was verified: neither another authority's certificate nor another name passes.
	require.Contains(t, fails(t, dir, exports, "unset NODE_EXTRA_CA_CERTS; node query.mjs"), "CERT")
	require.Contains(t, fails(t, dir, exports, withCA+"DSQL_HOST=db.example.com node query.mjs"), "ERR_TLS_CERT_ALTNAME_INVALID")
	// And so was the token.
	require.Contains(t, fails(t, dir, exports, withCA+"AWS_SECRET_ACCESS_KEY=wrong node query.mjs"), "unable to accept connection, access denied")

	// What it wrote, seen from Go.
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"} {
		t.Setenv(name, strings.TrimSpace(shell(t, dir, exports, `echo "$`+name+`"`)))
	}
	t.Setenv("AWS_SESSION_TOKEN", "")
	config, err := dsql.ParseConfig(strings.TrimSpace(shell(t, dir, exports, `echo "$DSQL_URL"`)))
	require.NoError(t, err)
	conn, err := dsql.Connect(t.Context(), config)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	var n int
	require.NoError(t, conn.QueryRow(t.Context(), "select n from node_counter").Scan(&n))
	require.Equal(t, 11, n)
}

// A client of WebSockets that is not ours, and that knows nothing of PostgreSQL.
func TestWebSocket(t *testing.T) {
	dir := install(t)
	exports := local.Start(t).Exports

	type result struct {
		Value      string
		Length     int
		Authorized bool
		ALPN       string
		Closed     int
	}
	want := result{Value: "admin42", Length: 100_000, Authorized: true, ALPN: "http/1.1", Closed: 1000}
	require.Equal(t, want, decode[result](t, shell(t, dir, exports, withCA+"node websocket.mjs")))

	require.Contains(t, fails(t, dir, exports, "unset NODE_EXTRA_CA_CERTS; node websocket.mjs"), "CERT")
	require.Contains(t, fails(t, dir, exports, withCA+"AWS_SECRET_ACCESS_KEY=wrong node websocket.mjs"), "unable to accept connection, access denied")
}

// install puts the packages into a directory of its own, in the versions of package-lock.json.
func install(t *testing.T) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("dsqltest does not run here")
	}
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed", program)
		}
	}
	dir := t.TempDir()
	for _, name := range []string{"package.json", "package-lock.json", "query.mjs", "websocket.mjs"} {
		content, err := os.ReadFile(name)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	for try := 1; ; try++ {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		npm := exec.CommandContext(ctx, "npm", "ci", "--no-audit", "--no-fund", "--ignore-scripts")
		npm.Dir = dir
		out, err := npm.CombinedOutput()
		cancel()
		if err == nil {
			return dir
		}
		if try == 2 {
			t.Fatalf("npm ci: %v\n%s", err, out)
		}
	}
}

// shell runs a command with the environment that exports makes.
func shell(t *testing.T, dir, exports, command string) string {
	t.Helper()
	var stderr strings.Builder
	cmd := shellCommand(t, dir, exports, command)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	return string(out)
}

func fails(t *testing.T, dir, exports, command string) string {
	t.Helper()
	out, err := shellCommand(t, dir, exports, command).CombinedOutput()
	require.Error(t, err, string(out))
	return string(out)
}

func shellCommand(t *testing.T, dir, exports, command string) *exec.Cmd {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, "sh", "-c", ". '"+exports+"'; "+command)
	cmd.Dir = dir
	return cmd
}

func decode[T any](t *testing.T, text string) (value T) {
	t.Helper()
	require.NoError(t, json.Unmarshal([]byte(text), &value), text)
	return value
}
