package rules

import "github.com/jackc/pgx/v5/pgproto3"

// The errors of transactions that lose, as others have recorded them from the service.
var (
	ErrConflict       = NewError("40001", "change conflicts with another transaction (OC000)")
	ErrSchemaConflict = NewError("40001", "schema has been updated by another transaction (OC001)")
	ErrRowLimit       = NewError("54000", "transaction row limit exceeded")
)

// NewError returns an error that fails a statement and leaves the session open.
func NewError(code, message string) *pgproto3.ErrorResponse {
	return &pgproto3.ErrorResponse{Severity: "ERROR", SeverityUnlocalized: "ERROR", Code: code, Message: message}
}

func notSupported(message string) *pgproto3.ErrorResponse { return NewError("0A000", message) }

func unsupportedStatement(name string) *pgproto3.ErrorResponse {
	return notSupported("unsupported statement: " + name)
}

func unsupportedTransactionStatement(name string) *pgproto3.ErrorResponse {
	return notSupported("unsupported transaction statement: " + name)
}

var errLocking = notSupported("locking clauses other than FOR UPDATE/FOR KEY SHARE are not supported")

var errMerge = notSupported("unsupported statement type: MERGE")
