package dsqlproxy

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync/atomic"
	"time"

	"github.com/dsqlgo/dsql"
)

// Proxy lets any PostgreSQL client of this machine use a cluster. The zero value of every field but
// Config is right for development on a machine of one's own. The fields must not change while Serve
// runs. Printing or marshalling a *Proxy shows no password.
type Proxy struct {
	// Config says which cluster, with which credentials, and how to reach it. Its User and Database
	// are what clients may ask for, unless Users and AnyDatabase say otherwise; its Params and
	// ApplicationName are the defaults of clients that do not set theirs.
	Config dsql.Config

	// Password is what clients must show, by SCRAM-SHA-256; printable ASCII. Empty: none, so that
	// whoever reaches the listener uses the cluster with Config's credentials.
	Password string `json:"-"`

	// Users are the roles that clients may ask for; empty: Config.User alone.
	Users []string

	// MaxConnections bounds the clients that have or wait for a session at the cluster; those above
	// it are refused with SQLSTATE 53300. 0: no bound but the cluster's.
	MaxConnections int

	// Spares is how many sessions are logged in ahead of the clients. A client that asks for the
	// role and the settings of an earlier one gets such a session and waits for no login. 0: none.
	// Spares count as connections at the cluster. They are replaced after 10 minutes.
	Spares int

	// TLS holds the certificate for clients that ask for TLS; nil: they are told that there is
	// none. A listener that is neither loopback nor a unix socket needs it, and a Password.
	TLS *tls.Config

	// AnyDatabase lets clients ask for databases of any name; they all get the cluster's one.
	// Otherwise a name other than Config.Database is refused with SQLSTATE 3D000.
	AnyDatabase bool

	// Compat makes tools start that change settings which DSQL refuses, or reset their sessions by
	// statements that it does not have. Such settings and statements are dropped, each with a
	// NOTICE. What they are, and for which client, is in the table of compat.go; timeouts, locks
	// and isolation are never dropped.
	Compat bool

	// DrainTimeout is how long transactions may go on when Serve's ctx ends; 0 means 10 s, and a
	// negative one ends them at once.
	DrainTimeout time.Duration

	// Logger gets a line for each client that comes and goes (Debug), is refused (Info), or that
	// the cluster refuses (Warn). Config.Logger is another one, for connects and tokens. Nil is
	// silent.
	Logger *slog.Logger

	server atomic.Pointer[server] // of the Serve that runs, or ran last
}

const defaultDrainTimeout = 10 * time.Second

// ErrServing is returned by Serve while another Serve of the same Proxy runs.
var ErrServing = errors.New("dsqlproxy: Serve is running already; use another Proxy for another listener")

// Serve accepts clients on l until ctx ends, and closes l. Then it drains: sessions without a
// transaction end at once, the others when their transaction does or DrainTimeout is over. It
// returns nil after that, when nothing of it runs any more.
//
// It returns an error at once where a field is wrong (dsql.ErrConfig, dsql.ErrCredentials), or
// where l is reachable from other machines and there is no Password or no TLS; and later if l
// fails. What is wrong with the cluster, each client is told in its own connection.
func (p *Proxy) Serve(ctx context.Context, l net.Listener) error {
	defer l.Close()
	s, err := newServer(ctx, p)
	if err != nil {
		return err
	}
	if !isLocal(l.Addr()) && !s.protected() {
		return fmt.Errorf("dsqlproxy: %s can be reached from other machines: listen on loopback or a unix socket, or set Password and TLS", l.Addr())
	}
	for {
		running := p.server.Load()
		if running != nil && !running.ended() {
			return ErrServing
		}
		if p.server.CompareAndSwap(running, s) {
			return s.serve(ctx, l)
		}
	}
}

// Format keeps the password out of every verb.
func (p *Proxy) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, p.String()) }

// String names the cluster.
func (p *Proxy) String() string { return "dsqlproxy.Proxy(" + p.Config.String() + ")" }

// LogValue logs what String shows.
func (p *Proxy) LogValue() slog.Value { return slog.StringValue(p.String()) }
