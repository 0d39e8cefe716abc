package dsqltest

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"slices"

	"github.com/dsqlgo/dsql/dsqltest/internal/wsserver"
)

// alpnHTTP is the ALPN protocol of clients that ask for a WebSocket.
const alpnHTTP = "http/1.1"

// WithWebSocketAddress has the server listen on a second "host:port", which must be loopback, for
// WebSockets alone, as a cluster does on port 443. Port 0 takes a free one. The default is no
// second port; the first one takes WebSockets, too.
//
// With two ports, [Server.Config] dials the second one in place of port 443 and the first one in
// place of 5432.
func WithWebSocketAddress(address string) Option {
	return func(o *options) { o.webSocketAddress = address }
}

// WebSocketAddr is the "host:port" that takes WebSockets: that of WithWebSocketAddress, else Addr.
func (s *Server) WebSocketAddr() string {
	if s.webSockets == nil {
		return s.Addr()
	}
	return s.webSockets.Addr().String()
}

// SetWebSocketFaults is SetFaults for the port of WithWebSocketAddress, which SetFaults and
// WithFaults leave alone. So one of the ports can be stopped while the other works.
func (s *Server) SetWebSocketFaults(next func() Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conditions.webSocketFaults = next
}

// dialPorts is a dsql.Config's DialFunc where there are two ports: it leads to this server whatever
// the host is.
func (s *Server) dialPorts(ctx context.Context, network, address string) (net.Conn, error) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	to := s.Addr()
	// A cancel request is for the address that its session has.
	if port == "443" || address == s.WebSocketAddr() {
		to = s.WebSocketAddr()
	}
	return new(net.Dialer).DialContext(ctx, network, to)
}

// listenForWebSockets opens the second port, if there is one.
func (s *Server) listenForWebSockets(ctx context.Context) (err error) {
	if s.webSocketAddress == "" {
		return nil
	}
	if s.webSockets, err = new(net.ListenConfig).Listen(ctx, "tcp", s.webSocketAddress); err != nil {
		return fmt.Errorf("dsqltest: WithWebSocketAddress: %w: use port 0 for a free one", err)
	}
	s.serving.Go(func() { s.accept(s.webSockets) })
	return nil
}

// checkALPN refuses what begins with TLS and does not say for what. PostgreSQL 17 does the same:
// without ALPN, another protocol's client could be led to speak to this port (the ALPACA attack).
// The port for WebSockets is as any web server's.
func (c *client) checkALPN(hello *tls.ClientHelloInfo) error {
	if c.webSocketOnly || !c.direct || slices.Contains(hello.SupportedProtos, alpnProtocol) || slices.Contains(hello.SupportedProtos, alpnHTTP) {
		return nil
	}
	return errors.New("direct TLS needs the ALPN protocol " + alpnProtocol)
}

// speaksHTTP looks at the client's first byte inside TLS. A startup message begins with a zero, an
// HTTP request with a letter.
func (c *client) speaksHTTP(conn *tls.Conn) (bool, error) {
	first, err := c.reader.Peek(1)
	if err != nil {
		return false, fmt.Errorf("reading the startup message: %w", err)
	}
	http := first[0] != 0
	agreed := conn.ConnectionState().NegotiatedProtocol
	switch {
	case http && agreed == alpnProtocol:
		return false, errors.New("HTTP where the ALPN protocol is " + alpnProtocol)
	case !http && (c.webSocketOnly || agreed == alpnHTTP):
		return false, errors.New("a startup message where a WebSocket should begin")
	}
	return http, nil
}

// upgrade answers a request for a WebSocket. What follows is in its frames.
func (c *client) upgrade(conn *tls.Conn) error {
	c.phase = OnUpgrade
	webSocket, err := wsserver.Accept(c.wrap(conn, OnUpgrade, OnUpgrade), c.reader)
	if err != nil {
		return err
	}
	c.record(func(a *Attempt) { a.WebSocket = true })
	c.phase = OnStartup
	c.conn = c.wrap(webSocket, OnStartup, OnQuery)
	c.reader = bufio.NewReaderSize(webSocket, readBuffer)
	return nil
}
