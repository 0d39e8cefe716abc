package dsql

import (
	"errors"

	"github.com/dsqlgo/dsql/internal/awsconfig"
	"github.com/dsqlgo/dsql/internal/configerr"
	"github.com/dsqlgo/dsql/internal/refusal"
)

// These errors are for errors.Is. If the server refused, errors.As finds the *pgconn.PgError,
// through pgx, pgxpool and database/sql.
var (
	// ErrConfig: the Config or connection string is invalid. The text names the field and says what
	// to set. Another attempt will fail as well.
	ErrConfig = configerr.Err

	// ErrCredentials: there are no AWS credentials, or their provider failed.
	ErrCredentials = awsconfig.ErrCredentials

	// ErrAccessDenied: the server refused the login (SQLSTATE 28000): an IAM
	// policy, a role mapping, the wrong region or key.
	ErrAccessDenied = errors.New("dsql: access denied")

	// ErrTokenExpired: the server called a new token expired (SQLSTATE 28000, "Signature expired"),
	// so this host's clock is wrong. The error is an ErrAccessDenied as well.
	ErrTokenExpired = errors.New("dsql: token expired")

	// ErrInvalidSNI: the TLS server name does not name a cluster, or was not sent.
	ErrInvalidSNI = errors.New("dsql: invalid SNI")

	// ErrRateExceeded: more new connections a second than the cluster's quota
	// (SQLSTATE 53400).
	ErrRateExceeded = errors.New("dsql: connection rate exceeded")

	// ErrTooManyConnections: the cluster has as many open connections as its quota allows (SQLSTATE
	// 53300).
	ErrTooManyConnections = errors.New("dsql: too many connections")

	// ErrClusterWaking: the cluster was idle and is starting.
	ErrClusterWaking = errors.New("dsql: cluster is waking up")
)

// sentinels are the errors that errors.Is finds for a refusal; the first begins its text.
var sentinels = map[refusal.Kind][]error{
	refusal.InvalidSNI:         {ErrInvalidSNI},
	refusal.ClusterWaking:      {ErrClusterWaking},
	refusal.RateExceeded:       {ErrRateExceeded},
	refusal.TooManyConnections: {ErrTooManyConnections},
	refusal.TokenExpired:       {ErrTokenExpired, ErrAccessDenied},
	refusal.WrongAction:        {ErrAccessDenied},
	refusal.AccessDenied:       {ErrAccessDenied},
}
