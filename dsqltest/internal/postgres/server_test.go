//go:build unix

package postgres

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// openTempDir is a temporary directory that every user may use: as root, the
// tests run PostgreSQL as another user, who could not enter t.TempDir.
func openTempDir(t *testing.T) string {
	dir, err := os.MkdirTemp("/tmp", "dsqltest-test-")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	require.NoError(t, os.Chmod(dir, 0o777))
	return dir
}

func mustStart(t *testing.T, dataDir string) *Server {
	p, err := Start(t.Context(), Config{DataDir: dataDir})
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, p.Close()) })
	return p
}

// queryText returns the first column of a query's last row.
func queryText(t *testing.T, p *Server, sql string) string {
	session, err := p.Open(t.Context())
	require.NoError(t, err)
	defer session.Close()
	row, err := session.Query(sql)
	require.NoError(t, err)
	return row[0]
}

func postmasterPID(t *testing.T, dataDir string) int {
	file, err := os.ReadFile(filepath.Join(dataDir, "postmaster.pid"))
	require.NoError(t, err)
	line, _, _ := strings.Cut(string(file), "\n")
	pid, err := strconv.Atoi(line)
	require.NoError(t, err)
	return pid
}

func processExists(pid int) bool {
	return !errors.Is(syscall.Kill(pid, 0), syscall.ESRCH)
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return !errors.Is(err, os.ErrNotExist)
}

func TestServer(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	for name, value := range map[string]string{
		"PGHOST":           "a.invalid,b.invalid",
		"PGPORT":           "1",
		"PGUSER":           "nobody",
		"PGDATABASE":       "none",
		"PGDATA":           "/nonexistent",
		"PGSERVICE":        "none",
		"PGSERVICEFILE":    "/nonexistent",
		"PGPASSFILE":       "/nonexistent",
		"PGOPTIONS":        "-c nonsense=1",
		"PGTZ":             "Asia/Tokyo",
		"PGCLIENTENCODING": "LATIN1",
		"PGDATESTYLE":      "German",
		"TZ":               "Asia/Tokyo",
		"LC_ALL":           "de_DE.UTF-8",
	} {
		t.Setenv(name, value)
	}
	p, err := Start(t.Context(), Config{})
	require.NoError(t, err)
	pid := postmasterPID(t, filepath.Join(p.dir, "data"))

	info, err := os.Stat(p.dir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	require.Equal(t, p.dir, queryText(t, p, `SELECT trim(both '"' from current_setting('unix_socket_directories'))`))
	for setting, want := range map[string]string{
		"listen_addresses":              "",
		"default_transaction_isolation": "repeatable read",
		"TimeZone":                      "UTC",
		"log_timezone":                  "UTC",
		"DateStyle":                     "ISO, MDY",
		"server_encoding":               "UTF8",
		"client_encoding":               "UTF8",
		"lc_messages":                   "C",
		"max_connections":               "1000",
		"fsync":                         "off",
		"synchronous_commit":            "off",
	} {
		require.Equal(t, want, queryText(t, p, "SELECT current_setting('"+setting+"', true)"), setting)
	}

	require.NoError(t, p.Exec(t.Context(), "CREATE ROLE someone LOGIN; CREATE TABLE t (a int)"))
	require.Equal(t, "1", queryText(t, p, "SELECT count(*) FROM pg_roles WHERE rolname = 'someone'"))
	var pgErr *pgconn.PgError
	require.ErrorAs(t, p.Exec(t.Context(), "SELECT 1/0"), &pgErr)
	require.Equal(t, "22012", pgErr.Code)

	// A session that is open, and busy, does not hold up close.
	slow := make(chan error, 1)
	go func() { slow <- p.Exec(context.Background(), "SELECT pg_sleep(600)") }()
	require.Eventually(t, func() bool {
		return queryText(t, p, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1"
	}, time.Minute, 10*time.Millisecond)

	require.NoError(t, p.Close())
	require.Error(t, <-slow)
	require.False(t, processExists(pid))
	require.False(t, exists(p.dir))
	require.NoError(t, p.Close())
	_, err = p.Dial(t.Context())
	require.ErrorContains(t, err, "it is closed")
	goleak.VerifyNone(t, leaks)
}

func TestExecEndsWithContext(t *testing.T) {
	p := mustStart(t, "")
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("enough")
	done := make(chan error, 1)
	go func() { done <- p.Exec(ctx, "SELECT pg_sleep(600)") }()
	require.Eventually(t, func() bool {
		return queryText(t, p, "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'") == "1"
	}, time.Minute, 10*time.Millisecond)
	cancel(reason)
	require.ErrorIs(t, <-done, reason)
}

func TestConcurrentUse(t *testing.T) {
	p := mustStart(t, "")
	const users = 100
	errs := make(chan error, users)
	for i := range users {
		go func() { errs <- p.Exec(t.Context(), fmt.Sprintf("CREATE TABLE t%d (a int)", i)) }()
	}
	for range users {
		require.NoError(t, <-errs)
	}
	var closers sync.WaitGroup
	for range 4 {
		closers.Go(func() { p.Close() }) // the clean-up looks
	}
	closers.Wait()
}

// One kernel queue slot and nobody who accepts: dial has to wait for its turn.
func TestDialWaitsForAFullQueue(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the queue's length is Linux's")
	}
	p := &Server{dir: t.TempDir(), gone: make(chan struct{})}
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	require.NoError(t, syscall.Bind(fd, &syscall.SockaddrUnix{Name: filepath.Join(p.dir, socketName)}))
	require.NoError(t, syscall.Listen(fd, 0))
	file := os.NewFile(uintptr(fd), "listener")
	defer file.Close()
	first, err := p.Dial(t.Context())
	require.NoError(t, err)
	defer first.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err = p.Dial(ctx)
	require.ErrorIs(t, err, context.DeadlineExceeded)

	second := make(chan error, 1)
	go func() {
		conn, err := p.Dial(t.Context())
		if err == nil {
			conn.Close()
		}
		second <- err
	}()
	listener, err := net.FileListener(file)
	require.NoError(t, err)
	defer listener.Close()
	accepted, err := listener.Accept()
	require.NoError(t, err)
	defer accepted.Close()
	require.NoError(t, <-second)
}

func TestKeepsDataDir(t *testing.T) {
	dataDir := filepath.Join(openTempDir(t), "not", "there yet")
	p, err := Start(t.Context(), Config{DataDir: dataDir})
	if os.Geteuid() == 0 {
		// The directories in between are root's own, mode 0700.
		require.ErrorContains(t, err, "may not use the data directory "+dataDir)
		require.NoError(t, os.Chmod(filepath.Dir(dataDir), 0o711))
		p, err = Start(t.Context(), Config{DataDir: dataDir})
	}
	require.NoError(t, err)
	info, err := os.Stat(dataDir)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o700), info.Mode().Perm())
	require.NoError(t, p.Exec(t.Context(), "CREATE TABLE kept AS SELECT 42 AS a"))

	_, err = Start(t.Context(), Config{DataDir: dataDir})
	require.ErrorContains(t, err, `lock file "postmaster.pid" already exists`)

	require.NoError(t, p.Close())
	require.False(t, exists(p.dir))
	p = mustStart(t, dataDir)
	require.Equal(t, "42", queryText(t, p, "SELECT a FROM kept"))
}

func TestRefusesAForeignDataDir(t *testing.T) {
	dataDir := openTempDir(t)
	require.NoError(t, os.WriteFile(filepath.Join(dataDir, "diary"), []byte("dear"), 0o644))
	_, err := Start(t.Context(), Config{DataDir: dataDir})
	require.ErrorContains(t, err, "could not access the server configuration file")
	require.True(t, exists(filepath.Join(dataDir, "diary")))
}

func TestStartEndsWithContext(t *testing.T) {
	leaks := goleak.IgnoreCurrent()
	mustStart(t, "").Close() // for the template, which stays
	tmp := openTempDir(t)
	t.Setenv("TMPDIR", tmp)
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("no more time")
	go func() {
		for !exists(tmp) || len(entries(tmp)) == 0 {
			runtime.Gosched()
		}
		cancel(reason)
	}()
	_, err := Start(ctx, Config{})
	require.ErrorIs(t, err, reason)
	require.Empty(t, entries(tmp))
	goleak.VerifyNone(t, leaks)
}

// The second PostgreSQL is a copy, and so is one that is kept: both know nothing
// of the first, nor of an initdb that is not there any more.
func TestTemplate(t *testing.T) {
	first := mustStart(t, "")
	require.NoError(t, first.Exec(t.Context(), "CREATE TABLE t (a int)"))
	made := template.dir
	for _, dataDir := range []string{"", openTempDir(t)} {
		p := mustStart(t, dataDir)
		require.Equal(t, made, template.dir)
		require.NoError(t, p.Exec(t.Context(), "CREATE TABLE t (a int)"))
	}
	require.NoError(t, os.RemoveAll(made))
	mustStart(t, "")
	require.NotEqual(t, made, template.dir)
}

func TestTemporaryDirectory(t *testing.T) {
	t.Run("where the account may not write", func(t *testing.T) {
		if os.Geteuid() != 0 {
			t.Skip("needs another account")
		}
		tmp := openTempDir(t)
		require.NoError(t, os.Chmod(tmp, 0o755))
		t.Setenv("TMPDIR", tmp)
		require.Equal(t, "/tmp", filepath.Dir(mustStart(t, "").dir))
	})
	t.Run("too long for a socket", func(t *testing.T) {
		tmp := filepath.Join(openTempDir(t), strings.Repeat("x", 80))
		require.NoError(t, os.Mkdir(tmp, 0o777))
		require.NoError(t, os.Chmod(tmp, 0o777))
		t.Setenv("TMPDIR", tmp)
		require.Equal(t, "/tmp", filepath.Dir(mustStart(t, "").dir))
	})
	t.Run("with a comma, a space and a quote", func(t *testing.T) {
		tmp := filepath.Join(openTempDir(t), "a, b's")
		require.NoError(t, os.Mkdir(tmp, 0o777))
		require.NoError(t, os.Chmod(tmp, 0o777))
		t.Setenv("TMPDIR", tmp)
		require.Equal(t, tmp, filepath.Dir(mustStart(t, "").dir))
	})
}

func TestDiesByItself(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGINT} {
		t.Run(sig.String(), func(t *testing.T) {
			p, err := Start(t.Context(), Config{})
			require.NoError(t, err)
			require.NoError(t, syscall.Kill(postmasterPID(t, filepath.Join(p.dir, "data")), sig))
			<-p.gone
			require.False(t, exists(p.dir))
			_, err = p.Dial(t.Context())
			require.ErrorContains(t, err, "it ended by itself")
			require.ErrorContains(t, err, "database system is ready to accept connections", "the log's end is there")
			require.ErrorIs(t, p.Close(), p.err)
		})
	}
}

// childEnv tells TestChild, in a process of its own, what to do.
const childEnv = "DSQLTEST_CHILD"

func TestChild(t *testing.T) {
	how := os.Getenv(childEnv)
	if how == "" {
		t.Skip("for TestEndsWithItsProcess and others, in a process of its own")
	}
	p, err := Start(t.Context(), Config{})
	require.NoError(t, err)
	fmt.Printf("%s %d\n", p.dir, postmasterPID(t, filepath.Join(p.dir, "data")))
	switch how {
	case "exit":
		os.Exit(3)
	case "panic":
		panic("at the disco")
	default:
		io.Copy(io.Discard, os.Stdin) // until the parent kills us, or is gone itself
	}
}

// startChild runs TestChild with TMPDIR at tmp.
func startChild(t *testing.T, how, tmp string) (*exec.Cmd, io.Reader) {
	cmd := exec.Command(os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), childEnv+"="+how, "TMPDIR="+tmp)
	_, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill() // it is gone already where all went well
		cmd.Wait()         // killed
	})
	return cmd, stdout
}

func TestEndsWithItsProcess(t *testing.T) {
	for _, how := range []string{"SIGKILL", "SIGTERM to all", "exit", "panic"} {
		t.Run(how, func(t *testing.T) {
			tmp := openTempDir(t)
			cmd, stdout := startChild(t, how, tmp)
			line, err := bufio.NewReader(stdout).ReadString('\n')
			require.NoError(t, err)
			var dir string
			var pid int
			_, err = fmt.Sscan(line, &dir, &pid)
			require.NoError(t, err)
			require.Equal(t, tmp, filepath.Dir(dir))

			switch how {
			case "SIGKILL":
				require.True(t, processExists(pid))
				require.NoError(t, cmd.Process.Kill())
			case "SIGTERM to all":
				// As a service manager does: the child, then the supervisor.
				require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
				status, err := exec.Command("ps", "-o", "ppid=", "-p", strconv.Itoa(pid)).Output()
				if err == nil {
					supervisor, err := strconv.Atoi(string(bytes.TrimSpace(status)))
					require.NoError(t, err)
					require.NoError(t, syscall.Kill(-supervisor, syscall.SIGTERM))
				}
			}
			require.Eventually(t, func() bool {
				return !processExists(pid) && len(entries(tmp)) == 0
			}, 30*time.Second, 10*time.Millisecond)
		})
	}
}

// The moments before PostgreSQL runs: a directory was just made, initdb is at
// work, its result is being copied, PostgreSQL starts.
func TestStartEndsWithItsProcess(t *testing.T) {
	for _, until := range []struct {
		pattern string
		count   int
	}{{"*", 1}, {"*/data/global", 1}, {"*/data", 2}, {"*/log", 1}} {
		t.Run(fmt.Sprint(until), func(t *testing.T) {
			tmp := openTempDir(t)
			cmd, _ := startChild(t, "SIGKILL", tmp)
			require.Eventually(t, func() bool {
				found, err := filepath.Glob(filepath.Join(tmp, until.pattern))
				require.NoError(t, err)
				return len(found) >= until.count
			}, 30*time.Second, time.Millisecond)
			require.NoError(t, cmd.Process.Kill())
			require.Eventually(t, func() bool { return len(entries(tmp)) == 0 }, 30*time.Second, 10*time.Millisecond)
		})
	}
}

func entries(dir string) []string {
	list, err := os.ReadDir(dir)
	if err != nil {
		panic(err)
	}
	names := make([]string, len(list))
	for i, entry := range list {
		names[i] = entry.Name()
	}
	return names
}

func TestFindBinaries(t *testing.T) {
	root := t.TempDir()
	install := func(dir string, mode os.FileMode, names ...string) string {
		dir = filepath.Join(root, dir)
		require.NoError(t, os.MkdirAll(dir, 0o755))
		for _, name := range names {
			require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, mode))
		}
		return dir
	}
	both := []string{"initdb", "postgres"}
	inPath := install("bin", 0o755, both...)
	half := install("half", 0o755, "initdb")
	plain := install("plain", 0o644, both...)
	install("lib/9.6/bin", 0o755, both...)
	v16 := install("lib/16/bin", 0o755, both...)
	install("lib/17/bin", 0o755, "postgres")
	rpm := install("pgsql-15", 0o755, both...)
	places := []string{filepath.Join(root, "lib/*/bin"), filepath.Join(root, "pgsql-*")}

	for _, tt := range []struct {
		name   string
		path   []string
		places []string
		want   string
	}{
		{name: "PATH first", path: []string{half, plain, inPath}, places: places, want: inPath},
		{name: "newest whole version", path: []string{half, plain}, places: places, want: v16},
		{name: "places in order", places: []string{places[1], places[0]}, want: rpm},
		{name: "nowhere", path: []string{half, plain, "bin", "."}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(root)
			initdb, postgres, err := findBinaries(strings.Join(tt.path, ":"), tt.places)
			if tt.want == "" {
				require.ErrorContains(t, err, "it is not installed")
				return
			}
			require.NoError(t, err)
			require.Equal(t, filepath.Join(tt.want, "initdb"), initdb)
			require.Equal(t, filepath.Join(tt.want, "postgres"), postgres)
		})
	}
}

func TestCompareVersions(t *testing.T) {
	for _, tt := range []struct{ older, newer string }{
		{"/usr/lib/postgresql/9.6/bin", "/usr/lib/postgresql/16/bin"},
		{"/usr/lib/postgresql/9.5/bin", "/usr/lib/postgresql/9.6/bin"},
		{"/opt/homebrew/opt/postgresql@9/bin", "/opt/homebrew/opt/postgresql@17/bin"},
	} {
		require.Negative(t, compareVersions(tt.older, tt.newer), tt.newer)
		require.Positive(t, compareVersions(tt.newer, tt.older), tt.newer)
		require.Zero(t, compareVersions(tt.older, tt.older))
	}
}

func TestHowToInstall(t *testing.T) {
	require.Contains(t, howToInstall("linux"), "apt-get install postgresql")
	require.Contains(t, howToInstall("darwin"), "brew install postgresql@16")
}
