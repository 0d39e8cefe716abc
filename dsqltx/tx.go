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
// PostgreSQL's JDBC driver begins in the same way (its QueryExecutorImpl), and AWS supports it.
//
//	idle     nothing was sent. A first statement that fails leaves the transaction idle if
//	         nothing was sent, aborted if the server refused it.
//	begun    the server is in a transaction, and tx runs the statements.
//	aborted  every further statement fails with abortErr, and the end is a rollback. A lost
//	         connection has the same effect.
type lazyTx struct {
	ctx      context.Context // of the attempt, for methods without a context
	conn     *pgx.Conn
	options  pgx.TxOptions
	pooled   bool   // the connection can be replaced
	tx       pgx.Tx // nil while idle
	abortErr error
}

// openTx takes a connection for a transaction. release gives it back.
func openTx(ctx context.Context, db Beginner, options pgx.TxOptions) (tx *lazyTx, release func(), err error) {
	tx, release = &lazyTx{ctx: ctx, options: options}, func() {}
	switch db := db.(type) {
	case *pgxpool.Pool:
		c, err := db.Acquire(ctx)
		if err != nil {
			return nil, nil, err
		}
		tx.conn, tx.pooled, release = c.Conn(), true, c.Release
	case *pgx.Conn:
		tx.conn = db
		if db.IsClosed() {
			return nil, nil, pgconn.ErrConnClosed
		}
	default:
		if tx.tx, err = db.BeginTx(ctx, options); err != nil {
			return nil, nil, err
		}
		tx.conn = tx.tx.Conn()
	}
	return tx, release, nil
}

// begin sends BEGIN alone, unless the transaction has begun.
func (t *lazyTx) begin(ctx context.Context) (pgx.Tx, error) {
	if t.tx != nil || t.abortErr != nil {
		return t.tx, t.abortErr
	}
	var err error
	if t.tx, err = t.conn.BeginTx(ctx, t.options); err != nil {
		t.abortErr = err
	}
	return t.tx, t.abortErr
}

func (t *lazyTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	// Without arguments, sql may hold several statements, which a batch does not take.
	if len(args) > 0 && t.canPipeline(sql, args) {
		results := t.sendFirst(ctx, sql, args)
		tag, err := results.br.Exec()
		return tag, results.close(err)
	}
	tx, err := t.begin(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return tx.Exec(ctx, sql, args...)
}

func (t *lazyTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if t.canPipeline(sql, args) {
		results := t.sendFirst(ctx, sql, args)
		rows, err := results.br.Query()
		first := &firstRows{Rows: rows, results: results}
		if err != nil {
			first.Close()
		}
		return first, first.err
	}
	tx, err := t.begin(ctx)
	if err != nil {
		return pgx.FailedBatchResults(&pgx.Batch{}, err).Query()
	}
	return tx.Query(ctx, sql, args...)
}

func (t *lazyTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if t.canPipeline(sql, args) {
		results := t.sendFirst(ctx, sql, args)
		return &firstRow{results.br.QueryRow(), results}
	}
	tx, err := t.begin(ctx)
	if err != nil {
		return pgx.FailedBatchResults(&pgx.Batch{}, err).QueryRow()
	}
	return tx.QueryRow(ctx, sql, args...)
}

func (t *lazyTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	tx, err := t.begin(ctx)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return tx.SendBatch(ctx, b)
}

func (t *lazyTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	tx, err := t.begin(ctx)
	if err != nil {
		return 0, err
	}
	return tx.CopyFrom(ctx, table, columns, rows)
}

func (t *lazyTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	tx, err := t.begin(ctx)
	if err != nil {
		return nil, err
	}
	return tx.Prepare(ctx, name, sql)
}

// Conn begins the transaction and returns its connection. When BEGIN fails, the transaction is
// aborted.
func (t *lazyTx) Conn() *pgx.Conn {
	_, _ = t.begin(t.ctx)
	return t.conn
}

// LargeObjects leaves it to the server to say that DSQL has no large objects.
func (t *lazyTx) LargeObjects() pgx.LargeObjects {
	tx, err := t.begin(t.ctx)
	if err != nil {
		return pgx.LargeObjects{}
	}
	return tx.LargeObjects()
}

func (*lazyTx) Begin(context.Context) (pgx.Tx, error) { return nil, errNested }
func (*lazyTx) Commit(context.Context) error          { return errOwned }
func (*lazyTx) Rollback(context.Context) error        { return errOwned }

// commit commits, if anything was begun.
func (t *lazyTx) commit(ctx context.Context) error {
	switch {
	case t.abortErr != nil:
		return fmt.Errorf("%w: %w: %w", errHidden, pgx.ErrTxCommitRollback, t.abortErr)
	case t.tx == nil:
		return nil // fn did nothing
	}
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
