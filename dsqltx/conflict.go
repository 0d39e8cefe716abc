package dsqltx

import (
	"errors"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// The kinds of conflict (AWS guide, "Concurrency control in Aurora DSQL").
const (
	rowConflict    = "OC000" // another transaction changed the same rows
	schemaConflict = "OC001" // the schema changed
)

// IsConflict reports whether err is a conflict with another transaction: a row that it changed
// first (OC000), a schema that it changed (OC001), or a statement that was prepared before such a
// change. Nothing was applied, and running the whole transaction again may succeed.
//
// err may come from pgx, pgxpool or database/sql. An ErrCommitUnknown is never a conflict, whatever
// else it wraps.
func IsConflict(err error) bool { return conflictKind(err) != "" }

// conflictKind returns rowConflict, schemaConflict or "". DSQL sends SQLSTATE 40001 with the kind
// in the message; older clients look for the kind as the SQLSTATE, so that counts too.
func conflictKind(err error) string {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || errors.Is(err, ErrCommitUnknown) {
		return ""
	}
	switch {
	case pgErr.Code == rowConflict, pgErr.Code == schemaConflict:
		return pgErr.Code
	case isStaleStatement(pgErr):
		return schemaConflict
	case pgErr.Code != "40001":
		return ""
	case strings.Contains(pgErr.Message, schemaConflict):
		return schemaConflict
	}
	return rowConflict
}

// isStaleStatement tells whether a statement's result columns changed since pgx prepared it
// (cache_statement) or described it (cache_describe). pgx has dropped it from its cache by the time
// the caller sees the error, so the next attempt succeeds.
func isStaleStatement(e *pgconn.PgError) bool {
	return e.Code == "0A000" && e.Message == "cached plan must not change result type" ||
		e.Code == "08P01" && strings.HasPrefix(e.Message, "bind message has ") &&
			strings.Contains(e.Message, "result formats but query has")
}
