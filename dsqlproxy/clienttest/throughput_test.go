package clienttest

import (
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var (
	throughputRounds  = flag.Int("throughput.rounds", 0, "how many rounds TestThroughput measures; 0 skips it")
	throughputSeconds = flag.Int("throughput.seconds", 3, "how long each of its runs takes")
)

// TestThroughput measures pgbench with "select 1" and the extended protocol: directly, through
// "dsql proxy" and through pgbouncer in session mode, which verifies the same certificate. They
// take turns, so that other load on the machine affects all of them; the ratio is that of each
// round.
//
//	go test ./dsqlproxy/clienttest -run TestThroughput -v -throughput.rounds 7
func TestThroughput(t *testing.T) {
	if *throughputRounds == 0 {
		t.Skip("it measures only when asked to: -throughput.rounds")
	}
	pgbench := program(t, "pgbench")
	script := filepath.Join(t.TempDir(), "select.sql")
	require.NoError(t, os.WriteFile(script, []byte("select 1;\n"), 0o600))
	host, port, _ := startProxyProcess(t)
	bouncer := startPgBouncer(t)
	clusterHost, clusterPort, err := net.SplitHostPort(cluster.Addr())
	require.NoError(t, err)
	ways := []struct {
		name string
		env  []string
	}{
		{"pgbouncer", []string{"PGHOST=127.0.0.1", "PGPORT=" + bouncer, "PGSSLMODE=disable"}},
		{"dsql proxy", []string{"PGHOST=" + host, "PGPORT=" + port, "PGSSLMODE=disable"}},
		{"direct", []string{"PGHOST=" + cluster.PrivateEndpoint(), "PGHOSTADDR=" + clusterHost, "PGPORT=" + clusterPort, "PGPASSWORD=" + token(t), "PGSSLMODE=verify-full", "PGSSLROOTCERT=" + caFile}},
	}
	for _, clients := range []int{1, 8, 32} {
		rates, ratios := make([][]float64, len(ways)), make([][]float64, len(ways))
		for range *throughputRounds {
			round := make([]float64, len(ways))
			for i, w := range ways {
				cmd := exec.CommandContext(t.Context(), pgbench, "-n", "-M", "extended", "-f", script, "-c", fmt.Sprint(clients), "-T", fmt.Sprint(*throughputSeconds))
				cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "PGUSER=admin", "PGDATABASE=postgres"}, w.env...)
				out, err := cmd.CombinedOutput()
				require.NoError(t, err, "%s: %s", w.name, out)
				m := regexp.MustCompile(`tps = ([0-9.]+)`).FindSubmatch(out)
				require.NotNil(t, m, string(out))
				round[i], err = strconv.ParseFloat(string(m[1]), 64)
				require.NoError(t, err)
			}
			for i := range ways {
				rates[i], ratios[i] = append(rates[i], round[i]), append(ratios[i], round[i]/round[0])
			}
		}
		for i, w := range ways {
			slices.Sort(rates[i])
			slices.Sort(ratios[i])
			n := len(rates[i])
			t.Logf("%2d clients, %-10s: %6.0f a second (%.0f to %.0f); %.2f of pgbouncer (%.2f to %.2f)", clients, w.name,
				rates[i][n/2], rates[i][0], rates[i][n-1], ratios[i][n/2], ratios[i][0], ratios[i][n-1])
		}
	}
}

// token is one for admin.
func token(t *testing.T) string {
	t.Helper()
	cmd := exec.Command(binary, "token", vpcURL())
	cmd.Env = awsEnv()
	out, err := cmd.Output()
	require.NoError(t, err)
	return strings.TrimSpace(string(out))
}

// startPgBouncer runs one until the test ends, and returns its port. The endpoint's name is in a
// hosts file that it alone sees, which takes root and a mount namespace.
func startPgBouncer(t *testing.T) (port string) {
	t.Helper()
	bouncer, err := exec.LookPath("pgbouncer")
	if err != nil || os.Getuid() != 0 {
		t.Skip("pgbouncer is not installed, or this is not root")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	_, port, _ = net.SplitHostPort(l.Addr().String())
	require.NoError(t, l.Close())
	_, clusterPort, err := net.SplitHostPort(cluster.Addr())
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "dsql-pgbouncer-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
		return path
	}
	hosts := write("hosts", "127.0.0.1 localhost "+cluster.PrivateEndpoint()+"\n")
	ini := write("pgbouncer.ini", fmt.Sprintf(`[databases]
postgres = host=%s port=%s user=admin password=%s dbname=postgres
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = %s
unix_socket_dir =
auth_type = any
pool_mode = session
server_reset_query =
server_tls_sslmode = verify-full
server_tls_ca_file = %s
default_pool_size = 100
`, cluster.PrivateEndpoint(), clusterPort, token(t), port, write("ca.pem", string(cluster.CAPEM()))))
	cmd := exec.Command("unshare", "-m", "sh", "-c", `mount --bind "$1" /etc/hosts && exec setpriv --reuid=nobody --regid=nogroup --clear-groups "$2" "$3"`, "sh", hosts, bouncer, ini)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			conn.Close()
		}
		return err == nil
	}, 10*time.Second, 10*time.Millisecond)
	return port
}
