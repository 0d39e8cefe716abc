//go:build unix

package dsql_test

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

func init() { childProcesses["frozen"] = frozenProcess }

// A process that was stopped for longer than its sessions and its token live, as Lambda stops it: the
// first queries afterwards work without an error.
func TestFrozenProcess(t *testing.T) {
	t.Parallel() // it waits, mostly
	s := dsqltest.New(t, dsqltest.WithSessionLifetime(2*time.Second))
	roots := filepath.Join(t.TempDir(), "roots.pem")
	require.NoError(t, os.WriteFile(roots, s.CAPEM(), 0o600))
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), childVariable+"=frozen", "HOST="+s.Endpoint(), "DIAL="+s.Addr(), "ROOTS="+roots,
		"KEY="+s.Credentials().AccessKeyID, "SECRET="+s.Credentials().SecretAccessKey)
	child.Stderr = os.Stderr
	stdin, err := child.StdinPipe()
	require.NoError(t, err)
	stdout, err := child.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, child.Start())
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}()
	lines := bufio.NewScanner(stdout)
	require.True(t, lines.Scan())
	require.Equal(t, "ready", lines.Text())
	require.Equal(t, 2*frozenConnections, s.Sessions())

	require.NoError(t, child.Process.Signal(syscall.SIGSTOP))
	stopped := time.Now()
	require.Eventually(t, func() bool { return s.Sessions() == 0 && time.Since(stopped) > 3*time.Second }, 20*time.Second, 10*time.Millisecond)
	before := len(s.Attempts())
	_, err = io.WriteString(stdin, "go on\n")
	require.NoError(t, err)
	require.NoError(t, child.Process.Signal(syscall.SIGCONT))
	require.True(t, lines.Scan())
	require.Equal(t, "every query worked", lines.Text())
	logins := 0
	for _, a := range s.Attempts()[before:] {
		if !a.Cancel { // pgx sends a cancel request for each connection that it found dead
			require.Equal(t, "ok", a.Outcome, "with a current token")
			logins++
		}
	}
	require.Equal(t, 2*frozenConnections, logins)
}

const frozenConnections = 3

// frozenProcess runs in the child.
func frozenProcess() int {
	if err := queryWhenFrozen(); err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

func queryWhenFrozen() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pem, err := os.ReadFile(os.Getenv("ROOTS"))
	if err != nil {
		return err
	}
	c := dsql.Config{
		Host: os.Getenv("HOST"), DialAddress: os.Getenv("DIAL"), RootCAs: x509.NewCertPool(), TokenLifetime: 2 * time.Second,
		Credentials: credentials.NewStaticCredentialsProvider(os.Getenv("KEY"), os.Getenv("SECRET"), ""),
		Params:      map[string]string{"pool_max_conns": fmt.Sprint(frozenConnections)},
	}
	c.RootCAs.AppendCertsFromPEM(pem)
	pool, err := dsql.NewPool(ctx, c)
	if err != nil {
		return err
	}
	defer pool.Close()
	db, err := dsql.OpenDB(ctx, c)
	if err != nil {
		return err
	}
	defer db.Close()

	// Each query waits for the others, so that all connections are in use.
	query := func() error {
		var ready sync.WaitGroup
		ready.Add(2 * frozenConnections)
		together := make(chan struct{})
		go func() { ready.Wait(); close(together) }()
		errs := make(chan error, 2*frozenConnections)
		for range frozenConnections {
			go func() {
				conn, err := pool.Acquire(ctx)
				ready.Done()
				if err == nil {
					defer conn.Release()
					<-together
					_, err = conn.Exec(ctx, "select 1")
				}
				errs <- err
			}()
			go func() {
				conn, err := db.Conn(ctx)
				ready.Done()
				if err == nil {
					defer conn.Close()
					<-together
					_, err = conn.ExecContext(ctx, "select 1")
				}
				errs <- err
			}()
		}
		for range 2 * frozenConnections {
			if err := <-errs; err != nil {
				return err
			}
		}
		return nil
	}
	if err := query(); err != nil {
		return err
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return err
	}
	if err := query(); err != nil {
		return err
	}
	fmt.Println("every query worked")
	return nil
}
