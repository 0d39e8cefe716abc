package httpproxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dsqlgo/dsql/internal/nettest"
)

func TestMain(m *testing.M) {
	if address := os.Getenv("HTTPPROXY_TEST_ADDRESS"); address != "" {
		fmt.Println(Dialer{Proxy: http.ProxyFromEnvironment}.For(address))
		return
	}
	goleak.VerifyTestMain(m)
}

const password = "s3cret"

// through returns a dialer that goes by way of proxy, a URL.
func through(proxy string) Dialer {
	return Dialer{Dial: new(net.Dialer).DialContext, Proxy: func(*http.Request) (*url.URL, error) { return url.Parse(proxy) }}
}

func TestConnect(t *testing.T) {
	server := nettest.Listen(t, func(conn *net.TCPConn) { conn.Write([]byte("hello")) })
	requests := make(chan *http.Request, 1)
	proxy := nettest.Listen(t, func(conn *net.TCPConn) {
		r, err := http.ReadRequest(bufio.NewReader(conn))
		if err != nil {
			t.Error(err)
			return
		}
		requests <- r
		onward, err := net.Dial("tcp", server)
		if err != nil {
			t.Error(err)
			return
		}
		defer onward.Close()
		io.WriteString(conn, "HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n")
		b := make([]byte, 1)
		io.ReadFull(conn, b)
		io.Copy(conn, onward)
	})

	dialer := through("http://user:" + password + "@" + proxy)
	conn, err := dialer.DialContext(t.Context(), "tcp", "cluster.example.com:443")
	require.NoError(t, err)
	defer conn.Close()
	require.Equal(t, "cluster.example.com:443", conn.RemoteAddr().String())
	r := <-requests
	require.Equal(t, "CONNECT cluster.example.com:443", r.Method+" "+r.RequestURI)
	require.Equal(t, "cluster.example.com:443", r.Host)
	require.Equal(t, "Basic dXNlcjpzM2NyZXQ=", r.Header.Get("Proxy-Authorization"))
	_, err = conn.Write([]byte("x"))
	require.NoError(t, err)
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))

	name, err := dialer.For("cluster.example.com:443")
	require.NoError(t, err)
	require.Equal(t, proxy, name)
}

func TestNoProxy(t *testing.T) {
	server := nettest.Listen(t, func(conn *net.TCPConn) { conn.Write([]byte("hello")) })
	dialer := Dialer{Dial: new(net.Dialer).DialContext, Proxy: func(*http.Request) (*url.URL, error) { return nil, nil }}
	conn, err := dialer.DialContext(t.Context(), "tcp", server)
	require.NoError(t, err)
	defer conn.Close()
	got, err := io.ReadAll(conn)
	require.NoError(t, err)
	require.Equal(t, "hello", string(got))
}

func TestProxyFails(t *testing.T) {
	cases := map[string]struct {
		scheme string // http if empty
		answer string
		status int
		is     error
		text   string
	}{
		"wants a password": {answer: "HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: NTLM\r\n\r\n", status: 407, text: "HTTPS_PROXY"},
		"forbids":          {answer: "HTTP/1.1 403 Forbidden\r\nContent-Length: 100000\r\n\r\n", status: 403, text: "403 Forbidden"},
		"cannot connect":   {answer: "HTTP/1.1 502 Bad Gateway\r\n\r\n", status: 502, text: "502 Bad Gateway"},
		"hangs up":         {is: io.ErrUnexpectedEOF, text: "answer to CONNECT"},
		"is no proxy":      {answer: "220 smtp.example.com ESMTP\r\n", text: "malformed"},
		"endless answer":   {answer: "HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", maxHead), text: "answer to CONNECT"},
		"server speaks":    {answer: "HTTP/1.1 200 OK\r\n\r\nSSH-2.0-OpenSSH", text: "not a TLS server"},
		"is no TLS server": {scheme: "https", answer: "HTTP/1.1 400 Bad Request\r\n\r\n", text: "does not look like a TLS handshake"},
		"SOCKS":            {scheme: "socks5", text: "use http or https"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			proxy := nettest.Listen(t, func(conn *net.TCPConn) {
				conn.Read(make([]byte, 4096))
				conn.Write([]byte(c.answer))
				conn.CloseWrite()
				io.Copy(io.Discard, conn)
			})
			scheme := c.scheme
			if scheme == "" {
				scheme = "http"
			}
			_, err := through(scheme+"://user:"+password+"@"+proxy).DialContext(t.Context(), "tcp", "cluster.example.com:443")
			require.Error(t, err)
			require.NotContains(t, fmt.Sprintf("%+v", err), password)
			require.ErrorContains(t, err, c.text)
			if scheme != "socks5" {
				require.ErrorContains(t, err, proxy)
			}
			if c.is != nil {
				require.ErrorIs(t, err, c.is)
			}
			if c.status > 0 {
				var status *StatusError
				require.ErrorAs(t, err, &status)
				require.Equal(t, c.status, status.Code)
			}
		})
	}
	t.Run("no URL", func(t *testing.T) {
		dialer := Dialer{Proxy: func(*http.Request) (*url.URL, error) { return nil, errors.New("bad http://user:" + password) }}
		_, err := dialer.DialContext(t.Context(), "tcp", "cluster.example.com:443")
		require.ErrorContains(t, err, "HTTPS_PROXY")
		require.NotContains(t, err.Error(), password)
	})
	t.Run("nobody listens", func(t *testing.T) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		l.Close()
		_, err = through("http://user:"+password+"@"+l.Addr().String()).DialContext(t.Context(), "tcp", "cluster.example.com:443")
		require.ErrorContains(t, err, "HTTP proxy "+l.Addr().String())
		require.NotContains(t, err.Error(), password)
	})
}

func TestConnectIsInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	proxy := nettest.Listen(t, func(conn *net.TCPConn) {
		conn.Read(make([]byte, 1))
		cancel()
		io.Copy(io.Discard, conn)
	})
	_, err := through("http://"+proxy).DialContext(ctx, "tcp", "cluster.example.com:443")
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)
}

// The environment is read once by net/http, so each case is a process of its own.
func TestEnvironment(t *testing.T) {
	const cluster = "abcdefghijklmnopqrstuvwxyz.dsql.us-east-1.on.aws:443"
	cases := map[string]struct {
		address     string
		environment string
		proxy       string
	}{
		"none":           {address: cluster},
		"HTTPS_PROXY":    {address: cluster, environment: "HTTPS_PROXY=http://proxy.corp:3128", proxy: "proxy.corp:3128"},
		"lower case":     {address: cluster, environment: "https_proxy=http://proxy.corp", proxy: "proxy.corp:80"},
		"without scheme": {address: cluster, environment: "HTTPS_PROXY=proxy.corp:8080", proxy: "proxy.corp:8080"},
		"by TLS":         {address: cluster, environment: "HTTPS_PROXY=https://proxy.corp", proxy: "proxy.corp:443"},
		"HTTP_PROXY":     {address: cluster, environment: "HTTP_PROXY=http://proxy.corp:3128"},
		"NO_PROXY":       {address: cluster, environment: "HTTPS_PROXY=http://proxy.corp:3128 NO_PROXY=.on.aws"},
		"loopback":       {address: "127.0.0.1:443", environment: "HTTPS_PROXY=http://proxy.corp:3128"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			command := exec.Command(os.Args[0])
			command.Env = append([]string{"HTTPPROXY_TEST_ADDRESS=" + c.address, "GORACE=atexit_sleep_ms=0"}, strings.Fields(c.environment)...)
			output, err := command.Output()
			require.NoError(t, err)
			require.Equal(t, strings.TrimSpace(c.proxy+" <nil>"), strings.TrimSpace(string(output)))
		})
	}
}
