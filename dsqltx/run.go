package dsqltx

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Run runs fn in a transaction and commits it. It runs fn again, in a new transaction, after a
// conflict, after a change of the schema, and when the connection was lost before COMMIT was sent.
// An error of fn rolls back and is returned as it is; a panic rolls back and continues.
//
// fn may run several times; anything outside tx must be safe to repeat. ctx of fn is the
// attempt's. tx has no nested transactions, because DSQL has no savepoints, and Run alone commits
// it and rolls it back. When fn ends the transaction by SQL, Run fails and does not run fn again.
//
// Transactions that conflict queue: those of this process that begin with the same statement and
// the same arguments, or that have the same Key, run one after the other, as long as they would
// lose against each other otherwise. No other transaction is held up. An attempt that lost against
// something else is followed by the next one after a random wait, which follows the attempt's own
// length and doubles each time. While a transaction queues, it holds no connection of a pool.
//
// BEGIN goes out together with a first statement that has arguments or returns rows, which saves a
// round trip, unless SeparateBegin is set. This works on a *pgxpool.Pool, *pgxpool.Conn and
// *pgx.Conn in every mode but the simple protocol. A tracer sees the two as a batch; with a tracer
// that does not trace batches, BEGIN goes out by itself.
//
// When the connection is lost between COMMIT and its answer, the outcome is unknown: the error is
// ErrCommitUnknown, unless Idempotent, CheckCommit or a read-only transaction allows another
// attempt. When no attempt is left (MaxAttempts, 5 minutes, ctx, or 20 lost connections in a row),
// the error wraps that of the last attempt. When db is a single connection, its loss ends Run.
func (r Runner) Run(ctx context.Context, db Beginner, fn func(ctx context.Context, tx pgx.Tx) error) error {
	if err := r.validate(); err != nil {
		return err
	}
	l := newLoop(r, db, r.TxOptions.AccessMode == pgx.ReadOnly)
	l.attempt = func(ctx context.Context) (outcome, error) {
		tx, err := openTx(ctx, db, r, l.connsLost > 0, l.turn)
		if err != nil {
			if isClosedConn(db) {
				return failed, err
			}
			return classifyBegin(err), err
		}
		defer tx.close()
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
	if result := classifyBegin(tx.beginErr); result == conflict || result == connLost {
		return result, tx.beginErr // whatever fn made of it
	}
	closed := tx.conn != nil && tx.conn.IsClosed()
	switch {
	case tx.ended && closed:
		return failed, unknownError(errors.Join(errEndedBySQL, err))
	case errors.Is(err, errEndedBySQL):
		return failed, err
	case tx.ended || tx.isOut():
		return failed, errors.Join(errEndedBySQL, err)
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

// acquire takes a connection of a pool. With look it takes only one that answers: after one
// connection was lost, the others that were idle may be dead too.
func acquire(ctx context.Context, pool *pgxpool.Pool, look bool) (*pgxpool.Conn, error) {
	if !look {
		return pool.Acquire(ctx)
	}
	for range pool.Stat().MaxConns() {
		conn, err := pool.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		if err = conn.Ping(ctx); err == nil {
			return conn, nil
		}
		conn.Release() // the pool closes it
		if !isConnLost(err) {
			return nil, err
		}
	}
	return pool.Acquire(ctx)
}

// isClosedConn tells whether db is a single connection that is closed. Unlike a pool's, it cannot be
// replaced.
func isClosedConn(db any) bool {
	conn := connOf(db)
	return conn != nil && conn.IsClosed()
}

// connOf returns the connection that db is, or nil.
func connOf(db any) *pgx.Conn {
	switch c := db.(type) {
	case *pgx.Conn:
		return c
	case interface{ Conn() *pgx.Conn }: // *pgxpool.Conn, pgx.Tx
		return c.Conn()
	}
	return nil
}
