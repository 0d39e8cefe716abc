package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

// This binary is the service as well: TestService starts it.
func TestMain(m *testing.M) {
	if os.Getenv("HTTPSERVICE_TEST") != "" {
		main()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestService(t *testing.T) {
	server := dsqltest.New(t)
	service, output := start(t, server)
	base := strings.TrimPrefix(line(t, output), "listening on ")

	require.Equal(t, "200 ", send(t, http.MethodGet, base+"/healthz", ""))
	require.Equal(t, "200 ", send(t, http.MethodGet, base+"/readyz", ""))
	require.Equal(t, `201 {"id":"o-1","item":"tea","quantity":2}`, send(t, http.MethodPut, base+"/orders/o-1", `{"item":"tea","quantity":2}`))
	require.Equal(t, `200 {"id":"o-1","item":"tea","quantity":2}`, send(t, http.MethodPut, base+"/orders/o-1", `{"item":"tea","quantity":5}`))

	// A request is in flight: the handler has begun to read its body.
	body, write := io.Pipe()
	reading := make(chan struct{})
	request, err := http.NewRequestWithContext(httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got100Continue: func() { close(reading) },
	}), http.MethodPut, base+"/orders/o-2", body)
	require.NoError(t, err)
	request.Header.Set("Expect", "100-continue")
	client := http.Client{Transport: &http.Transport{ExpectContinueTimeout: time.Minute, DisableKeepAlives: true}}
	answered := make(chan string, 1)
	go func() { answered <- answer(client.Do(request)) }()
	<-reading

	require.NoError(t, service.Process.Signal(syscall.SIGTERM))
	require.Equal(t, "shutting down: finishing requests in flight", line(t, output))
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(base, "http://"))
		if err == nil {
			conn.Close()
		}
		return errors.Is(err, syscall.ECONNREFUSED)
	}, 10*time.Second, time.Millisecond, "no new requests")
	_, err = io.WriteString(write, `{"item":"tea","quantity":3}`)
	require.NoError(t, err)
	require.NoError(t, write.Close())
	require.Equal(t, `201 {"id":"o-2","item":"tea","quantity":3}`, <-answered)
	require.Equal(t, "stopped", line(t, output))
	require.NoError(t, service.Wait())

	require.Eventually(t, func() bool { return server.Sessions() == 0 }, 10*time.Second, time.Millisecond, "the pool was closed")
	require.Equal(t, []int{2, 95}, look(t, server))
}

// What the client is told, and what is in the database then.
func TestAnswers(t *testing.T) {
	server := dsqltest.New(t)
	base := serveHere(t, server.Config())
	for name, test := range map[string]struct {
		before func(*dsqltest.Server)
		body   string
		answer string
		left   []int // orders, tea
	}{
		"new":                     {body: `{"item":"tea","quantity":2}`, answer: `201 {"id":"o-1","item":"tea","quantity":2}`, left: []int{1, 98}},
		"lost conflicts":          {before: func(s *dsqltest.Server) { s.ConflictNext(2) }, body: `{"item":"tea","quantity":2}`, answer: `201 {"id":"o-1","item":"tea","quantity":2}`, left: []int{1, 98}},
		"commit of no answer":     {before: func(s *dsqltest.Server) { s.CutNext(1, dsqltest.AfterCommit) }, body: `{"item":"tea","quantity":2}`, answer: `200 {"id":"o-1","item":"tea","quantity":2}`, left: []int{1, 98}},
		"commit that got nowhere": {before: func(s *dsqltest.Server) { s.CutNext(1, dsqltest.BeforeCommit) }, body: `{"item":"tea","quantity":2}`, answer: `201 {"id":"o-1","item":"tea","quantity":2}`, left: []int{1, 98}},
		"sold out":                {body: `{"item":"tea","quantity":101}`, answer: "409 sold out", left: []int{0, 100}},
		"nonsense":                {body: `{"item":`, answer: `400 send an item and a quantity of 1 or more: {"item": "tea", "quantity": 2}`, left: []int{0, 100}},
	} {
		t.Run(name, func(t *testing.T) {
			restock(t, server)
			if test.before != nil {
				test.before(server)
			}
			require.Equal(t, test.answer, send(t, http.MethodPut, base+"/orders/o-1", test.body))
			require.Equal(t, test.left, look(t, server))
		})
	}
}

func TestNotReady(t *testing.T) {
	for _, test := range []struct {
		refusal dsqltest.Refusal
		answer  string
	}{
		{dsqltest.RefuseWaking, "503 Retry-After 1 try again: what was done already is not done twice"},
		{dsqltest.RefuseRate, "503 Retry-After 1 try again: what was done already is not done twice"},
		{dsqltest.RefuseAccess, "500 internal error"},
	} {
		t.Run(test.refusal.Message, func(t *testing.T) {
			t.Parallel()
			server := dsqltest.New(t)
			config := server.Config()
			config.ConnectTimeout = 300 * time.Millisecond
			base := serveHere(t, config)
			server.RefuseNext(1000, test.refusal)
			for _, c := range []struct{ method, path string }{{http.MethodGet, "/readyz"}, {http.MethodPut, "/orders/o-1"}} {
				require.Equal(t, test.answer, send(t, c.method, base+c.path, `{"item":"tea","quantity":2}`))
			}
			require.Equal(t, "200 ", send(t, http.MethodGet, base+"/healthz", ""), "a restart would not help")
		})
	}
}

func TestReadiness(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pings := 0
		var answer error
		r := readiness{ping: func(ctx context.Context) error {
			pings++
			deadline, _ := ctx.Deadline()
			require.Equal(t, pingTimeout, time.Until(deadline))
			require.NoError(t, ctx.Err())
			return answer
		}}
		hungUp, cancel := context.WithCancel(t.Context())
		cancel()
		ask := func() {
			t.Helper()
			answers := make(chan error, 100)
			for range cap(answers) {
				go func() { answers <- r.check(hungUp) }()
			}
			for range cap(answers) {
				require.Equal(t, answer, <-answers)
			}
		}

		ask()
		time.Sleep(readyFor - time.Nanosecond)
		ask()
		require.Equal(t, 1, pings, "one for all who ask")
		time.Sleep(time.Nanosecond)
		answer = errors.New("down")
		ask()
		time.Sleep(notReadyFor - time.Nanosecond)
		ask()
		require.Equal(t, 2, pings)
		time.Sleep(time.Nanosecond)
		answer = nil
		ask()
		require.Equal(t, 3, pings)
	})
}

// start runs the service in a process of its own.
func start(t *testing.T, server *dsqltest.Server) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	ca := filepath.Join(t.TempDir(), "ca.pem")
	require.NoError(t, os.WriteFile(ca, server.CAPEM(), 0o600))
	config := url.URL{Scheme: "dsql", User: url.User("admin"), Host: server.Endpoint(), RawQuery: "dial_address=" + server.Addr() + "&sslrootcert=" + url.PathEscape(ca)}
	service := exec.Command(os.Args[0])
	service.Stderr = os.Stderr
	service.Env = append(os.Environ(),
		"HTTPSERVICE_TEST=1", "ADDRESS=127.0.0.1:0", "DSQL_URL="+config.String(),
		"AWS_ACCESS_KEY_ID="+server.Credentials().AccessKeyID, "AWS_SECRET_ACCESS_KEY="+server.Credentials().SecretAccessKey, "AWS_SESSION_TOKEN=")
	output, err := service.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, service.Start())
	t.Cleanup(func() {
		_ = service.Process.Kill() // does nothing when it has ended
		_ = service.Wait()
	})
	return service, bufio.NewScanner(output)
}

func line(t *testing.T, output *bufio.Scanner) string {
	t.Helper()
	require.True(t, output.Scan(), "the service has ended")
	return output.Text()
}

// serveHere runs the service in this process, its tables set up.
func serveHere(t *testing.T, config dsql.Config) string {
	t.Helper()
	pool, err := dsql.NewPool(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	require.NoError(t, setUp(t.Context(), pool))
	pool.Reset() // the service connects by itself
	s := httptest.NewServer(newService(pool))
	t.Cleanup(s.Close)
	return s.URL
}

func restock(t *testing.T, server *dsqltest.Server) {
	t.Helper()
	conn, err := dsql.Connect(t.Context(), server.Config())
	require.NoError(t, err)
	defer conn.Close(t.Context())
	for _, sql := range []string{"delete from orders", "update stock set quantity = 100"} {
		_, err = conn.Exec(t.Context(), sql)
		require.NoError(t, err)
	}
}

// look returns how many orders there are and how much tea is left.
func look(t *testing.T, server *dsqltest.Server) []int {
	t.Helper()
	conn, err := dsql.Connect(t.Context(), server.Config())
	require.NoError(t, err)
	defer conn.Close(t.Context())
	rows, err := conn.Query(t.Context(), "select count(*)::int from orders union all select quantity from stock")
	require.NoError(t, err)
	counts, err := pgx.CollectRows(rows, pgx.RowTo[int])
	require.NoError(t, err)
	return counts
}

func send(t *testing.T, method, url, body string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, strings.NewReader(body))
	require.NoError(t, err)
	return answer(http.DefaultClient.Do(request))
}

func answer(response *http.Response, err error) string {
	if err != nil {
		return err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err.Error()
	}
	text := response.Status[:4]
	if after := response.Header.Get("Retry-After"); after != "" {
		text += "Retry-After " + after + " "
	}
	return text + strings.TrimSpace(string(body))
}
