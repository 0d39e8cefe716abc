package relay

import (
	"testing"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// What PostgreSQL says of a conflict, as it was met.
func TestAsConflict(t *testing.T) {
	t.Parallel()
	const locking = `while locking tuple (6,160) in relation "accounts"`
	for name, tt := range map[string]struct {
		e         pgproto3.ErrorResponse
		cancelled bool
		want      *pgproto3.ErrorResponse
	}{
		"a change beneath a snapshot": {e: pgproto3.ErrorResponse{Code: "40001", Message: "could not serialize access due to concurrent update"}, want: rules.ErrConflict},
		"a deadlock":                  {e: pgproto3.ErrorResponse{Code: "40P01", Message: "deadlock detected"}, want: rules.ErrConflict},
		"a wait for a row":            {e: pgproto3.ErrorResponse{Code: "55P03", Message: "canceling statement due to lock timeout", Where: locking}, want: rules.ErrConflict},
		"a wait for a table":          {e: pgproto3.ErrorResponse{Code: "55P03", Message: "canceling statement due to lock timeout"}, want: rules.ErrSchemaConflict},
		"a second wait for a row":     {e: pgproto3.ErrorResponse{Code: "57014", Message: "canceling statement due to user request", Where: locking}, want: rules.ErrConflict},
		"a wait to extend a table":    {e: pgproto3.ErrorResponse{Code: "57014", Message: "canceling statement due to user request", Where: "COPY big, line 337"}, want: rules.ErrConflict},
		"a cancel in a wait":          {e: pgproto3.ErrorResponse{Code: "57014", Message: "canceling statement due to user request", Where: locking}, cancelled: true},
		"a cancel":                    {e: pgproto3.ErrorResponse{Code: "57014", Message: "canceling statement due to user request"}, cancelled: true},
		"a name that is taken":        {e: pgproto3.ErrorResponse{Code: "23505", SchemaName: "pg_catalog"}, want: rules.ErrSchemaConflict},
		"a key that is taken":         {e: pgproto3.ErrorResponse{Code: "23505", SchemaName: "public"}},
	} {
		require.Equal(t, tt.want, asConflict(&tt.e, tt.cancelled), name)
	}
}
