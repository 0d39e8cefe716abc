package dsqltx

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// unsent is an error of a query that pgx did not send.
type unsent struct{ error }

func (unsent) SafeToRetry() bool { return true }
func (u unsent) Unwrap() error   { return u.error }

// What is run again must not have been applied: an error is judged by when it came.
func TestOutcomes(t *testing.T) {
	refused := func(severity, code, message string) error {
		return fmt.Errorf("in fn: %w", &pgconn.PgError{Severity: severity, Code: code, Message: message})
	}
	reset := &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}
	for name, tt := range map[string]struct {
		err                      error
		begin, statement, commit outcome
	}{
		"a conflict":                    {refused("ERROR", "40001", "change conflicts with another transaction (OC000)"), conflict, conflict, conflict},
		"a conflict in older words":     {refused("ERROR", "OC000", ""), conflict, conflict, conflict},
		"a changed schema":              {refused("ERROR", "40001", "schema has been updated by another transaction (OC001)"), conflict, conflict, conflict},
		"the statement's own error":     {refused("ERROR", "23505", "duplicate key"), failed, failed, failed},
		"the server ends the session":   {refused("FATAL", "57P01", "terminating connection"), connLost, unknown, unknown},
		"a reset":                       {reset, connLost, unknown, unknown},
		"the end of the stream":         {io.ErrUnexpectedEOF, connLost, unknown, unknown},
		"a closed connection":           {pgconn.ErrConnClosed, connLost, unknown, unknown},
		"a reset before it was sent":    {unsent{reset}, connLost, connLost, connLost},
		"a time-out before it was sent": {unsent{context.DeadlineExceeded}, failed, failed, failed},
		"a time-out":                    {context.DeadlineExceeded, failed, unknown, unknown},
		"a cancel":                      {context.Canceled, failed, unknown, unknown},
		"an unknown outcome within":     {fmt.Errorf("%w: %w", ErrCommitUnknown, refused("ERROR", "40001", "(OC001)")), failed, unknown, unknown},
		"no word of the server's":       {errors.New("something else"), failed, failed, unknown},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.begin, classifyBegin(tt.err), "BEGIN")
			require.Equal(t, tt.statement, classifyStatement(tt.err), "a statement")
			require.Equal(t, tt.commit, classifyCommit(tt.err), "COMMIT")
		})
	}
	require.Equal(t, failed, classifyBegin(&pgconn.ConnectError{}), "connecting has made its own attempts")
	require.Equal(t, applied, classifyStatement(nil))
	require.Equal(t, applied, classifyCommit(nil))
}

func TestClassifyFn(t *testing.T) {
	reset := &net.OpError{Op: "read", Err: errors.New("connection reset by peer")}
	conflictErr := &pgconn.PgError{Severity: "ERROR", Code: "40001", Message: "(OC000)"}
	for name, tt := range map[string]struct {
		err    error
		closed bool
		want   outcome
	}{
		"a conflict":                           {conflictErr, false, conflict},
		"a conflict on a closed connection":    {conflictErr, true, conflict},
		"this connection was lost":             {reset, true, connLost},
		"another connection was lost":          {reset, false, failed},
		"fn's own error":                       {errors.New("no"), true, failed},
		"an unknown outcome of another":        {fmt.Errorf("%w: %w", ErrCommitUnknown, conflictErr), true, failed},
		"a timeout that closed the connection": {context.DeadlineExceeded, true, failed},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.want, classifyFn(tt.err, tt.closed))
		})
	}
}

func TestRunnerValidate(t *testing.T) {
	check := func(context.Context) (bool, error) { return true, nil }
	for says, r := range map[string]Runner{
		"Runner.MaxAttempts is -1":                      {MaxAttempts: -1},
		`Runner.TxOptions.IsoLevel is "serializable"`:   {TxOptions: pgx.TxOptions{IsoLevel: pgx.Serializable}},
		"Runner.TxOptions.DeferrableMode is deferrable": {TxOptions: pgx.TxOptions{DeferrableMode: pgx.Deferrable}},
		"Runner.CheckCommit is set beside Idempotent":   {Idempotent: true, CheckCommit: check},
	} {
		require.ErrorContains(t, r.validate(), "dsqltx: "+says)
		require.ErrorContains(t, r.Run(t.Context(), nil, nil), says)
		require.ErrorContains(t, r.RunSQL(t.Context(), nil, nil), says)
		require.ErrorContains(t, r.Retry(t.Context(), nil), says)
		_, err := r.Exec(t.Context(), nil, "")
		require.ErrorContains(t, err, says)
		_, err = r.ExecSQL(t.Context(), nil, "")
		require.ErrorContains(t, err, says)
	}
	require.NoError(t, Runner{CheckCommit: check, TxOptions: pgx.TxOptions{IsoLevel: pgx.RepeatableRead}}.validate())
}
