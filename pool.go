package dsql

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql/internal/configerr"
	"github.com/dsqlgo/dsql/internal/login"
)

const (
	// DSQL ends a connection after 60 minutes (AWS guide, "Quotas"). One is
	// replaced after 50 to 58, so that a query begun at the last moment has time left and
	// connections that were opened together do not end together.
	connLifetime       = 50 * time.Minute
	connLifetimeJitter = 8 * time.Minute

	// Idle connections count against the cluster's 10,000 as busy ones do.
	connIdleTime = 10 * time.Minute

	// pgxpool's own threshold. It takes the time that a connection needed to open for
	// idle time, so that one which was paced or retried would be pinged at once.
	pingIdle = time.Second

	// A connection that was idle and does not answer a ping for so long is replaced. A cluster answers
	// within milliseconds; Lambda freezes a process, and its connections die meanwhile.
	pingTimeout = 5 * time.Second
)

// PoolConfig returns what pgxpool needs. What ConnConfig promises holds for
// the ConnConfig in it. Connections are replaced after 50 to 58 minutes, since the service
// ends them after 60, and closed after 10 idle minutes; a ping waits for 5 s. Params may say
// otherwise. ctx bounds the reading of the AWS environment. The error is ErrConfig or
// ErrCredentials.
func (c Config) PoolConfig(ctx context.Context) (*pgxpool.Config, error) {
	k, err := newConnector(ctx, c)
	if err != nil {
		return nil, err
	}
	pool, err := parsePgx(c.Params)
	if err != nil {
		return nil, err
	}
	if _, ok := c.Params["pool_max_conn_lifetime"]; !ok {
		pool.MaxConnLifetime = connLifetime
	}
	if _, ok := c.Params["pool_max_conn_lifetime_jitter"]; !ok {
		// Also where only the lifetime is given: a sixth of it, as above.
		pool.MaxConnLifetimeJitter = min(connLifetimeJitter, pool.MaxConnLifetime*4/25)
	}
	if _, ok := c.Params["pool_max_conn_idle_time"]; !ok {
		pool.MaxConnIdleTime = connIdleTime
	}

	// pgxpool would wait for the network to give a dead connection up, with its place in the pool taken.
	if _, ok := c.Params["pool_ping_timeout"]; !ok {
		pool.PingTimeout = pingTimeout
	}
	pool.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool {
		session, ok := p.Conn.PgConn().Conn().(*login.Session)
		return p.IdleDuration > pingIdle && (!ok || time.Since(session.Opened) > pingIdle)
	}

	cc := pool.ConnConfig
	if cc.Host, cc.Port, err = splitAddress("Host", k.endpoint.DialAddress); err != nil {
		return nil, err
	}
	cc.User = c.user()
	if cc.Database = c.Database; cc.Database == "" {
		cc.Database = defaultDatabase
	}
	if c.ApplicationName != "" {
		cc.RuntimeParams["application_name"] = c.ApplicationName
	}
	if cc.ConnectTimeout = c.ConnectTimeout; cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = defaultConnectTimeout
	}
	if cc.SSLNegotiation = c.SSLNegotiation; cc.SSLNegotiation == "" {
		cc.SSLNegotiation = "direct"
	}
	cc.TLSConfig = login.TLSConfig(k.endpoint.ServerName, c.RootCAs)
	cc.LookupFunc = keepHostName
	cc.DialFunc = lazyDial(k.dial)
	cc.AfterNetConnect = k.afterNetConnect
	// The login is done when pgx looks. Should somebody replace AfterNetConnect, the
	// server asks pgx for a password, and this makes pgx say so instead of sending an empty one.
	cc.RequireAuth = "none"
	return pool, nil
}

// NewPool returns a pool. Like pgxpool's own constructor it opens no
// connection yet, unless pool_min_conns or pool_min_idle_conns ask for some: what is
// wrong with the network or the login shows at the first use. pgxpool connects
// in the background, until ConnectTimeout: a caller whose context ends before
// gets that context's error and nothing else. To learn the reason, set
// ConnectTimeout below the deadlines of requests, or Logger or OnRetry. tune may
// change the configuration first; an AfterNetConnect set there is called with a
// connection that is logged in already.
func NewPool(ctx context.Context, c Config, tune ...func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	pool, err := c.PoolConfig(ctx)
	if err != nil {
		return nil, err
	}
	cc := pool.ConnConfig
	tuneAroundLogin(cc, func() {
		for _, f := range tune {
			if f != nil {
				f(pool)
			}
		}
	})
	if pool.ConnConfig != cc {
		return nil, configerr.New("tune", "replaced the pool's ConnConfig, and the login with it; change fields of the one that is there")
	}
	if pool.MaxConns < 1 {
		return nil, configerr.New("tune", "sets MaxConns to %d; it is at least 1", pool.MaxConns)
	}
	return pgxpool.NewWithConfig(ctx, pool)
}
