package dsql

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"sync/atomic"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql/internal/awsconfig"
	"github.com/dsqlgo/dsql/internal/login"
)

// connector opens the connections of one Config. It is safe for concurrent use.
type connector struct {
	endpoint  Endpoint
	tokens    *TokenSource
	user      string // of the tokens
	dial      pgconn.DialFunc
	transport string
	pacer     *pacer // nil means no limit
	earlyAuth bool
	observer  observer

	earlyRefused atomic.Bool // the server did not accept an early token

	// For the transports "websocket" and "auto", which pgx sets up no TLS for:
	tls           *tls.Config
	sslRequest    bool
	webSocketDial pgconn.DialFunc
	isProxied     func(address string) bool // by webSocketDial
	samePort      bool                      // DialAddress has a port, so "auto" uses it for both
}

// newConnector checks c, and resolves its names and credentials.
func newConnector(ctx context.Context, c Config) (*connector, error) {
	if err := c.validate(); err != nil {
		return nil, err
	}
	e, loaded, err := c.resolveEndpoint(ctx)
	if err != nil {
		return nil, err
	}
	credentials, err := c.awsSettings().Provider(ctx, e.Region, loaded)
	if err != nil {
		return nil, err
	}
	k := &connector{
		endpoint: e, user: c.user(), dial: c.DialFunc,
		pacer: pacerFor(c, e.ClusterID), earlyAuth: c.EarlyAuth, observer: newObserver(c),
	}
	if k.dial == nil {
		k.dial = defaultDialFunc()
	}
	k.setTransport(c)
	lifetime := c.TokenLifetime
	if lifetime == 0 {
		lifetime = defaultTokenLifetime
	}
	k.tokens = newTokenSource(credentials, e, k.user, lifetime, k.observer)
	return k, nil
}

func (c Config) user() string {
	if c.User == "" {
		return adminUser
	}
	return c.User
}

func (c Config) awsSettings() awsconfig.Settings {
	return awsconfig.Settings{
		Credentials: c.Credentials, Profile: c.Profile,
		RoleARN: c.RoleARN, RoleSessionName: c.RoleSessionName, ExternalID: c.ExternalID,
	}
}

// resolveEndpoint also returns the AWS configuration, if it had to load that for the region.
func (c Config) resolveEndpoint(ctx context.Context) (Endpoint, *aws.Config, error) {
	var loaded *aws.Config
	e, err := resolveNames(c, func() (string, error) {
		read, err := c.awsSettings().Load(ctx, "")
		if err != nil {
			return "", err
		}
		loaded = &read
		return read.Region, nil
	})
	return e, loaded, err
}

// afterNetConnect is pgconn.Config.AfterNetConnect. pgx calls it before it writes its first byte, and
// uses the connection that it returns, which logs in when pgx has written its startup message. So no
// ConnConfig contains a token, each attempt uses a current one, and pgx sees neither a transient
// refusal nor a request for a password. It never fails itself, since pgx would put its name into the
// error.
func (k *connector) afterNetConnect(ctx context.Context, config *pgconn.Config, conn net.Conn) (net.Conn, error) {
	return login.NewConn(ctx, conn, func(ctx context.Context, startup []byte) (*login.Session, error) {
		routes, opened, err := k.newRoutes(config, conn)
		if err != nil {
			return nil, err
		}
		loop := connectLoop{connector: k, routes: routes, startup: startup}
		return loop.run(ctx, opened)
	}), nil
}

// tunedPoolConfig returns a PoolConfig whose ConnConfig tune has changed.
func tunedPoolConfig(ctx context.Context, c Config, tune []func(*pgx.ConnConfig)) (*pgxpool.Config, error) {
	pool, err := c.PoolConfig(ctx)
	if err != nil {
		return nil, err
	}
	applyTune(pool.ConnConfig, func() {
		for _, f := range tune {
			if f != nil {
				f(pool.ConnConfig)
			}
		}
	})
	return pool, nil
}

// applyTune calls tune, which may change cc. An AfterNetConnect that it sets gets the connection of
// afterNetConnect. So the user's func does not see the token and cannot omit the login.
func applyTune(cc *pgx.ConnConfig, tune func()) {
	logIn := cc.AfterNetConnect
	cc.AfterNetConnect = returnConn // for funcs that call the previous one
	tune()
	wrap := cc.AfterNetConnect
	if wrap == nil {
		wrap = returnConn
	}
	cc.AfterNetConnect = func(ctx context.Context, config *pgconn.Config, conn net.Conn) (net.Conn, error) {
		session, err := logIn(ctx, config, conn)
		if err != nil {
			return session, err
		}
		wrapped, err := wrap(ctx, config, session)
		if wrapped == nil {
			wrapped = session // pgx closes it
			if err == nil {
				err = errors.New("AfterNetConnect returned neither a connection nor an error")
			}
		}
		return wrapped, err
	}
}

func returnConn(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) {
	return conn, nil
}
