package dsql

import (
	"errors"

	"github.com/dsqlgo/dsql/internal/awsconfig"
	"github.com/dsqlgo/dsql/internal/configerr"
	"github.com/dsqlgo/dsql/internal/refusal"
)

// Errors of this package, for errors.Is. Where the server refused, the
// *pgconn.PgError stays reachable with errors.As, through pgx, pgxpool and
// database/sql alike.
var (
	// ErrConfig: the Config or connection string cannot work. The text names
	// the field and what to set. Trying again does not help.
	ErrConfig = configerr.Err

	// ErrCredentials: there are no AWS credentials, or they could not be had.
	ErrCredentials = awsconfig.ErrCredentials

	// ErrAccessDenied: the server refused the login (SQLSTATE 28000): an IAM
	// policy, a role mapping, the wrong region or key.
	ErrAccessDenied = errors.New("dsql: access denied")

	// ErrTokenExpired: the server took a fresh token for an expired one
	// (SQLSTATE 28000, "Signature expired"): this host's clock is off. Such an
	// error is an ErrAccessDenied as well.
	ErrTokenExpired = errors.New("dsql: token expired")

	// ErrInvalidSNI: the server could not tell the cluster from the TLS server
	// name, or got none.
	ErrInvalidSNI = errors.New("dsql: invalid SNI")

	// ErrRateExceeded: more new connections a second than the cluster's quota
	// (SQLSTATE 53400).
	ErrRateExceeded = errors.New("dsql: connection rate exceeded")

	// ErrTooManyConnections: as many connections are open as the cluster's
	// quota allows (SQLSTATE 53300).
	ErrTooManyConnections = errors.New("dsql: too many connections")

	// ErrClusterWaking: an idle cluster is starting.
	ErrClusterWaking = errors.New("dsql: cluster is waking up")
)

// sentinels are what errors.Is finds for a refusal.
var sentinels = map[refusal.Kind][]error{
	refusal.InvalidSNI:         {ErrInvalidSNI},
	refusal.ClusterWaking:      {ErrClusterWaking},
	refusal.RateExceeded:       {ErrRateExceeded},
	refusal.TooManyConnections: {ErrTooManyConnections},
	refusal.TokenExpired:       {ErrTokenExpired, ErrAccessDenied},
	refusal.WrongAction:        {ErrAccessDenied},
	refusal.AccessDenied:       {ErrAccessDenied},
}
