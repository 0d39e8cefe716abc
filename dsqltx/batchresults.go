package dsqltx

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// pooledBatch is a batch of a DB. It is sent with the first call.
type pooledBatch struct {
	db      *DB
	ctx     context.Context
	batch   *pgx.Batch
	results pgx.BatchResults // of the attempt that counts, or nil
	conn    *pgxpool.Conn
	closed  bool
	err     error // of Close
}

// send sends the batch and calls first, again while it may.
func (b *pooledBatch) send(keep bool, first func(pgx.BatchResults) error) error {
	return b.db.onConn(b.ctx, false, 0, func(ctx context.Context, conn *pgxpool.Conn) (u use, err error) {
		b.results, b.conn = conn.SendBatch(ctx, copyBatch(b.batch, &u.final)), conn
		if err = first(b.results); err == nil && keep {
			u.keepsConn = true
			return u, nil
		}
		if closeErr := b.results.Close(); err == nil {
			err = closeErr
		}
		return u, err
	})
}

// copyBatch returns a batch to send, because each can be sent once. A callback sets called.
func copyBatch(b *pgx.Batch, called *bool) *pgx.Batch {
	c := &pgx.Batch{}
	for _, q := range b.QueuedQueries {
		queued := c.Queue(q.SQL, q.Arguments...)
		if q.Fn != nil {
			queued.Fn = func(results pgx.BatchResults) error {
				*called = true
				return q.Fn(results)
			}
		}
	}
	return c
}

func (b *pooledBatch) Exec() (tag pgconn.CommandTag, err error) {
	if b.results != nil || b.closed {
		return b.current().Exec()
	}
	err = b.send(true, func(results pgx.BatchResults) error {
		tag, err = results.Exec()
		return err
	})
	b.fail(err)
	return tag, err
}

// Query hands rows out as they arrive, so an error that comes with a row is not tried again.
func (b *pooledBatch) Query() (rows pgx.Rows, err error) {
	if b.results != nil || b.closed {
		return b.current().Query()
	}
	err = b.send(true, func(results pgx.BatchResults) error {
		rows, err = results.Query()
		return err
	})
	b.fail(err)
	if err != nil {
		return b.current().Query()
	}
	return rows, nil
}

func (b *pooledBatch) QueryRow() pgx.Row {
	return rowFunc(func(dest ...any) error {
		if b.results != nil || b.closed {
			return b.current().QueryRow().Scan(dest...)
		}
		noRows := false
		err := b.send(true, func(results pgx.BatchResults) error {
			err := results.QueryRow().Scan(dest...)
			if noRows = errors.Is(err, pgx.ErrNoRows); noRows {
				return nil // the batch goes on
			}
			return err
		})
		if b.fail(err); noRows && err == nil {
			return pgx.ErrNoRows
		}
		return err
	})
}

// Close sends the batch if no result was read.
func (b *pooledBatch) Close() error {
	if b.closed {
		return b.err
	}
	b.closed = true
	if b.results == nil {
		b.err = b.send(false, func(pgx.BatchResults) error { return nil })
		return b.err
	}
	b.err = b.results.Close()
	b.conn.Release()
	if classifyStatement(b.err) == unknown {
		b.err = unknownError(b.err)
	}
	return b.err
}

func (b *pooledBatch) Tx() pgx.Tx { return nil }

// fail ends a batch whose first result failed for good. send has closed it then.
func (b *pooledBatch) fail(err error) {
	if err != nil {
		b.closed, b.err, b.results = true, err, nil
	}
}

// current returns the results, or the error of a batch that has ended.
func (b *pooledBatch) current() pgx.BatchResults {
	if b.results == nil {
		return pgx.FailedBatchResults(&pgx.Batch{}, b.err)
	}
	return b.results
}
