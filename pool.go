package dsql

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql/internal/configerr"
	"github.com/dsqlgo/dsql/internal/login"
)

const (
	// DSQL ends a connection after 60 minutes (AWS guide, "Quotas"). A pool replaces one after 50 to
	// 58. So a query that starts at the end still has time, and connections that were opened
	// together do not end together.
	connLifetime       = 50 * time.Minute
	connLifetimeJitter = 8 * time.Minute

	// An idle connection counts against the cluster's quota of 10,000, so it does not stay for ever.
	connIdleTime = 10 * time.Minute

	// A connection that was idle for longer is pinged before it is used. pgxpool has the same
	// threshold, but counts the time that connecting took as idle time.
	pingAfterIdle = time.Second

	// A connection that does not answer a ping within this time is replaced. A cluster answers within
	// milliseconds. A connection can die unnoticed while Lambda freezes the process.
	pingTimeout = 5 * time.Second
)

// PoolConfig returns the configuration of a pgxpool. Its ConnConfig is that of [Config.ConnConfig].
// The pool replaces connections after 50 to 58 minutes, since DSQL ends them after 60. It closes them
// after 10 minutes without use, and waits up to 5 s for the answer to a ping. Params may change these
// times. ctx limits the reading of the AWS environment. The error is ErrConfig or ErrCredentials.
func (c Config) PoolConfig(ctx context.Context) (*pgxpool.Config, error) {
	k, err := newConnector(ctx, c)
	if err != nil {
		return nil, err
	}
	pool, err := parsePgx(c, k.endpoint)
	if err != nil {
		return nil, err
	}
	if _, ok := c.Params["pool_max_conn_lifetime"]; !ok {
		pool.MaxConnLifetime = connLifetime
	}
	if _, ok := c.Params["pool_max_conn_lifetime_jitter"]; !ok {
		// If Params set only the lifetime, the jitter is the same share of it as by default.
		pool.MaxConnLifetimeJitter = min(connLifetimeJitter, pool.MaxConnLifetime*4/25)
	}
	if _, ok := c.Params["pool_max_conn_idle_time"]; !ok {
		pool.MaxConnIdleTime = connIdleTime
	}

	// Without a timeout, pgxpool waits until the network reports that a connection is dead, and the
	// connection keeps its place in the pool until then.
	if _, ok := c.Params["pool_ping_timeout"]; !ok {
		pool.PingTimeout = pingTimeout
	}
	pool.ShouldPing = func(_ context.Context, p pgxpool.ShouldPingParams) bool {
		conn, ok := p.Conn.PgConn().Conn().(*login.Conn)
		return p.IdleDuration > pingAfterIdle && (!ok || time.Since(conn.Opened()) > pingAfterIdle)
	}

	cc := pool.ConnConfig
	if cc.ConnectTimeout = c.ConnectTimeout; cc.ConnectTimeout == 0 {
		cc.ConnectTimeout = defaultConnectTimeout
	}
	cc.LookupFunc = skipLookup
	if k.transport == transportTCP {
		cc.TLSConfig = k.tls
		cc.DialFunc = k.lazyDial(k.dial, false)
	} else {
		cc.TLSConfig = nil // see webSocketRoutes
		cc.DialFunc = k.lazyDial(k.dialForCancel, true)
	}
	cc.AfterNetConnect = k.afterNetConnect
	// pgx never gets a request for a password, because AfterNetConnect logs in. If a user replaced
	// AfterNetConnect, pgx fails with an error that says so, instead of sending an empty password.
	cc.RequireAuth = "none"
	return pool, nil
}

// NewPool returns a pool. Like pgxpool.NewWithConfig it does not wait for a connection, so problems
// with the network or the login show at the first use. tune may change the configuration first; an
// AfterNetConnect set there gets a connection that logs in when pgx uses it.
//
// pgxpool connects in the background, until ConnectTimeout. A caller whose context ends earlier gets
// only that context's error. To see the reason as well, set ConnectTimeout below the deadlines of
// requests, or set Logger or OnRetry.
func NewPool(ctx context.Context, c Config, tune ...func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	pool, err := c.PoolConfig(ctx)
	if err != nil {
		return nil, err
	}
	cc := pool.ConnConfig
	applyTune(cc, func() {
		for _, f := range tune {
			if f != nil {
				f(pool)
			}
		}
	})
	if pool.ConnConfig != cc {
		return nil, configerr.New("tune", "replaced the pool's ConnConfig, which makes the login; change its fields instead")
	}
	if pool.MaxConns < 1 {
		return nil, configerr.New("tune", "sets MaxConns to %d; set it to at least 1", pool.MaxConns)
	}
	return pgxpool.NewWithConfig(ctx, pool)
}
