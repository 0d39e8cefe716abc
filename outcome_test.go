package dsql

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
		err                        error
		begun, committed, answered outcome
	}{
		"a conflict":                    {refused("ERROR", "40001", "change conflicts with another transaction (OC000)"), conflict, conflict, conflict},
		"a conflict in older words":     {refused("ERROR", "OC000", ""), conflict, conflict, conflict},
		"a changed schema":              {refused("ERROR", "40001", "schema has been updated by another transaction (OC001)"), conflict, conflict, conflict},
		"the statement's own error":     {refused("ERROR", "23505", "duplicate key"), failed, failed, failed},
		"the server ends the session":   {refused("FATAL", "57P01", "terminating connection"), lost, unknown, unknown},
		"a reset":                       {reset, lost, unknown, unknown},
		"the end of the stream":         {io.ErrUnexpectedEOF, lost, unknown, unknown},
		"a closed connection":           {pgconn.ErrConnClosed, lost, unknown, unknown},
		"a reset before it was sent":    {unsent{reset}, lost, lost, lost},
		"a time-out before it was sent": {unsent{context.DeadlineExceeded}, failed, failed, failed},
		"a time-out":                    {context.DeadlineExceeded, failed, unknown, unknown},
		"a cancel":                      {context.Canceled, failed, unknown, unknown},
		"an unknown outcome within":     {fmt.Errorf("%w: %w", ErrCommitUnknown, refused("ERROR", "40001", "(OC001)")), failed, unknown, unknown},
		"no word of the server's":       {errors.New("something else"), failed, failed, unknown},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, tt.begun, begun(tt.err), "begun")
			require.Equal(t, tt.committed, committed(tt.err), "committed")
			require.Equal(t, tt.answered, answered(tt.err), "answered")
		})
	}
	require.Equal(t, failed, begun(&pgconn.ConnectError{}), "connecting has made its own attempts")
	require.Equal(t, applied, committed(nil))
	require.Equal(t, applied, answered(nil))
}

func TestRetrierOptions(t *testing.T) {
	_, err := newRetrier([]RetryOption{Idempotent(), CheckCommit(func(context.Context) (bool, error) { return true, nil })})
	require.ErrorIs(t, err, ErrConfig)
	require.ErrorContains(t, err, "CheckCommit")

	r, err := newRetrier([]RetryOption{OnAttempt(nil), WithTxOptions(pgx.TxOptions{AccessMode: pgx.ReadOnly})})
	require.NoError(t, err)
	require.False(t, r.idempotent, "a statement of Retry and Exec is in no such transaction")
	require.NotPanics(t, func() { r.onAttempt(AttemptEvent{}) })
}
