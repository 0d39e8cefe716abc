package dsql

import (
	"errors"

	"github.com/dsqlgo/dsql/internal/awsconfig"
	"github.com/dsqlgo/dsql/internal/configerr"
	"github.com/dsqlgo/dsql/internal/refusal"
)

// These errors are for errors.Is. If the server refused the login, errors.As finds the *pgconn.PgError,
// through pgx, pgxpool and database/sql. Its Detail has the session ID that AWS support asks for; the
// error's text contains it as well.
//
//	the server says                  SQLSTATE       error                  while connecting
//	access denied                    08006, 28000   ErrAccessDenied        once more, if the token is older
//	                                                                       than a second (see ErrAccessDenied)
//	access denied, Signature expired 08006, 28000   ErrTokenExpired        once more, with a new token
//	invalid sni, sni was not received               ErrInvalidSNI          fails
//	rate exceeded                    53400          ErrRateExceeded        retried
//	too many open connections        53300          ErrTooManyConnections  retried
//	waking up cluster                               ErrClusterWaking       retried
//	server unavailable               XX000          ErrUnavailable         retried
//
// The words decide, whatever the SQLSTATE. Retries go on until ConnectTimeout or the context ends.
var (
	// ErrConfig: the Config or connection string is invalid. The text names the field and says what
	// to set. Another attempt will fail as well.
	ErrConfig = configerr.Err

	// ErrCredentials: there are no AWS credentials, or their provider failed.
	ErrCredentials = awsconfig.ErrCredentials

	// ErrAccessDenied: an IAM policy, the role mapping or the cluster's resource-based policy does not
	// allow the login, or the region or key is wrong. The key may have been rotated after the token
	// was signed. So a token that is older than a second is replaced, and the login made once more.
	// This happens at most once a minute, so that a wrong policy does not double the logins.
	ErrAccessDenied = errors.New("dsql: access denied")

	// ErrTokenExpired: the server called a new token expired, so this host's clock is wrong. The error
	// is an ErrAccessDenied as well.
	ErrTokenExpired = errors.New("dsql: token expired")

	// ErrInvalidSNI: the TLS server name does not name a cluster, or was not sent.
	ErrInvalidSNI = errors.New("dsql: invalid SNI")

	// ErrRateExceeded: there were more new connections a second than the cluster's quota allows, or
	// ConnectRate has no slot before the deadline.
	ErrRateExceeded = errors.New("dsql: connection rate exceeded")

	// ErrTooManyConnections: the cluster has as many open connections as its quota allows.
	ErrTooManyConnections = errors.New("dsql: too many connections")

	// ErrClusterWaking: the cluster was idle and is starting.
	ErrClusterWaking = errors.New("dsql: cluster is waking up")

	// ErrUnavailable: the service is unavailable for the moment.
	ErrUnavailable = errors.New("dsql: server unavailable")
)

// sentinels are the errors that errors.Is finds for a refusal; the first begins its text.
var sentinels = map[refusal.Kind][]error{
	refusal.InvalidSNI:         {ErrInvalidSNI},
	refusal.ClusterWaking:      {ErrClusterWaking},
	refusal.RateExceeded:       {ErrRateExceeded},
	refusal.TooManyConnections: {ErrTooManyConnections},
	refusal.Unavailable:        {ErrUnavailable},
	refusal.TokenExpired:       {ErrTokenExpired, ErrAccessDenied},
	refusal.WrongAction:        {ErrAccessDenied},
	refusal.AccessDenied:       {ErrAccessDenied},
}
