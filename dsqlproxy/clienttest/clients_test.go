// Package clienttest runs the PostgreSQL clients of other languages through "dsql proxy", in front
// of package dsqltest under a VPC endpoint's name; and, without the proxy, what
// docs/other-languages.md shows.
package clienttest

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqltest"
)

var (
	cluster *dsqltest.Server
	binary  string // dsql
	caFile  string // cluster's authority
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if runtime.GOOS == "windows" {
		fmt.Println("dsqltest does not run here")
		return 0
	}
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	dir, err := os.MkdirTemp("", "dsql-clients-")
	if err != nil {
		return fail(err)
	}
	defer os.RemoveAll(dir)
	binary = filepath.Join(dir, "dsql")
	build := []string{"build", "-o", binary}
	if info, ok := debug.ReadBuildInfo(); ok && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"}) {
		build = append(build, "-race") // its packages are compiled already
	}
	if out, err := exec.Command("go", append(build, "../../cmd/dsql")...).CombinedOutput(); err != nil {
		return fail(fmt.Errorf("go build: %w\n%s", err, out))
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if cluster, err = dsqltest.Start(ctx, dsqltest.WithConnectQuota(1000, 10_000)); err != nil {
		return fail(err)
	}
	defer cluster.Close()
	caFile = filepath.Join(dir, "ca.pem")
	if err := os.WriteFile(caFile, cluster.CAPEM(), 0o644); err != nil {
		return fail(err)
	}
	return m.Run()
}

// awsEnv holds the credentials, and no PG* variable.
func awsEnv() (env []string) {
	for _, v := range os.Environ() {
		if !strings.HasPrefix(v, "PG") && !strings.HasPrefix(v, "AWS_") {
			env = append(env, v)
		}
	}
	return append(env, "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull,
		"AWS_ACCESS_KEY_ID="+cluster.Credentials().AccessKeyID, "AWS_SECRET_ACCESS_KEY="+cluster.Credentials().SecretAccessKey,
		"GORACE=atexit_sleep_ms=0")
}

// vpcURL leads through the VPC endpoint's name, as in the first report.
func vpcURL() string {
	return "dsql://admin@" + cluster.VPCEndpoint() + "?cluster_id=" + cluster.ClusterID() + "&dial_address=" + cluster.Addr() + "&sslrootcert=" + caFile
}

// startProxy runs "dsql proxy" until the test ends, and returns the environment of its clients.
func startProxy(t *testing.T, args ...string) (env []string) {
	t.Helper()
	host, port, _ := startProxyProcess(t, args...)
	// Nothing of DSQL: neither the name, nor a token, nor a certificate.
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "LANG=C.UTF-8", "CONNECTS=" + fmt.Sprint(connects()),
		"PGHOST=" + host, "PGPORT=" + port, "PGUSER=admin", "PGDATABASE=postgres",
	}
}

// startProxyProcess returns where it listens.
func startProxyProcess(t *testing.T, args ...string) (host, port string, process *os.Process) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"proxy", vpcURL(), "--listen", "127.0.0.1:0"}, args...)...)
	cmd.Env = awsEnv()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		require.Equal(t, 0, cmd.ProcessState.ExitCode(), stderr.String())
	})
	ready, _ := bufio.NewReader(stdout).ReadString('\n')
	address, _, ok := strings.Cut(strings.TrimPrefix(ready, "# ready: "), ";")
	require.True(t, ok, "%q: %s", ready, &stderr)
	host, port, err = net.SplitHostPort(address)
	require.NoError(t, err)
	return host, port, cmd.Process
}

// connects is how often each client connects after its other checks.
func connects() int {
	if testing.Short() {
		return 50
	}
	return 200
}

// checks are what each client does, in this order; it prints each when it is done.
var checks = []string{"parameters", "transactions", "copy", "cancel", "errors", "connects"}

// runClient runs a program in testdata, and expects it to get through all checks.
func runClient(t *testing.T, dir string, env []string, name string, args ...string) {
	t.Helper()
	before := len(cluster.Attempts())
	out := runProgram(t, dir, env, name, args...)
	require.Equal(t, checks, strings.Fields(out))
	sessions := 0
	for _, a := range cluster.Attempts()[before:] {
		require.Equal(t, cluster.PrivateEndpoint(), a.ServerName)
		if a.User == "admin" {
			sessions++
		}
	}
	require.GreaterOrEqual(t, sessions, connects())
}

// runProgram returns what a program prints on stdout.
func runProgram(t *testing.T, dir string, env []string, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir, cmd.Env = dir, env
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	require.NoError(t, cmd.Run(), "%s\n%s", &stdout, &stderr)
	return stdout.String()
}

// python is Debian's, whose packages the clients are.
const python = "/usr/bin/python3"

// pythonModule skips a test where a module cannot be had.
func pythonModule(t *testing.T, module string) {
	t.Helper()
	wants(t, module+" for "+python, func() bool { return exec.Command(python, "-c", "import "+module).Run() == nil })
}

// pgJDBC returns the driver's jar.
func pgJDBC(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("javac"); err != nil {
		t.Skip("there is no JDK on this machine")
	}
	const jar = "/usr/share/java/postgresql.jar"
	wants(t, jar, func() bool { _, err := os.Stat(jar); return err == nil })
	return jar
}

// wants installs what is missing, or skips the test with the reason.
func wants(t *testing.T, what string, present func() bool) {
	t.Helper()
	if present() {
		return
	}
	if err := installClients(); err != nil {
		t.Skipf("%s is missing, and scripts/setup clients failed: %v", what, err)
	}
	if !present() {
		t.Skipf("%s is missing, also after scripts/setup clients", what)
	}
}

var installClients = sync.OnceValue(func() error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	out, err := exec.CommandContext(ctx, "../../scripts/setup", "clients").CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, bytes.TrimSpace(out))
	}
	return nil
})

// nodeClients returns a directory with the programs for Node and the packages that they need.
func nodeClients(t *testing.T) string {
	t.Helper()
	for _, program := range []string{"node", "npm"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("there is no %s on this machine", program)
		}
	}
	dir, err := installNode()
	if err != nil {
		t.Skip(err)
	}
	return dir
}

var installNode = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(filepath.Dir(binary), "node")
	if err := os.CopyFS(dir, os.DirFS("testdata")); err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	npm := exec.CommandContext(ctx, "npm", "install", "--no-audit", "--no-fund", "--ignore-scripts", "--no-package-lock")
	npm.Dir = dir
	if out, err := npm.CombinedOutput(); err != nil {
		return "", fmt.Errorf("npm install: %w: %s", err, bytes.TrimSpace(out))
	}
	return dir, nil
})

func TestAsyncpg(t *testing.T) {
	pythonModule(t, "asyncpg")
	runClient(t, "testdata", startProxy(t, "--compat"), python, "asyncpg_client.py")
}

func TestPsycopg2(t *testing.T) {
	pythonModule(t, "psycopg2")
	runClient(t, "testdata", startProxy(t), python, "psycopg2_client.py")
}

func TestPsycopg(t *testing.T) {
	pythonModule(t, "psycopg")
	runClient(t, "testdata", startProxy(t), python, "psycopg_client.py")
}

func TestNodePostgres(t *testing.T) {
	runClient(t, nodeClients(t), startProxy(t), "node", "node-postgres.mjs")
}

func TestPostgresJS(t *testing.T) {
	runClient(t, nodeClients(t), startProxy(t), "node", "postgresjs.mjs")
}

func TestJDBC(t *testing.T) {
	runClient(t, "testdata", startProxy(t), "java", "-cp", pgJDBC(t), "JdbcClient.java")
}
