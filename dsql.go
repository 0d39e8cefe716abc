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

// Config says which cluster to connect to, as which user, and how. Only Host is required; the zero
// value of every other field is the default named beside it.
//
// A Config is a plain value. Copying it is safe, this package never changes one, and any number of
// goroutines may use the same one. Printing, logging or marshalling a Config shows no secret. There
// is one exception: fmt calls no methods of unexported fields, so it prints a Config in such a field
// with its Credentials.
type Config struct {
	// Host names the cluster. It is one of:
	//   - its public endpoint, <id>.dsql.<region>.on.aws
	//   - its PrivateLink name, <id>.dsql-<suffix>.<region>.on.aws
	//   - a VPC endpoint name, vpce-…; this needs ClusterID
	//   - its 26-character ID; this needs a region
	//   - any other name or IP address that leads to DSQL; this needs ClusterID and Region, or
	//     ServerName
	// It may end in a port ("name:5433", "[::1]:5433"), if Port is 0 or the same.
	Host string

	// Port is the TCP port to dial at Host, 1 to 65535; 0 means 5432, or 443 for a WebSocket. If
	// Transport is "auto", it is the port of "tcp"; a WebSocket uses 443.
	Port uint16

	// ClusterID is the cluster's 26-character ID. It is needed if Host does not contain it, and
	// must be the same if Host does.
	ClusterID string

	// Region is the AWS region, such as "us-east-1". If it is empty, the region comes from Host or
	// ServerName, or else from AWS_REGION, AWS_DEFAULT_REGION or the profile.
	Region string

	// DialAddress is the "host:port" to dial instead of Host: the local end of an SSH or SSM
	// tunnel, or a TCP proxy. Without a port, Port is used. With one, both transports of "auto" use
	// it.
	DialAddress string

	// ServerName replaces the SNI and token host that are derived from Host.
	ServerName string

	// Transport is how PostgreSQL's protocol travels: "tcp", also if it is empty; "websocket", in
	// the frames of a WebSocket inside TLS on port 443, which is HTTPS to a network; or "auto", by
	// TCP, and by WebSocket where the network stops TCP or TLS on its port. It costs one round trip
	// more to open a WebSocket.
	//
	// A WebSocket, and nothing else, goes through the HTTP proxy that HTTPS_PROXY names. To say no,
	// list what is dialled in NO_PROXY, or set DialFunc. See net/http.ProxyFromEnvironment.
	Transport string

	// User is the database role; empty means "admin". Tokens are signed for the action
	// DbConnectAdmin if it is "admin", and for DbConnect otherwise.
	User string

	// Database is the database; empty means "postgres", the only one that a cluster has.
	Database string

	// Credentials sign the tokens. If it is nil, the credentials come from Profile, or else from
	// the SDK's default chain. Each signing calls Retrieve once, on a goroutine of its own.
	Credentials aws.CredentialsProvider

	// Profile is a profile of the shared AWS config and credentials files. Its credentials are
	// used if Credentials is nil, and its region if nothing else says one.
	Profile string

	// RoleARN is an IAM role to assume with the credentials above.
	RoleARN string

	// RoleSessionName names the assumed role's session; empty means a name made by the SDK.
	RoleSessionName string

	// ExternalID is sent when RoleARN is assumed, if the role's trust policy asks for one.
	ExternalID string

	// TokenLifetime is how long a signed token is valid: whole seconds, 1 s to 7 days; 0 means
	// 15 minutes. The server checks a token only when a connection opens (AWS guide, "Generating
	// an authentication token").
	TokenLifetime time.Duration

	// RootCAs verify the server's certificate; nil means the system's. The certificate and its
	// name are always verified in full.
	RootCAs *x509.CertPool

	// SSLNegotiation is "direct", which is also the default: TLS begins with the first byte, which
	// saves a round trip. With "postgres" an SSLRequest is sent first, as before PostgreSQL 17.
	SSLNegotiation string

	// EarlyAuth sends the token together with the startup message, which saves a round trip. Both
	// are sent inside verified TLS.
	EarlyAuth bool

	// ConnectTimeout limits one connect, retries and waiting included; 0 means 30 s.
	ConnectTimeout time.Duration

	// ConnectRate and ConnectBurst limit the new connections from this process to the cluster, to so
	// many a second after a burst. They are shared by all Configs of the process for the cluster: the
	// slowest rate and the smallest burst that any of them sets count. 0 sets nothing; if no Config
	// sets them, they are 100 and 1,000, the quotas that the AWS guide states. Connections of a
	// Config with a negative ConnectRate are not limited. If the server refuses connections, because
	// other processes use the same quota, this one becomes slower by itself.
	ConnectRate  float64
	ConnectBurst int

	// DialFunc opens TCP connections; TLS is set up on what it returns. It may be called by many
	// goroutines at once, and again for each retry. Nil means a net.Dialer with keepalives, which
	// races IPv6 and IPv4.
	DialFunc pgconn.DialFunc

	// ApplicationName is sent to the server as application_name.
	ApplicationName string

	// Params are other settings of a pgx connection string: session settings (search_path, …) and
	// those of pgx and pgxpool (default_query_exec_mode, pool_max_conns, …). Settings that have a
	// field above are errors here.
	Params map[string]string

	// Logger gets a record for each retry and each signing, never with the token; nil means no
	// logging. Retries and failed signings are logged at Warn. Signings, and retries while a
	// cluster wakes up, are logged at Debug.
	Logger *slog.Logger

	// OnRetry and OnToken get the same events as Logger, for metrics. They are called by the
	// goroutine that connects or signs, perhaps by several at once, and should return quickly.
	// Nil means no call.
	OnRetry func(RetryEvent)
	OnToken func(TokenEvent)
}

// Endpoint returns what c's names mean: the address to dial and the name to send to the server. It
// reads the AWS environment or profile only if no field and no name says the region; ctx limits
// that. The error is ErrConfig or ErrCredentials.
func (c Config) Endpoint(ctx context.Context) (Endpoint, error) {
	e, _, err := c.resolveEndpoint(ctx)
	return e, err
}

// ConnConfig returns the configuration that pgx connects with. It stays valid for the life of the
// program: each connect uses a current token, and none is stored in it. Its fields may be changed
// before it is used, within these limits:
//   - TLS stays on and verified, for the same server name. With Transport "websocket" or "auto", it is
//     not pgx that sets it up: TLSConfig is nil and stays so, and DialFunc stays the same.
//   - User stays "admin", or stays another role; tokens for the two differ.
//   - A func in AfterNetConnect must call the one that was there, which makes the login. (Connect,
//     NewPool and NewConnector take care of that for funcs that are set in tune.)
//
// Its ConnString describes the connection, with sslmode=verify-full, but cannot contain the login: a
// tool that parses it again cannot connect. Give such a tool the ConnConfig itself, or a *sql.DB.
//
// ctx limits the reading of the AWS environment. The error is ErrConfig or ErrCredentials.
func (c Config) ConnConfig(ctx context.Context) (*pgx.ConnConfig, error) {
	pool, err := c.PoolConfig(ctx)
	if err != nil {
		return nil, err
	}
	return pool.ConnConfig, nil
}

// Connect opens one connection. It retries until ctx or ConnectTimeout ends. Its error is one of this
// package's, wrapped by pgconn.
//
// tune may change the configuration first. An AfterNetConnect that is set there gets a connection that
// logs in when pgx uses it. It may return a wrapper of that connection, which then sees the session in
// plaintext, but not the token.
func Connect(ctx context.Context, c Config, tune ...func(*pgx.ConnConfig)) (*pgx.Conn, error) {
	pool, err := tunedPoolConfig(ctx, c, tune)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, pool.ConnConfig)
	if err != nil {
		return nil, err
	}
	if err := runAfterConnect(ctx, conn); err != nil {
		return nil, err
	}
	return conn, nil
}
