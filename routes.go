package dsql

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"strconv"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dsqlgo/dsql/internal/configerr"
	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/transport"
	"github.com/dsqlgo/dsql/internal/wsconn"
)

// route is one way to open a session.
type route struct {
	transport transport.Transport
	address   string // to dial
	proxied   bool   // by an HTTP proxy
	attempt   *login.Attempt
}

// routes are the ways that a Config's Transport allows: one, or both for "auto".
type routes map[transport.Transport]*route

// newRoutes derives the routes from pgx's config, which users may have changed after ConnConfig
// returned it. If a user's ConnConfig.DialFunc opened a TCP connection, that is opened; otherwise
// opened is nil.
func (k *connector) newRoutes(config *pgconn.Config, conn net.Conn) (_ routes, opened net.Conn, err error) {
	if k.transport != transportTCP {
		r, err := k.webSocketRoutes(config, conn)
		return r, nil, err
	}
	tlsConn, ok := conn.(*tls.Conn)
	if !ok {
		return nil, nil, configerr.New("ConnConfig.TLSConfig", "(or that of a fallback) was set to nil, but DSQL requires TLS; keep the one that ConnConfig returned")
	}
	if err := k.validateConnConfig(config); err != nil {
		return nil, nil, err
	}
	r := k.tcpRoute(config.TLSConfig, config.SSLNegotiation != "direct")
	dial, network := config.DialFunc, ""
	if lazy, ok := tlsConn.NetConn().(*lazyConn); ok {
		dial, network, r.address = k.dial, lazy.network, lazy.address
	} else {
		opened = tlsConn.NetConn()
		network, r.address = pgconn.NetworkAddress(config.Host, config.Port)
	}
	r.attempt.Dial = func(ctx context.Context) (net.Conn, error) { return dial(ctx, network, r.address) }
	return routes{transport.TCP: r}, opened, nil
}

// webSocketRoutes returns the routes of the transports "websocket" and "auto". Then pgx knows nothing of
// TLS: it would speak TLS itself to cancel a query, inside the WebSocket.
func (k *connector) webSocketRoutes(config *pgconn.Config, conn net.Conn) (routes, error) {
	if err := k.validateUser(config.User); err != nil {
		return nil, err
	}
	lazy, ok := conn.(*lazyConn)
	if !ok {
		return nil, configerr.New("ConnConfig", "has another TLSConfig or DialFunc, which Transport %s cannot use; set Config.RootCAs or Config.DialFunc instead", k.transport)
	}
	all := routes{}
	webSocketAddress := lazy.address
	if k.transport == transportAuto {
		tcp := k.tcpRoute(k.tls, config.SSLNegotiation != "direct")
		tcp.address = lazy.address
		tcp.attempt.Dial = func(ctx context.Context) (net.Conn, error) { return k.dial(ctx, "tcp", tcp.address) }
		all[transport.TCP] = tcp
		if host, _, err := net.SplitHostPort(lazy.address); err == nil && !k.samePort {
			webSocketAddress = net.JoinHostPort(host, strconv.Itoa(webSocketPort))
		}
	}
	r := k.webSocketRoute(webSocketAddress, k.webSocketDial)
	r.proxied = k.isProxied(webSocketAddress)
	all[transport.WebSocket] = r
	return all, nil
}

func (k *connector) tcpRoute(config *tls.Config, sslRequest bool) *route {
	return &route{transport: transport.TCP, attempt: &login.Attempt{
		TLS: config, SSLRequest: sslRequest, EarlyToken: k.earlyAuth && !k.earlyRefused.Load(),
	}}
}

func (k *connector) webSocketRoute(address string, dial pgconn.DialFunc) *route {
	config := k.tls.Clone()
	config.NextProtos = []string{wsconn.Protocol}
	return &route{transport: transport.WebSocket, address: address, attempt: &login.Attempt{
		Dial: func(ctx context.Context) (net.Conn, error) { return dial(ctx, "tcp", address) },
		TLS:  config,
		Upgrade: func(ctx context.Context, conn net.Conn) (net.Conn, error) {
			return wsconn.Upgrade(ctx, conn, k.endpoint.ServerName)
		},
		EarlyToken: k.earlyAuth && !k.earlyRefused.Load(),
	}}
}

// dialForCancel opens a connection for a cancel request, by the transport of the session whose
// address it gets: with TLS, and the upgrade if it is a WebSocket.
func (k *connector) dialForCancel(ctx context.Context, network, address string) (net.Conn, error) {
	if network == wsconn.Network {
		dial := k.webSocketDial
		if a, err := netip.ParseAddrPort(address); err == nil && a.IsValid() {
			dial = k.dial // there was no proxy, which would have resolved the name
		}
		return k.webSocketRoute(address, dial).attempt.Connect(ctx)
	}
	r := k.tcpRoute(k.tls, k.sslRequest)
	r.attempt.Dial = func(ctx context.Context) (net.Conn, error) { return k.dial(ctx, network, address) }
	return r.attempt.Connect(ctx)
}

// first returns any route, for errors that come before one is chosen.
func (r routes) first() *route {
	if tcp := r[transport.TCP]; tcp != nil {
		return tcp
	}
	return r[transport.WebSocket]
}

// proxied reports whether a WebSocket would go through a proxy.
func (r routes) proxied() bool {
	w := r[transport.WebSocket]
	return w != nil && w.proxied
}

// name stands for the network that the routes go through.
func (r routes) name() string {
	return r[transport.TCP].address + " " + r[transport.WebSocket].address
}

// dropEarlyToken makes all further attempts wait until the server asks for the token.
func (r routes) dropEarlyToken() {
	for _, route := range r {
		route.attempt.EarlyToken = false
	}
}
