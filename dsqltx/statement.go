package dsqltx

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Retry runs fn, which executes one statement outside of a transaction. It runs fn again after a
// conflict, after a change of the schema, and when the connection was lost before the statement was
// sent. When the connection was lost later, an autocommitted write may have been applied: the error
// is ErrCommitUnknown, unless Idempotent or CheckCommit allows another attempt. Reads are
// idempotent.
//
// fn must not execute several statements, because the first ones would be applied again; use Run.
func (r Runner) Retry(ctx context.Context, fn func(ctx context.Context) error) error {
	if err := r.validate(); err != nil {
		return err
	}
	return r.retryStatement(ctx, false, fn)
}

// ExecSQL is [Runner.Exec] for database/sql. The result is nil where CheckCommit found that the
// statement was applied.
func (r Runner) ExecSQL(ctx context.Context, db *sql.DB, query string, args ...any) (sql.Result, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	var result sql.Result
	err := r.retryStatement(ctx, false, func(ctx context.Context) error {
		var err error
		result, err = db.ExecContext(ctx, query, args...)
		return err
	})
	return result, err
}

func (r Runner) retryStatement(ctx context.Context, readOnly bool, fn func(ctx context.Context) error) error {
	l := loop{Runner: r, readOnly: readOnly, turns: turnsFor(fn)}
	l.attempt = func(ctx context.Context) (outcome, error) {
		if err := ctx.Err(); err != nil {
			return failed, err // nothing would be sent, but fn's error would not say so
		}
		err := fn(ctx)
		var connect *pgconn.ConnectError
		if errors.As(err, &connect) {
			return failed, err
		}
		return classifyStatement(err), err
	}
	return l.run(ctx)
}

// Exec executes one statement in autocommit, and tries again as [Runner.Retry] does. The tag is
// empty where CheckCommit found that the statement was applied.
func (r Runner) Exec(ctx context.Context, db Execer, sql string, args ...any) (pgconn.CommandTag, error) {
	var tag pgconn.CommandTag
	if err := r.validate(); err != nil {
		return tag, err
	}
	l := loop{Runner: r}
	l.attempt = func(ctx context.Context) (outcome, error) {
		if err := ctx.Err(); err != nil {
			return failed, err
		}
		execer := db
		if pool, ok := db.(*pgxpool.Pool); ok {
			// Acquire first: a failure to get a connection must not look like a lost answer.
			conn, err := pool.Acquire(ctx)
			if err != nil {
				return classifyBegin(err), err
			}
			defer conn.Release()
			execer = conn
		} else if isClosedConn(db) {
			return failed, pgconn.ErrConnClosed
		}
		var err error
		tag, err = execer.Exec(ctx, sql, args...)
		return classifyStatement(err), err
	}
	l.turns = turnsFor(l.attempt)
	err := l.run(ctx)
	return tag, err
}
