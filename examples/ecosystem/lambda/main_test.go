package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

// This binary is the function as well: TestFunction starts it as Lambda would.
func TestMain(m *testing.M) {
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	require.Contains(t, out.String(), "visit 1 of Ada, connections opened so far: 1")
	require.Contains(t, out.String(), "visit 2 of Ada, connections opened so far: 1")
}

func TestFunction(t *testing.T) {
	server := dsqltest.New(t)
	conn := prepare(t, server)
	before := len(server.Attempts())

	api := newRuntimeAPI(t)
	var logged bytes.Buffer
	function := exec.Command(os.Args[0])
	function.Stderr = &logged
	function.Env = functionEnv(t, server, api.address)
	require.NoError(t, function.Start())
	t.Cleanup(func() {
		_ = function.Process.Kill() // does nothing when it has ended
		_ = function.Wait()
	})

	require.JSONEq(t, `{"name": "Ada", "count": 1}`, api.invoke(t, `{"name": "Ada"}`))
	require.JSONEq(t, `{"name": "Ada", "count": 2}`, api.invoke(t, `{"name": "Ada"}`))
	require.Contains(t, api.invoke(t, `{"name": 7}`), "errorMessage", "a bad event is not the end")
	require.JSONEq(t, `{"name": "Grace", "count": 1}`, api.invoke(t, `{"name": "Grace"}`))

	attempts := server.Attempts()[before:]
	require.Len(t, attempts, 1, "one connection, so one token")
	require.Equal(t, "ok", attempts[0].Outcome)
	require.Equal(t, 2, server.Sessions(), "the function's and this test's")
	var sum int
	require.NoError(t, conn.QueryRow(t.Context(), "select sum(count) from lambda_visits").Scan(&sum))
	require.Equal(t, 3, sum)

	require.NoError(t, function.Process.Signal(syscall.SIGTERM))
	require.NoError(t, function.Wait())
	require.Contains(t, logged.String(), "pool closed")
	require.NotContains(t, logged.String(), "X-Amz")
	require.Eventually(t, func() bool { return server.Sessions() == 1 }, 10*time.Second, time.Millisecond)
}

// A connection that was lost while frozen costs the next invocation a second, not its life.
func TestThawed(t *testing.T) {
	server := dsqltest.New(t)
	prepare(t, server)
	var first losable
	config := server.Config()
	config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil && first.Conn == nil {
			first.Conn = conn
			return &first, nil
		}
		return conn, err
	}
	pool, err := newPool(t.Context(), config, func(c *pgxpool.Config) {
		// As if the environment had been frozen for longer than a second.
		c.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return true }
	})
	require.NoError(t, err)
	defer pool.Close()
	invoke := func() visits {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second) // the ping may take 1, a place comes free after 15
		defer cancel()
		result, err := function{pool}.handle(ctx, visit{"Ada"})
		require.NoError(t, err)
		return result
	}

	require.Equal(t, visits{"Ada", 1}, invoke())
	require.Equal(t, visits{"Ada", 2}, invoke())
	require.EqualValues(t, 1, pool.Stat().NewConnsCount())
	first.lost.Store(true)
	defer first.Close() // or the pool's Close would wait for its end too
	require.Equal(t, visits{"Ada", 3}, invoke())
	require.EqualValues(t, 2, pool.Stat().NewConnsCount())
}

// losable is a connection that a NAT may forget: what is written gets nowhere then, and
// nothing says so.
type losable struct {
	net.Conn
	lost atomic.Bool
}

func (c *losable) Write(p []byte) (int, error) {
	if c.lost.Load() {
		return len(p), nil
	}
	return c.Conn.Write(p)
}

func prepare(t *testing.T, server *dsqltest.Server) *pgx.Conn {
	t.Helper()
	pool, err := dsql.NewPool(t.Context(), server.Config())
	require.NoError(t, err)
	require.NoError(t, setUp(t.Context(), pool))
	pool.Close()
	conn, err := dsql.Connect(t.Context(), server.Config())
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.WithoutCancel(t.Context())) })
	return conn
}

// functionEnv is what the function's configuration and role give it in AWS.
func functionEnv(t *testing.T, server *dsqltest.Server, api string) []string {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, server.CAPEM(), 0o600))
	config := url.URL{Scheme: "dsql", User: url.User("admin"), Host: server.Endpoint(), RawQuery: "dial_address=" + server.Addr() + "&sslrootcert=" + url.PathEscape(ca)}
	return append(os.Environ(),
		"AWS_LAMBDA_RUNTIME_API="+api,
		"AWS_REGION="+server.Region(),
		"AWS_ACCESS_KEY_ID="+server.Credentials().AccessKeyID,
		"AWS_SECRET_ACCESS_KEY="+server.Credentials().SecretAccessKey,
		"AWS_SESSION_TOKEN=",
		"DSQL_URL="+config.String(),
	)
}

// runtimeAPI is Lambda's side: the runtime asks it for the next event and posts what became of it.
// https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
type runtimeAPI struct {
	address string
	events  chan string
	results chan string
}

func newRuntimeAPI(t *testing.T) *runtimeAPI {
	api := &runtimeAPI{events: make(chan string), results: make(chan string)}
	invocations := 0
	mux := http.NewServeMux()
	mux.HandleFunc("GET /2018-06-01/runtime/invocation/next", func(w http.ResponseWriter, r *http.Request) {
		select {
		case event := <-api.events:
			invocations++
			w.Header().Set("Lambda-Runtime-Aws-Request-Id", strconv.Itoa(invocations))
			w.Header().Set("Lambda-Runtime-Deadline-Ms", fmt.Sprint(time.Now().Add(30*time.Second).UnixMilli()))
			_, _ = io.WriteString(w, event)
		case <-r.Context().Done():
		}
	})
	result := func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		w.WriteHeader(http.StatusAccepted)
		select {
		case api.results <- string(body):
		case <-r.Context().Done():
		}
	}
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/response", result)
	mux.HandleFunc("POST /2018-06-01/runtime/invocation/{id}/error", result)
	// What asks for SIGTERM is an extension without events, so its next event never comes.
	mux.HandleFunc("POST /2020-01-01/extension/register", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Lambda-Extension-Identifier", "1")
	})
	mux.HandleFunc("GET /2020-01-01/extension/event/next", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	api.address = server.Listener.Addr().String()
	return api
}

func (a *runtimeAPI) invoke(t *testing.T, event string) string {
	t.Helper()
	ended := time.After(30 * time.Second)
	select {
	case a.events <- event:
	case <-ended:
		t.Fatal("the function has not asked for an event")
	}
	select {
	case result := <-a.results:
		return result
	case <-ended:
		t.Fatal("the function has not answered")
		return ""
	}
}
