// Package httpproxy dials through the HTTP proxies that the environment names.
package httpproxy

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// maxHead bounds the head of a proxy's answer.
const maxHead = 64 << 10

// Dialer dials by way of a proxy where there is one. It is safe for concurrent use.
type Dialer struct {
	// Dial opens the TCP connection to the proxy, or to the address itself where there is none.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)

	// Proxy returns the proxy for a request, or nil for none: http.ProxyFromEnvironment, which
	// reads HTTPS_PROXY and NO_PROXY.
	Proxy func(*http.Request) (*url.URL, error)
}

// StatusError is a proxy's refusal to connect.
type StatusError struct {
	Proxy  string // "host:port"
	Code   int
	Status string // such as "407 Proxy Authentication Required"
}

func (e *StatusError) Error() string {
	text := fmt.Sprintf("the HTTP proxy %s refused to connect: %s", e.Proxy, e.Status)
	if e.Code == http.StatusProxyAuthRequired {
		text += " (set HTTPS_PROXY=http://user:password@host:port; schemes other than Basic are not supported)"
	}
	return text
}

// ErrEnvironment means that HTTPS_PROXY is wrong.
var ErrEnvironment = errors.New("HTTPS_PROXY")

var (
	errNotURL = fmt.Errorf("%w is not the URL of a proxy; set it to http://host:port, or list the endpoint in NO_PROXY", ErrEnvironment)
	errScheme = fmt.Errorf("%w has a scheme that is not supported; use http or https, or list the endpoint in NO_PROXY", ErrEnvironment)
)

// For returns the proxy for address as "host:port", or "" for none.
func (d Dialer) For(address string) (string, error) {
	proxy, err := d.proxy(address)
	if proxy == nil {
		return "", err
	}
	return hostPort(proxy), nil
}

// proxy returns the proxy for address, or nil for none. The environment may hold a password, so no
// error repeats what it says.
func (d Dialer) proxy(address string) (*url.URL, error) {
	proxy, err := d.Proxy(&http.Request{URL: &url.URL{Scheme: "https", Host: address}})
	switch {
	case err != nil:
		return nil, errNotURL
	case proxy == nil:
		return nil, nil
	case proxy.Scheme != "http" && proxy.Scheme != "https":
		return nil, errScheme
	case proxy.Hostname() == "":
		return nil, errNotURL
	}
	return proxy, nil
}

func hostPort(proxy *url.URL) string {
	port := proxy.Port()
	switch {
	case port != "":
	case proxy.Scheme == "https":
		port = "443"
	default:
		port = "80"
	}
	return net.JoinHostPort(proxy.Hostname(), port)
}

// DialContext opens a TCP connection to address, which the proxy resolves where there is one.
func (d Dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	proxy, err := d.proxy(address)
	if err != nil {
		return nil, err
	}
	if proxy == nil {
		return d.Dial(ctx, network, address)
	}
	conn, err := d.Dial(ctx, network, hostPort(proxy))
	if err != nil {
		return nil, fmt.Errorf("HTTP proxy %s: %w", hostPort(proxy), err)
	}
	if proxy.Scheme == "https" {
		conn = tls.Client(conn, &tls.Config{ServerName: proxy.Hostname(), MinVersion: tls.VersionTLS12})
	}
	stop := context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
	err = connect(conn, proxy, address)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return tunnel{conn, address}, nil
}

// tunnel is a connection through a proxy. Its RemoteAddr is the address that the proxy was asked for.
type tunnel struct {
	net.Conn
	address string
}

func (t tunnel) RemoteAddr() net.Addr { return tunnelAddr(t.address) }

type tunnelAddr string

func (tunnelAddr) Network() string  { return "tcp" }
func (a tunnelAddr) String() string { return string(a) }

// connect sends CONNECT (RFC 9110, 9.3.6).
func connect(conn net.Conn, proxy *url.URL, address string) error {
	request := &http.Request{Method: http.MethodConnect, URL: &url.URL{Opaque: address}, Host: address, Header: http.Header{}}
	if user := proxy.User; user != nil {
		password, _ := user.Password()
		request.Header.Set("Proxy-Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(user.Username()+":"+password)))
	}
	if err := request.Write(conn); err != nil {
		return fmt.Errorf("HTTP proxy %s: %w", hostPort(proxy), err)
	}
	reader := bufio.NewReader(io.LimitReader(conn, maxHead))
	answer, err := http.ReadResponse(reader, request)
	if err != nil {
		return fmt.Errorf("HTTP proxy %s: reading the answer to CONNECT: %w", hostPort(proxy), err)
	}
	if answer.StatusCode/100 != 2 {
		return &StatusError{Proxy: hostPort(proxy), Code: answer.StatusCode, Status: answer.Status}
	}
	if reader.Buffered() > 0 { // a TLS server says nothing before the client does
		return fmt.Errorf("HTTP proxy %s: the server spoke before it was asked; it is not a TLS server", hostPort(proxy))
	}
	return nil
}
