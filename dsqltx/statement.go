package dsqltx

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Exec executes one statement in autocommit. It executes the statement again after a conflict, after
// a change of the schema, and when the connection was lost before the statement was sent. When the
// connection was lost later, the statement may have been applied: the error is ErrCommitUnknown,
// unless Idempotent or CheckCommit allows another attempt. The tag is empty where CheckCommit found
// that the statement was applied. Statements that conflict queue as transactions do (see Run).
func (r Runner) Exec(ctx context.Context, db Execer, sql string, args ...any) (pgconn.CommandTag, error) {
	var tag pgconn.CommandTag
	if err := r.validate(); err != nil {
		return tag, err
	}
	l := newLoop(r, db, false)
	l.attempt = func(ctx context.Context) (outcome, error) {
		if isClosedConn(db) {
			return failed, pgconn.ErrConnClosed
		}
		if err := l.turn.take(ctx, execKey(ctx, db, sql, args)); err != nil {
			return failed, err
		}
		execer := db
		if pool, ok := db.(*pgxpool.Pool); ok {
			// A connection first: a failure to get one must not look like a lost answer.
			conn, err := acquire(ctx, pool, l.connsLost > 0)
			if err != nil {
				return classifyBegin(err), err
			}
			defer conn.Release()
			execer = conn
		}
		l.turn.committing()
		var err error
		tag, err = execer.Exec(ctx, sql, args...)
		return classifyStatement(err), err
	}
	err := l.run(ctx)
	return tag, err
}

// execKey is statementKey for a statement in autocommit.
func execKey(ctx context.Context, db Execer, sql string, args []any) laneKey {
	sql, args = resolveNamedArgs(ctx, sql, args)
	return statementKey(db, sql, args)
}

// Retry runs fn, which executes one statement outside of a transaction, as Exec does. fn must pass its
// ctx on. It must not execute several statements, because the first ones would be applied again; use
// Run. Reads are idempotent.
//
// When ctx ends while fn waits for a free connection, the outcome is not unknown. While a *pgxpool.Pool
// opens one, it is, because Retry cannot tell that from sending; Exec can.
func (r Runner) Retry(ctx context.Context, fn func(ctx context.Context) error) error {
	if err := r.validate(); err != nil {
		return err
	}
	return r.retryStatement(ctx, false, fn)
}

func (r Runner) retryStatement(ctx context.Context, readOnly bool, fn func(ctx context.Context) error) error {
	l := newLoop(r, nil, readOnly)
	l.attempt = func(ctx context.Context) (outcome, error) {
		if err := l.turn.take(ctx, 0); err != nil {
			return failed, err
		}
		watched := &watchedContext{Context: ctx}
		err := fn(watched)
		var connect *pgconn.ConnectError
		if errors.As(err, &connect) || watched.isUnused(err) {
			return failed, err
		}
		return classifyStatement(err), err
	}
	return l.run(ctx)
}

// watchedContext notices whether another context is made from it, or a func is set for its end: pgx
// does one of these before it sends anything, and database/sql does for the rows of a query. What
// only waits for a free connection does not.
type watchedContext struct {
	context.Context
	used atomic.Bool
}

// Value is what package context calls to make another context from this one.
func (w *watchedContext) Value(key any) any {
	w.used.Store(true)
	return w.Context.Value(key)
}

// isUnused tells whether err is the context's, and nothing was sent with the context. The error alone
// does not tell: pgx returns context.Canceled as it is also for what was sent.
func (w *watchedContext) isUnused(err error) bool {
	return err != nil && err == w.Err() && !w.used.Load()
}
