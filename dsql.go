package dsql

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"net"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	adminUser             = "admin"
	defaultDatabase       = "postgres"
	defaultConnectTimeout = 30 * time.Second
)

// Config says which cluster to reach, as whom, and how. Only Host is required;
// the zero value of every other field is the default named beside it.
//
// A Config is a plain value: copying one is safe, nothing in this package
// changes one, and one may be used by any number of goroutines at once.
// Printing, logging or marshalling one shows nothing secret; but a Config in an unexported
// field of yours is printed by fmt itself, Credentials and all, since fmt calls no methods there.
type Config struct {
	// Host names the cluster: its public endpoint
	// (<id>.dsql.<region>.on.aws), its PrivateLink name
	// (<id>.dsql-<suffix>.<region>.on.aws), a VPC endpoint name (vpce-…, with
	// ClusterID), a bare cluster ID (with a region), or any other name or IP
	// address that leads to DSQL (with ClusterID and Region, or ServerName).
	// A port in it ("name:5433", "[::1]:5433") is accepted when Port is 0 or the
	// same.
	Host string

	// Port is the TCP port to dial with Host; 0 means 5432.
	Port uint16

	// ClusterID is the cluster's 26-character ID. It is needed when Host does
	// not name the cluster, and must agree with Host when that does.
	ClusterID string

	// Region is the AWS region, such as "us-east-1". Empty: from Host or
	// ServerName, else from AWS_REGION, AWS_DEFAULT_REGION or the profile.
	Region string

	// DialAddress is the "host:port" to dial instead of Host: the near end of
	// an SSH or SSM tunnel, or a TCP proxy. Without a port, Port counts.
	DialAddress string

	// ServerName overrides the SNI and token host that follow from Host.
	ServerName string

	// User is the database role; empty means "admin". The token's action is
	// DbConnectAdmin for "admin" and DbConnect for every other role.
	User string

	// Database is the database; empty means "postgres", the only one there is.
	Database string

	// Credentials sign the tokens. Nil: those of Profile, else the SDK's
	// default chain. It is asked once a signature and must be safe for
	// concurrent use, as every aws.CredentialsProvider is.
	Credentials aws.CredentialsProvider

	// Profile is a profile of the shared AWS config and credentials files. Its
	// credentials are used when Credentials is nil, its region when no other
	// is known.
	Profile string

	// RoleARN is an IAM role that is assumed with the credentials above.
	RoleARN string

	// RoleSessionName names the assumed role's session; empty: one from the SDK.
	RoleSessionName string

	// ExternalID goes with RoleARN where the role's trust policy asks for one.
	ExternalID string

	// TokenLifetime is how long a signed token is valid: 1 s to 7 days, in
	// whole seconds; 0 means 15 minutes. Tokens are only checked when a
	// connection opens (AWS guide, "Generating an authentication token").
	TokenLifetime time.Duration

	// RootCAs verify the server's certificate; nil means the system's. The
	// certificate is always checked in full, name included.
	RootCAs *x509.CertPool

	// SSLNegotiation is "direct" (also when empty): TLS from the first byte, one round trip
	// less; or "postgres": an SSLRequest first, as PostgreSQL before 17 did.
	SSLNegotiation string

	// EarlyAuth sends the token together with the startup message, one round
	// trip less. It travels inside verified TLS either way.
	EarlyAuth bool

	// ConnectTimeout bounds one connect, retries and waiting included; 0 means 30 s.
	ConnectTimeout time.Duration

	// ConnectRate and ConnectBurst pace new connections to a cluster within this process:
	// 0 means 100 a second after a burst of 1,000, the quota that the AWS
	// guide states. A negative ConnectRate turns pacing off.
	ConnectRate  float64
	ConnectBurst int

	// DialFunc opens the TCP connection; nil means a net.Dialer with
	// keepalives that races IPv6 and IPv4. It may be called from many
	// goroutines at once, and again for each retry. TLS is set up on what it returns.
	DialFunc pgconn.DialFunc

	// ApplicationName is reported to the server as application_name.
	ApplicationName string

	// Params are further settings as in a pgx connection string: session
	// defaults (search_path, …) and those of pgx and pgxpool
	// (default_query_exec_mode, pool_max_conns, …). What a field above says
	// is refused here.
	Params map[string]string

	// Logger gets a line for each retry and each token, and never the token; nil is
	// silent. Retries and failed signings are Warn; the rest is Debug, and so are retries
	// while a cluster wakes up.
	Logger *slog.Logger

	// OnRetry and OnToken are told what Logger is told, for metrics. They are called
	// on the goroutine that connects or signs, maybe on many at once, and
	// should return soon. Nil: not called.
	OnRetry func(RetryEvent)
	OnToken func(TokenEvent)

	// OnStep is told of each step of Diagnose as it ends, in order, on the goroutine
	// that called Diagnose; nothing else calls it. Nil: not called.
	OnStep func(Step)
}

// Endpoint says what c's names mean: what is dialled, and which name the
// server hears. It reads the AWS environment or profile only for a region that no
// field and no name gives; ctx bounds that. The error is ErrConfig or
// ErrCredentials.
func (c Config) Endpoint(ctx context.Context) (Endpoint, error) {
	e, _, err := endpointOf(ctx, c)
	return e, err
}

func endpointOf(ctx context.Context, c Config) (Endpoint, *aws.Config, error) {
	var loaded *aws.Config
	e, err := resolveEndpoint(c, func() (string, error) {
		read, err := loadAWS(ctx, c, "")
		if err != nil {
			return "", err
		}
		loaded = &read
		return read.Region, nil
	})
	return e, loaded, err
}

// ConnConfig returns what pgx needs to connect. It stays good for ever: each
// connect takes a fresh token, and none is stored in it. Any field may be
// changed before it is used, with these limits: TLS stays on and verifying, for the same server name;
// User stays admin, or another than admin (tokens differ); and a func put in
// AfterNetConnect must call the one that is there first, since that is the login (Connect, NewPool and NewConnector see to that for funcs set in tune).
// ctx bounds the reading of the AWS environment. The error is ErrConfig or
// ErrCredentials.
func (c Config) ConnConfig(ctx context.Context) (*pgx.ConnConfig, error) {
	pool, err := c.PoolConfig(ctx)
	if err != nil {
		return nil, err
	}
	return pool.ConnConfig, nil
}

// Connect opens one connection. tune may change the configuration first; an
// AfterNetConnect set there is called with a connection that is logged in already.
// The error is one of this package's, with pgconn's around it; the connection is
// tried for until ctx or ConnectTimeout ends.
func Connect(ctx context.Context, c Config, tune ...func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	pool, err := tuned(ctx, c, tune)
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, pool.ConnConfig)
}

// tuned is PoolConfig with its ConnConfig tuned.
func tuned(ctx context.Context, c Config, tune []func(*pgx.ConnConfig)) (*pgxpool.Config, error) {
	pool, err := c.PoolConfig(ctx)
	if err != nil {
		return nil, err
	}
	keepLogin(pool.ConnConfig, func() {
		for _, f := range tune {
			if f != nil {
				f(pool.ConnConfig)
			}
		}
	})
	return pool, nil
}

// keepLogin lets tune work on cc, and puts the login in front of an
// AfterNetConnect that it sets, so that this one sees no token and cannot drop the login.
func keepLogin(cc *pgx.ConnConfig, tune func()) {
	login := cc.AfterNetConnect
	cc.AfterNetConnect = passOn
	tune()
	theirs := cc.AfterNetConnect
	if theirs == nil {
		theirs = passOn
	}
	cc.AfterNetConnect = func(ctx context.Context, config *pgconn.Config, conn net.Conn) (net.Conn, error) {
		session, err := login(ctx, config, conn)
		if err != nil {
			return session, err
		}
		wrapped, err := theirs(ctx, config, session)
		if wrapped == nil {
			wrapped = session // for pgx to close
			if err == nil {
				err = errors.New("AfterNetConnect returned neither a connection nor an error")
			}
		}
		return wrapped, err
	}
}

func passOn(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) { return conn, nil }

// target is a Config with every question answered: the immutable private
// copy that connections are made from.
type target struct {
	endpoint  Endpoint
	tokens    *TokenSource
	user      string // that they are for
	dial      pgconn.DialFunc
	pacer     *pacer // nil: no pacing
	earlyAuth bool
	observe   observer

	// Set once the server was seen not to read an early token.
	earlyUnread atomic.Bool
}

// resolve checks c and answers what it leaves open.
func resolve(ctx context.Context, c Config) (*target, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	e, loaded, err := endpointOf(ctx, c)
	if err != nil {
		return nil, err
	}
	credentials, err := credentialsFor(ctx, c, e.Region, loaded)
	if err != nil {
		return nil, err
	}
	t := &target{endpoint: e, user: c.user(), dial: c.DialFunc, pacer: pacerFor(c, e.ClusterID), earlyAuth: c.EarlyAuth, observe: newObserver(c)}
	if t.dial == nil {
		t.dial = newDialer()
	}
	lifetime := c.TokenLifetime
	if lifetime == 0 {
		lifetime = defaultTokenLifetime
	}
	t.tokens = newTokenSource(credentials, e, t.user, lifetime, t.observe)
	return t, nil
}

func (c Config) user() string {
	if c.User == "" {
		return adminUser
	}
	return c.User
}

// check looks at the fields that mean something by themselves; resolveEndpoint looks at the names.
func (c Config) check() error {
	for field, value := range map[string]string{"User": c.User, "Database": c.Database, "ApplicationName": c.ApplicationName} {
		if strings.ContainsRune(value, 0) {
			return configError(field, "holds a NUL character, which ends a value on the wire; remove it")
		}
	}
	switch {
	case c.SSLNegotiation != "" && c.SSLNegotiation != "direct" && c.SSLNegotiation != "postgres":
		return configError("SSLNegotiation", "is %q; it is direct (the default) or postgres", c.SSLNegotiation)
	case c.ConnectTimeout < 0:
		return configError("ConnectTimeout", "is %s; it is a time above 0, or 0 for %s", c.ConnectTimeout, defaultConnectTimeout)
	case math.IsNaN(c.ConnectRate) || math.IsInf(c.ConnectRate, 0):
		return configError("ConnectRate", "is %v; it is a number of connections a second, 0 for the default, or negative for no pacing", c.ConnectRate)
	case c.ConnectBurst < 0:
		return configError("ConnectBurst", "is %d; it is a number of connections above 0, or 0 for the default", c.ConnectBurst)
	}
	if c.TokenLifetime != 0 {
		return checkTokenLifetime(c.TokenLifetime)
	}
	return nil
}

// shown are the fields that are set, as logs may show them.
func (c Config) shown() []slog.Attr {
	var attrs []slog.Attr
	add := func(name string, set bool, value any) {
		if set {
			attrs = append(attrs, slog.Any(name, value))
		}
	}
	for _, f := range []struct{ name, value string }{
		{"Host", c.Host}, {"ClusterID", c.ClusterID}, {"Region", c.Region},
		{"DialAddress", c.DialAddress}, {"ServerName", c.ServerName},
		{"User", c.User}, {"Database", c.Database}, {"Profile", c.Profile},
		{"RoleARN", c.RoleARN}, {"RoleSessionName", c.RoleSessionName},
		{"SSLNegotiation", c.SSLNegotiation}, {"ApplicationName", c.ApplicationName},
	} {
		add(f.name, f.value != "", f.value)
	}
	add("Port", c.Port != 0, c.Port)
	add("Credentials", c.Credentials != nil, fmt.Sprintf("%T", c.Credentials))
	add("ExternalID", c.ExternalID != "", "set")
	add("TokenLifetime", c.TokenLifetime != 0, c.TokenLifetime.String())
	add("RootCAs", c.RootCAs != nil, "set")
	add("EarlyAuth", c.EarlyAuth, c.EarlyAuth)
	add("ConnectTimeout", c.ConnectTimeout != 0, c.ConnectTimeout.String())
	add("ConnectRate", c.ConnectRate != 0, c.ConnectRate)
	add("ConnectBurst", c.ConnectBurst != 0, c.ConnectBurst)
	add("DialFunc", c.DialFunc != nil, "set")
	params := maps.Clone(c.Params)
	for name, value := range params {
		if slices.Contains(refused, strings.ToLower(name)) || holdsPassword(name+"="+value) {
			params[name] = "[hidden]" // it is refused later, by an error beside which the Config may be logged
		}
	}
	add("Params", len(params) > 0, params)
	add("Logger", c.Logger != nil, "set")
	add("OnRetry", c.OnRetry != nil, "set")
	add("OnToken", c.OnToken != nil, "set")
	add("OnStep", c.OnStep != nil, "set")
	return attrs
}

// String shows the fields that are set, and nothing secret.
func (c Config) String() string {
	var b strings.Builder
	b.WriteString("dsql.Config{")
	for i, a := range c.shown() {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s: %v", a.Key, a.Value)
	}
	b.WriteString("}")
	return b.String()
}

// Format keeps every verb to String: %+v and %#v would print the credentials.
func (c Config) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, c.String()) }

// LogValue logs what String shows, as a group.
func (c Config) LogValue() slog.Value { return slog.GroupValue(c.shown()...) }

// MarshalJSON marshals what String shows. It is for logs and reports: not
// everything can be read back from it.
func (c Config) MarshalJSON() ([]byte, error) {
	fields := map[string]any{}
	for _, a := range c.shown() {
		fields[a.Key] = a.Value.Any()
	}
	return json.Marshal(fields)
}
