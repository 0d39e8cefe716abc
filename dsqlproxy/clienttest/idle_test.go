package clienttest

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// memoryPerClient bounds what an idle client costs the proxy: 41 KiB were measured with 5,000 of
// them.
const memoryPerClient = 64 << 10

// Thousands of idle clients are held, and each can be used afterwards.
func TestIdleClients(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("memory is read from /proc")
	}
	clients := 5000
	if testing.Short() {
		clients = 300
	}
	plain := filepath.Join(t.TempDir(), "dsql") // the race detector takes several times the memory
	out, err := exec.Command("go", "build", "-o", plain, "../../cmd/dsql").CombinedOutput()
	require.NoError(t, err, string(out))
	defer func(raced string) { binary = raced }(binary)
	binary = plain

	host, port, process := startProxyProcess(t)
	before := residentMemory(t, process)
	conns := make([]*pgconn.PgConn, clients)
	var wg sync.WaitGroup
	var next sync.Mutex
	n := 0
	for range 16 {
		wg.Go(func() {
			for {
				next.Lock()
				i := n
				n++
				next.Unlock()
				if i >= clients {
					return
				}
				conn, err := pgconn.Connect(context.Background(), fmt.Sprintf("host=%s port=%s user=admin dbname=postgres sslmode=disable", host, port))
				if err != nil {
					t.Error(err)
					return
				}
				conns[i] = conn
			}
		})
	}
	wg.Wait()
	if t.Failed() {
		return
	}
	used := residentMemory(t, process) - before
	t.Logf("%d idle clients: %d MiB, %d KiB each", clients, used>>20, used/clients>>10)
	require.Less(t, used/clients, memoryPerClient)
	for i := 0; i < clients; i += clients / 100 {
		_, err := conns[i].Exec(t.Context(), "select 1").ReadAll()
		require.NoError(t, err)
	}
	for _, conn := range conns {
		require.NoError(t, conn.Conn().Close())
	}
}

var residentLine = regexp.MustCompile(`VmRSS:\s+(\d+) kB`)

// residentMemory is that of a process, in bytes.
func residentMemory(t *testing.T, process *os.Process) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", process.Pid))
	require.NoError(t, err)
	m := residentLine.FindSubmatch(status)
	require.NotNil(t, m)
	kib, err := strconv.Atoi(string(m[1]))
	require.NoError(t, err)
	return kib << 10
}
