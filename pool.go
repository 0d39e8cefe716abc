package dsql

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
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
	t, err := resolve(ctx, c)
	if err != nil {
		return nil, err
	}
	return c.poolConfig(t)
}

// poolConfig is PoolConfig for a c that is resolved already.
func (c Config) poolConfig(t *target) (*pgxpool.Config, error) {
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
		session, ok := p.Conn.PgConn().Conn().(*sessionConn)
		return p.IdleDuration > pingIdle && (!ok || time.Since(session.opened) > pingIdle)
	}

	cc := pool.ConnConfig
	if cc.Host, cc.Port, err = splitAddress("Host", t.endpoint.DialAddress); err != nil {
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
	cc.TLSConfig = newTLSConfig(t.endpoint.ServerName, c.RootCAs)
	cc.LookupFunc = lookupNothing
	cc.DialFunc = pendingDial(t.dial)
	cc.AfterNetConnect = t.afterNetConnect
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
	keepLogin(cc, func() {
		for _, f := range tune {
			if f != nil {
				f(pool)
			}
		}
	})
	if pool.ConnConfig != cc {
		return nil, configError("tune", "replaced the pool's ConnConfig, and the login with it; change fields of the one that is there")
	}
	if pool.MaxConns < 1 {
		return nil, configError("tune", "sets MaxConns to %d; it is at least 1", pool.MaxConns)
	}
	return pgxpool.NewWithConfig(ctx, pool)
}

// Parameters that pgx reads from the environment or from files in the home
// directory, with the values that keep it from doing so. What follows from the empty ones is
// overwritten from Config. TLS is Config's too: "disable" makes pgx prepare none,
// and no fallbacks.
var neutral = map[string]string{
	"host": "dsql.invalid", "port": "5432", "user": adminUser, "database": defaultDatabase,
	"passfile": "", "connect_timeout": "0", "options": "", "timezone": "", "application_name": "",
	"sslmode": "disable", "sslcert": "", "sslkey": "", "sslrootcert": "",
	"sslcertmode": "allow", "sslsni": "1", "sslnegotiation": "direct",
	"target_session_attrs": "any", "min_protocol_version": "3.0", "max_protocol_version": "3.0",
	"channel_binding": "prefer", "require_auth": "",
}

// ownedBy names the field for parameters that Params must not hold.
var ownedBy = map[string]string{
	"host": "Host", "hostaddr": "DialAddress", "port": "Port", "user": "User", "dbname": "Database", "database": "Database",
	"connect_timeout": "ConnectTimeout", "application_name": "ApplicationName",
	"sslrootcert": "RootCAs", "sslnegotiation": "SSLNegotiation",
	"cluster_id": "ClusterID", "region": "Region", "dial_address": "DialAddress", "server_name": "ServerName",
	"profile": "Profile", "role_arn": "RoleARN", "role_session_name": "RoleSessionName", "external_id": "ExternalID",
	"token_lifetime": "TokenLifetime", "early_auth": "EarlyAuth", "connect_rate": "ConnectRate", "connect_burst": "ConnectBurst",
}

// refused have no place in a connection to DSQL.
var refused = []string{
	"password", "passfile", "service", "servicefile", "sslmode", "sslcert", "sslkey", "sslpassword", "sslcertmode", "sslsni",
	"require_auth", "channel_binding", "krbsrvname", "krbspn",
}

// parsePgx has pgx read params, and nothing but params: neither the PG*
// environment nor files in the home directory.
func parsePgx(params map[string]string) (*pgxpool.Config, error) {
	settings := maps.Clone(neutral)
	for name, value := range params {
		field, owned := ownedBy[name]
		switch {
		case owned:
			return nil, configError("Params", "holds %q; set Config.%s instead", name, field)
		case slices.Contains(refused, name):
			return nil, configError("Params", "holds %q, which DSQL has no use for: the token is the password, and TLS is always verify-full; remove it", name)
		case name == "" || strings.ContainsAny(name, "= \t\r\n\v\f\\'\x00"):
			return nil, configError("Params", "holds a name that is none, %q; remove it", name)
		case strings.ContainsRune(value, 0):
			return nil, configError("Params", "%q holds a NUL character, which ends a value on the wire; remove it", name)
		}
		settings[name] = value
	}

	if os.Getenv("PGSERVICE") != "" {
		// pgx insists on reading the service that this names. It gets one that
		// says nothing.
		file, err := os.CreateTemp("", "dsql-no-service-")
		if err != nil {
			return nil, configError("PGSERVICE", "is set, and the file that keeps pgx from obeying it cannot be written (%v); unset it", err)
		}
		defer os.Remove(file.Name())
		_, err = file.WriteString("[dsql]\n")
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, configError("PGSERVICE", "is set, and the file that keeps pgx from obeying it cannot be written (%v); unset it", err)
		}
		settings["service"], settings["servicefile"] = "dsql", file.Name()
	}

	var b strings.Builder
	escape := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		b.WriteString(name + "='" + escape.Replace(settings[name]) + "' ")
	}
	pool, err := pgxpool.ParseConfig(b.String())
	if err != nil {
		// The text begins with the whole string, which users never saw.
		text := strings.TrimPrefix(err.Error(), "cannot parse `"+b.String()+"`: ")
		return nil, configError("Params", "%s", strings.Replace(text, "pool_max_conns too small", "pool_max_conns too small; it is at least 1", 1))
	}
	for name := range pool.ConnConfig.RuntimeParams {
		if _, ok := params[name]; !ok {
			delete(pool.ConnConfig.RuntimeParams, name)
		}
	}
	pool.ConnConfig.Password = "" // PGPASSWORD's
	return pool, nil
}
