package dsqltx

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrCommitUnknown says that the connection was lost while committing. The transaction or
	// statement may have been applied or not; running it again may apply it twice.
	ErrCommitUnknown = errors.New("dsqltx: outcome of the commit unknown")

	// ErrJobFailed says that a job of the cluster ended without success.
	ErrJobFailed = errors.New("dsqltx: job failed")
)

// Misuse by fn. None of these is retried.
var (
	errNested = errors.New("dsqltx: DSQL has no savepoints, so transactions do not nest; " +
		"use the transaction that there is")
	errOwned      = errors.New("dsqltx: Run commits and rolls back; return nil or an error")
	errSQLDone    = errors.New("dsqltx: fn ended the transaction; leave Commit and Rollback to RunSQL")
	errEndedBySQL = errors.New("dsqltx: fn ended the transaction by SQL, such as COMMIT or ROLLBACK; " +
		"what it committed stays applied; return nil or an error instead")
	errHidden = errors.New("dsqltx: fn returned nil although one of its statements had failed; " +
		"let it return that error")
	errOpenRows = errors.New("dsqltx: fn returned while the rows of a query were open; " +
		"close them, or read them to the end")
)

// errNotBegun means that the server answered BEGIN, or the Runner's BeginQuery, without beginning.
var errNotBegun = errors.New("dsqltx: the server did not begin a transaction; look at Runner.TxOptions.BeginQuery if it is set")

// Reasons to stop that are not the context's.
var (
	errNoAttemptLeft = errors.New("no attempt left")
	errConnGone      = errors.New("the connection is closed; use a pool, or run again on another connection")
	errAlwaysLost    = errors.New("each lost its connection; a message of more than 10 MiB, " +
		"the most that DSQL takes, does that every time")
)

// stoppedError ends a run that would have gone on.
type stoppedError struct {
	cause    error // of the last attempt that the context did not cut short
	stop     error // why no other attempt follows
	attempts int
	elapsed  time.Duration
}

func (e *stoppedError) Error() string {
	return fmt.Sprintf("dsqltx: given up after %d attempts in %s (%v): %v",
		e.attempts, e.elapsed.Round(time.Millisecond), e.stop, e.cause)
}

func (e *stoppedError) Unwrap() []error { return []error{e.cause, e.stop} }

// unknownError is the error of an attempt that may have been applied.
func unknownError(cause error) error {
	return fmt.Errorf("%w: the connection was lost between the commit and its answer: %w",
		ErrCommitUnknown, cause)
}

// withUnknown adds to err, the end of a run, that an earlier attempt may have been applied.
// earlier is what that attempt failed with, or nil.
func withUnknown(err, earlier error) error {
	if err == nil || earlier == nil || errors.Is(err, ErrCommitUnknown) {
		return err
	}
	return fmt.Errorf("%w: the connection was lost between a commit and its answer (%w), and afterwards: %w",
		ErrCommitUnknown, earlier, err)
}
