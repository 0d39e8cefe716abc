package dsqltx

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// RunSQL is [Runner.Run] for database/sql. fn must leave Commit and Rollback to RunSQL. database/sql
// cannot prevent them, so RunSQL returns an error afterwards. Of TxOptions, RunSQL uses the access
// mode; a BeginQuery or CommitQuery is an error.
func (r Runner) RunSQL(ctx context.Context, db *sql.DB, fn func(ctx context.Context, tx *sql.Tx) error) error {
	if err := r.validateSQL(); err != nil {
		return err
	}
	options := &sql.TxOptions{ReadOnly: r.TxOptions.AccessMode == pgx.ReadOnly}
	l := loop{Runner: r, readOnly: options.ReadOnly, turns: turnsFor(fn)}
	l.attempt = func(ctx context.Context) (outcome, error) {
		conn, err := db.Conn(ctx)
		if err != nil {
			return classifyBegin(err), err
		}
		defer conn.Close()
		tx, err := conn.BeginTx(ctx, options)
		if err != nil {
			return classifyBegin(err), err
		}
		return attemptSQLTx(ctx, conn, tx, fn)
	}
	return l.run(ctx)
}

// attemptSQLTx runs fn in tx, and commits or rolls back.
func attemptSQLTx(ctx context.Context, conn *sql.Conn, tx *sql.Tx, fn func(ctx context.Context, tx *sql.Tx) error) (outcome, error) {
	committing := false
	defer func() {
		if !committing { // fn failed, panicked, or ended its goroutine
			_ = tx.Rollback()
		}
	}()
	err := fn(ctx, tx)
	closed := isClosedSQLConn(conn)
	switch {
	case err != nil:
		return classifyFn(err, closed), err
	case closed:
		return connLost, pgconn.ErrConnClosed
	}
	committing = true
	err = tx.Commit()
	switch {
	case err == sql.ErrTxDone && ctx.Err() == nil:
		return failed, errSQLDone
	case err == sql.ErrTxDone, err != nil && err == ctx.Err():
		return failed, ctx.Err() // database/sql looked at ctx before it sent anything
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return failed, fmt.Errorf("%w: %w", errHidden, err)
	}
	return classifyCommit(err), err
}

// isClosedSQLConn tells whether pgx has closed the connection beneath conn. It looks inside of Raw,
// which locks: when a context ends, database/sql rolls back on a goroutine of its own.
func isClosedSQLConn(conn *sql.Conn) (closed bool) {
	_ = conn.Raw(func(driverConn any) error {
		if d, ok := driverConn.(interface{ Conn() *pgx.Conn }); ok {
			closed = d.Conn().IsClosed()
		}
		return nil
	})
	return closed
}
