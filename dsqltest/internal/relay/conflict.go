package relay

import (
	"strings"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

// asConflict returns the conflict that PostgreSQL's error is at DSQL, or nil. cancelled: the client
// has asked for a statement of the session to be cancelled.
func asConflict(e *pgproto3.ErrorResponse, cancelled bool) *pgproto3.ErrorResponse {
	switch e.Code {
	case "40001", "40P01":
		return rules.ErrConflict
	case "55P03":
		// A wait for a row, or for an index entry of one, says so in its context.
		// Any other is for a table, which only a schema change locks that much.
		if strings.Contains(e.Where, "tuple") || strings.Contains(e.Message, "row") {
			return rules.ErrConflict
		}
		return rules.ErrSchemaConflict
	case "57014":
		// PostgreSQL cancels itself by a signal when lock_timeout is over, and forgets why
		// if the statement has begun to wait for another lock when it sees that. A COPY waits for
		// others that make the same table longer.
		if !cancelled && (strings.Contains(e.Where, "tuple") || strings.HasPrefix(e.Where, "COPY ")) {
			return rules.ErrConflict
		}
	case "XX000":
		// Two that change one row of the catalog.
		if strings.HasPrefix(e.Message, "tuple concurrently ") {
			return rules.ErrSchemaConflict
		}
	case "23505":
		// Two that create the same name; IF NOT EXISTS does not keep them apart.
		if e.SchemaName == "pg_catalog" {
			return rules.ErrSchemaConflict
		}
	}
	return nil
}

// mayBeConflict reports whether an error may come of a change that the transaction's snapshot does
// not show: a key that is taken and a row that is referenced, too. On copies of the tables, as the
// snapshot has them, such a statement succeeds.
func mayBeConflict(e *pgproto3.ErrorResponse, canceled bool) bool {
	switch e.Code {
	case "23503":
		return true
	case "23505":
		return e.SchemaName != "pg_catalog"
	}
	return asConflict(e, canceled) == rules.ErrConflict
}
