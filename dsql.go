package dsql

import (
	"context"
	"crypto/x509"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
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

	// OnRetry and OnToken get what Logger gets, for metrics. They are called on the goroutine
	// that connects or signs, perhaps on many at once, and should return soon. Nil: not called.
	OnRetry func(RetryEvent)
	OnToken func(TokenEvent)
}

// Endpoint says what c's names mean: what is dialled, and which name the
// server hears. It reads the AWS environment or profile only for a region that no
// field and no name gives; ctx bounds that. The error is ErrConfig or
// ErrCredentials.
func (c Config) Endpoint(ctx context.Context) (Endpoint, error) {
	e, _, err := c.resolveEndpoint(ctx)
	return e, err
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
	pool, err := tunedPoolConfig(ctx, c, tune)
	if err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, pool.ConnConfig)
}
