package dsqltx

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// RunSQL is [Runner.Run] for database/sql. fn must leave Commit and Rollback to RunSQL. database/sql
// cannot prevent them, so RunSQL returns an error afterwards, and does not run fn again. Of
// TxOptions, RunSQL uses the access mode; a BeginQuery or CommitQuery is an error.
//
// database/sql does not show fn's statements, so transactions queue only if they have a Key.
//
// RunSQL looks for pgx's connection beneath drivers that wrap it, by the methods Raw, Unwrap and
// WrappedConn, which the usual tracing drivers have. Where it finds none, it takes a connection for
// lost that does not answer a ping.
func (r Runner) RunSQL(ctx context.Context, db *sql.DB, fn func(ctx context.Context, tx *sql.Tx) error) error {
	if err := r.validateSQL(); err != nil {
		return err
	}
	options := &sql.TxOptions{ReadOnly: r.TxOptions.AccessMode == pgx.ReadOnly}
	l := newLoop(r, db, options.ReadOnly)
	l.attempt = func(ctx context.Context) (outcome, error) {
		if err := l.turn.take(ctx, 0); err != nil {
			return failed, err
		}
		conn, err := openSQLConn(ctx, db, l.connsLost > 0)
		if err != nil {
			return classifyBegin(err), err
		}
		defer conn.Close()
		watched := &watchedContext{Context: ctx}
		tx, err := conn.BeginTx(watched, options)
		if err != nil {
			return classifyBegin(err), err
		}
		return attemptSQLTx(watched, conn, tx, l.turn, fn)
	}
	return l.run(ctx)
}

// attemptSQLTx runs fn in tx, which was begun with ctx, and commits or rolls back.
func attemptSQLTx(ctx *watchedContext, conn *sql.Conn, tx *sql.Tx, turn *turn, fn func(ctx context.Context, tx *sql.Tx) error) (outcome, error) {
	committing := false
	defer func() {
		if !committing { // fn failed, panicked, or ended its goroutine
			_ = tx.Rollback()
		}
	}()
	err := fn(ctx, tx)
	state := sqlConnState(ctx, conn, err)
	switch {
	case state.idle && ctx.Err() == nil: // at its end, database/sql rolls back by itself
		if tx.Rollback() == sql.ErrTxDone {
			return failed, errors.Join(errSQLDone, err)
		}
		return failed, errors.Join(errEndedBySQL, err)
	case err != nil:
		return classifyFn(err, state.closed), err
	case state.closed:
		return connLost, pgconn.ErrConnClosed
	case ctx.Err() != nil:
		return failed, ctx.Err()
	}
	committing = true
	turn.committing()
	ctx.used.Store(false)
	err = tx.Commit()
	switch {
	case err == sql.ErrTxDone && ctx.Err() == nil:
		return failed, errSQLDone
	case err == sql.ErrTxDone, ctx.isUnused(err):
		return failed, ctx.Err() // database/sql looked at ctx before it sent anything
	case errors.Is(err, pgx.ErrTxCommitRollback):
		return failed, fmt.Errorf("%w: %w", errHidden, err)
	}
	return classifyCommit(err), err
}

// ExecSQL is [Runner.Exec] for database/sql. The result is nil where CheckCommit found that the
// statement was applied.
func (r Runner) ExecSQL(ctx context.Context, db *sql.DB, query string, args ...any) (sql.Result, error) {
	if err := r.validate(); err != nil {
		return nil, err
	}
	var result sql.Result
	l := newLoop(r, db, false)
	l.attempt = func(ctx context.Context) (outcome, error) {
		if err := l.turn.take(ctx, statementKey(db, query, args)); err != nil {
			return failed, err
		}
		// A connection first: a failure to get one must not look like a lost answer.
		conn, err := openSQLConn(ctx, db, l.connsLost > 0)
		if err != nil {
			return classifyBegin(err), err
		}
		defer conn.Close()
		if err := ctx.Err(); err != nil {
			return failed, err
		}
		l.turn.committing()
		result, err = conn.ExecContext(ctx, query, args...)
		if neverSent(conn, err) {
			return classifyBegin(err), err
		}
		return classifyStatement(err), err
	}
	err := l.run(ctx)
	return result, err
}

// openSQLConn takes a connection of db. With look it takes only one that answers: after one
// connection was lost, the others that were idle may be dead too.
func openSQLConn(ctx context.Context, db *sql.DB, look bool) (*sql.Conn, error) {
	if !look {
		return db.Conn(ctx)
	}
	for range db.Stats().OpenConnections {
		conn, err := db.Conn(ctx)
		if err != nil {
			return nil, err
		}
		if err = conn.PingContext(ctx); err == nil {
			return conn, nil
		}
		_ = conn.Raw(func(any) error { return driver.ErrBadConn }) // has database/sql drop it
		conn.Close()
		if !isConnLost(err) {
			return nil, err
		}
	}
	return db.Conn(ctx)
}

// connState is what pgx knows of a connection.
type connState struct {
	closed bool
	idle   bool // in no transaction
}

// sqlConnState looks at pgx's connection beneath conn after fn returned err.
func sqlConnState(ctx context.Context, conn *sql.Conn, err error) (state connState) {
	// Inside of Raw, which locks: when a context ends, database/sql rolls back on another goroutine.
	_ = conn.Raw(func(driverConn any) error {
		if c, ok := findConn[interface{ Conn() *pgx.Conn }](driverConn); ok {
			pgxConn := c.Conn()
			state.closed = pgxConn.IsClosed()
			state.idle = !state.closed && pgxConn.PgConn().TxStatus() == 'I'
		} else if p, ok := driverConn.(driver.Pinger); ok && err != nil && isConnLost(err) {
			// conn.PingContext would wait for the transaction to end.
			state.closed = p.Ping(ctx) != nil
		}
		return nil
	})
	return state
}

// neverSent tells whether the driver says of an error that nothing was sent. database/sql's
// ErrBadConn should say so, but pgx's driver returns it also when the connection ended after the
// statement was sent. Connections of package dsql have a method that tells.
func neverSent(conn *sql.Conn, err error) (never bool) {
	if !errors.Is(err, driver.ErrBadConn) {
		return false
	}
	_ = conn.Raw(func(driverConn any) error {
		if c, ok := findConn[interface{ NeverSent(error) bool }](driverConn); ok {
			never = c.NeverSent(err)
		}
		return nil
	})
	return never
}

// findConn looks for a T beneath the wrappers of tracing drivers.
func findConn[T any](driverConn any) (T, bool) {
	for range 10 {
		if c, ok := driverConn.(T); ok {
			return c, true
		}
		switch c := driverConn.(type) {
		case interface{ Raw() driver.Conn }: // github.com/XSAM/otelsql
			driverConn = c.Raw()
		case interface{ Unwrap() driver.Conn }:
			driverConn = c.Unwrap()
		case interface{ WrappedConn() driver.Conn }: // Datadog's
			driverConn = c.WrappedConn()
		default:
			var none T
			return none, false
		}
	}
	var none T
	return none, false
}
