package dsqltx

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A rollback gets as much time of its own, because the caller's context may have ended.
const rollbackTimeout = 5 * time.Second

// lazyTx is the transaction that fn gets. It begins with its first statement: BEGIN goes out
// together with that, where canPipeline allows it. This saves one of the three or four round trips
// of a short transaction, and shortens the time in which another transaction can commit first.
//
//	idle     nothing was sent. The first statement, or any other method, begins.
//	begun    the server is in a transaction, and tx runs the statements.
//	aborted  every further statement fails with abortErr, and the end is a rollback. So it is when
//	         the transaction could not begin, and after a lost connection.
//	ended    fn ended the transaction by SQL. Every further statement fails, and so does Run.
type lazyTx struct {
	ctx      context.Context // of the attempt, for methods without a context
	db       Beginner
	options  pgx.TxOptions
	separate bool  // BEGIN goes out by itself
	turn     *turn // among the transactions that begin with the same statement

	conn     *pgx.Conn
	release  func() // gives conn back
	tx       pgx.Tx // nil while idle
	idle     bool
	abortErr error
	beginErr error // why the transaction could not begin
	ended    bool  // fn sent a statement such as COMMIT
}

// openTx takes a connection for a transaction. look tells whether to look first whether a pool's
// connection is alive.
func openTx(ctx context.Context, db Beginner, r Runner, look bool, turn *turn) (*lazyTx, error) {
	t := &lazyTx{ctx: ctx, db: db, options: r.TxOptions, separate: r.SeparateBegin, turn: turn, idle: true}
	if err := t.open(ctx, look); err != nil {
		return nil, err
	}
	return t, nil
}

// open takes a connection. A Beginner of an unknown type begins at once, because nothing else
// gives its connection.
func (t *lazyTx) open(ctx context.Context, look bool) (err error) {
	t.release = func() {}
	switch db := t.db.(type) {
	case *pgxpool.Pool:
		c, err := acquire(ctx, db, look)
		if err != nil {
			return err
		}
		t.conn, t.release = c.Conn(), c.Release
	case *pgxpool.Conn:
		t.conn = db.Conn()
	case *pgx.Conn:
		t.conn = db
	default:
		if t.tx, err = db.BeginTx(ctx, t.options); err != nil {
			return err
		}
		t.conn = t.tx.Conn()
		return nil
	}
	if t.conn.IsClosed() {
		return pgconn.ErrConnClosed
	}
	return nil
}

// close gives the connection back.
func (t *lazyTx) close() {
	t.release()
	t.release = func() {}
}

// begin begins the transaction, if it is idle, for the statement that is to come. pipeline tells
// whether BEGIN may go out together with it. Then begin sends both, and returns the batch;
// otherwise it returns nil.
func (t *lazyTx) begin(ctx context.Context, sql string, args []any, pipeline bool) (*firstBatch, error) {
	if !t.idle {
		return nil, t.check(sql)
	}
	t.idle = false
	if err := t.takeTurn(ctx, sql, args); err != nil {
		return nil, t.abortBegin(err)
	}
	if t.tx == nil && pipeline {
		ready, err := t.canPipeline(ctx, sql, args)
		if err != nil {
			return nil, t.abortBegin(err)
		}
		if ready {
			return t.sendFirst(ctx, sql, args), nil
		}
	}
	if t.tx == nil {
		tx, err := t.conn.BeginTx(ctx, t.options)
		if err != nil {
			return nil, t.abortBegin(err)
		}
		if t.tx = tx; t.isOut() {
			return nil, t.abortBegin(errNotBegun)
		}
	}
	return nil, t.check(sql)
}

// takeTurn waits until the transaction may send its first statement. It holds no connection of a
// pool meanwhile, and no transaction is open.
func (t *lazyTx) takeTurn(ctx context.Context, sql string, args []any) error {
	if t.turn.enter(statementKey(t.db, sql, args)) {
		return nil
	}
	t.rollback()
	t.tx, t.conn = nil, nil
	t.close()
	if err := t.turn.wait(ctx); err != nil {
		return err
	}
	return t.open(ctx, false)
}

// abortBegin aborts a transaction that could not begin.
func (t *lazyTx) abortBegin(err error) error {
	t.tx, t.beginErr, t.abortErr = nil, err, err
	return err
}

// check returns why no statement may be sent, or nil. sql is the statement.
func (t *lazyTx) check(sql string) error {
	if t.abortErr != nil {
		return t.abortErr
	}
	if t.ended = t.ended || t.isOut(); t.ended {
		return errEndedBySQL
	}
	t.ended = endsTransaction(sql)
	return nil
}

// isOut tells whether the server is out of the transaction that was begun.
func (t *lazyTx) isOut() bool {
	if t.tx == nil || t.conn == nil || t.conn.IsClosed() || t.conn.PgConn().IsBusy() {
		return false
	}
	return t.conn.PgConn().TxStatus() == 'I'
}

// Exec sends a first statement together with BEGIN only if it has arguments. Without, sql may hold
// several statements, which a batch does not take.
func (t *lazyTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	if t.idle {
		sql, args = resolveNamedArgs(ctx, sql, args)
	}
	first, err := t.begin(ctx, sql, args, len(args) > 0)
	switch {
	case err != nil:
		return pgconn.CommandTag{}, err
	case first != nil:
		tag, err := first.results.Exec()
		return tag, first.close(err)
	}
	return t.tx.Exec(ctx, sql, args...)
}

func (t *lazyTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if t.idle {
		sql, args = resolveNamedArgs(ctx, sql, args)
	}
	first, err := t.begin(ctx, sql, args, true)
	switch {
	case err != nil:
		return pgx.FailedBatchResults(&pgx.Batch{}, err).Query()
	case first != nil:
		rows, err := first.results.Query()
		r := &firstRows{Rows: rows, batch: first}
		if err != nil {
			r.Close()
		}
		return r, r.err
	}
	return t.tx.Query(ctx, sql, args...)
}

func (t *lazyTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if t.idle {
		sql, args = resolveNamedArgs(ctx, sql, args)
	}
	first, err := t.begin(ctx, sql, args, true)
	switch {
	case err != nil:
		return pgx.FailedBatchResults(&pgx.Batch{}, err).QueryRow()
	case first != nil:
		return &firstRow{first.results.QueryRow(), first}
	}
	return t.tx.QueryRow(ctx, sql, args...)
}

func (t *lazyTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	var sql string
	var args []any
	if b.Len() > 0 {
		sql, args = b.QueuedQueries[0].SQL, b.QueuedQueries[0].Arguments
	}
	if _, err := t.begin(ctx, sql, args, false); err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return t.tx.SendBatch(ctx, b)
}

func (t *lazyTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	if _, err := t.begin(ctx, "", nil, false); err != nil {
		return 0, err
	}
	return t.tx.CopyFrom(ctx, table, columns, rows)
}

func (t *lazyTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	if _, err := t.begin(ctx, "", nil, false); err != nil {
		return nil, err
	}
	return t.tx.Prepare(ctx, name, sql)
}

// Conn begins the transaction and returns its connection. What is done on the connection is rolled
// back if the transaction was aborted before, so Conn begins another one then, or closes the
// connection. It returns nil if no connection could be had.
func (t *lazyTx) Conn() *pgx.Conn {
	_, err := t.begin(t.ctx, "", nil, false)
	if err != nil && t.conn != nil && !t.conn.IsClosed() && t.conn.PgConn().TxStatus() == 'I' {
		tx, err := t.conn.BeginTx(t.ctx, t.options)
		if err != nil {
			_ = t.conn.Close(t.ctx)
			return t.conn
		}
		t.tx = tx
	}
	return t.conn
}

// LargeObjects leaves it to the server to say that DSQL has no large objects.
func (t *lazyTx) LargeObjects() pgx.LargeObjects {
	if _, err := t.begin(t.ctx, "", nil, false); err != nil {
		return pgx.LargeObjects{}
	}
	return t.tx.LargeObjects()
}

func (*lazyTx) Begin(context.Context) (pgx.Tx, error) { return nil, errNested }
func (*lazyTx) Commit(context.Context) error          { return errOwned }
func (*lazyTx) Rollback(context.Context) error        { return errOwned }

// commit commits, if anything was begun.
func (t *lazyTx) commit(ctx context.Context) error {
	switch {
	case t.abortErr != nil:
		return fmt.Errorf("%w: %w: %w", errHidden, pgx.ErrTxCommitRollback, t.abortErr)
	case t.idle && t.tx == nil:
		return nil // fn did nothing
	}
	t.turn.committing()
	err := t.tx.Commit(ctx)
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return fmt.Errorf("%w: %w", errHidden, err)
	}
	return err
}

// rollback ends the transaction, also when its context has ended.
func (t *lazyTx) rollback() {
	if t.tx == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), rollbackTimeout)
	defer cancel()
	_ = t.tx.Rollback(ctx) // pgx closes a connection that cannot roll back
}
