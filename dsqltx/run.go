package dsqltx

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Run runs fn in a transaction and commits it. It runs fn again, in a new transaction, after a
// conflict, after a change of the schema, and when the connection was lost before COMMIT was sent.
// An error of fn rolls back and is returned as it is; a panic rolls back and continues.
//
// fn may run several times; anything outside tx must be safe to repeat. ctx of fn is the
// attempt's. tx has no nested transactions, because DSQL has no savepoints, and Run alone commits
// it and rolls it back.
//
// The first retry comes at once, later ones after a short random wait. Where transactions of the
// same fn conflict with each other, Run limits concurrent retries to the number that recently
// succeeded; the others wait up to 50 ms for their turn.
//
// On a *pgxpool.Pool, BEGIN goes out together with a first statement that has arguments or returns
// rows, which saves a round trip. A tracer sees the two as a batch. With a tracer that does not
// trace batches, BEGIN goes out by itself.
//
// When the connection is lost between COMMIT and its answer, the outcome is unknown: the error is
// ErrCommitUnknown, unless Idempotent, CheckCommit or a read-only transaction allows another
// attempt. When no attempt is left (MaxAttempts, 5 minutes, ctx, or 20 lost connections in a row),
// the error wraps that of the last attempt. When db is a single connection, its loss is an error at
// once.
func (r Runner) Run(ctx context.Context, db Beginner, fn func(ctx context.Context, tx pgx.Tx) error) error {
	if err := r.validate(); err != nil {
		return err
	}
	l := loop{Runner: r, readOnly: r.TxOptions.AccessMode == pgx.ReadOnly, turns: turnsFor(fn)}
	l.attempt = func(ctx context.Context) (outcome, error) {
		tx, release, err := openTx(ctx, db, r.TxOptions)
		if err != nil {
			if isClosedConn(db) {
				return failed, err
			}
			return classifyBegin(err), err
		}
		defer release()
		return attemptTx(ctx, tx, fn)
	}
	return l.run(ctx)
}

// attemptTx runs fn in tx, and commits or rolls back.
func attemptTx(ctx context.Context, tx *lazyTx, fn func(ctx context.Context, tx pgx.Tx) error) (outcome, error) {
	committing := false
	defer func() {
		if !committing { // fn failed, panicked, or ended its goroutine
			tx.rollback()
		}
	}()
	err := fn(ctx, tx)
	closed := tx.conn != nil && tx.conn.IsClosed()
	switch {
	case err != nil:
		return classifyFn(err, closed), err
	case closed:
		return connLost, pgconn.ErrConnClosed
	case tx.conn != nil && tx.conn.PgConn().IsBusy():
		return failed, errOpenRows
	}
	committing = true
	err = tx.commit(ctx)
	if errors.Is(err, errHidden) {
		return failed, err
	}
	return classifyCommit(err), err
}

// isClosedConn tells whether db is a single connection, or a transaction on one, that is closed.
// Unlike a pool's, it cannot be replaced.
func isClosedConn(db any) bool {
	if c, ok := db.(interface{ Conn() *pgx.Conn }); ok && c.Conn() != nil { // *pgxpool.Conn
		return c.Conn().IsClosed()
	}
	c, ok := db.(interface{ IsClosed() bool })
	return ok && c.IsClosed()
}
