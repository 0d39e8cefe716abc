package dsqltx

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A DB is a pool whose single statements are tried again by a Runner. It fits where code takes
// anything with Exec and Query: sqlc's DBTX, scany, squirrel. It may be used by many goroutines at
// once. The pool stays the caller's to close.
//
// A statement is executed again after a conflict, after a change of the schema, and when the
// connection was lost before the statement was sent; but only until its first result was handed
// out: a row, or a result of a batch. When the connection was lost later, an error of a statement
// that may write is ErrCommitUnknown, unless the Runner is Idempotent. The Runner's CheckCommit is
// for Exec and CopyFrom. For statements that belong together, use Run on the pool.
type DB struct {
	pool   *pgxpool.Pool
	runner Runner
}

// Wrap returns pool with single statements that r tries again.
func (r Runner) Wrap(pool *pgxpool.Pool) *DB { return &DB{pool, r} }

// Exec is [Runner.Exec].
func (db *DB) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	return db.runner.Exec(ctx, db.pool, sql, args...)
}

// Query returns when the first row has arrived, or the end. As with pgx, the error is that of the rows
// too, which have to be closed or read to the end.
func (db *DB) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	var rows *pooledRows
	err := db.onConn(ctx, isRead(sql), execKey(ctx, db.pool, sql, args), func(ctx context.Context, conn *pgxpool.Conn) (use, error) {
		found, err := conn.Query(ctx, sql, args...)
		rows = &pooledRows{Rows: found, read: isRead(sql)}
		if err != nil {
			return use{}, err
		}
		if found.Next() {
			rows.peeked, rows.conn = true, conn
			return use{keepsConn: true}, nil
		}
		return use{}, found.Err()
	})
	if err != nil {
		return pgx.FailedBatchResults(&pgx.Batch{}, err).Query()
	}
	return rows, nil
}

// QueryRow executes the query when the row is scanned. It is tried again until it has ended, and scans
// each time.
func (db *DB) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	return rowFunc(func(dest ...any) error {
		return db.onConn(ctx, isRead(sql), execKey(ctx, db.pool, sql, args), func(ctx context.Context, conn *pgxpool.Conn) (use, error) {
			return use{}, conn.QueryRow(ctx, sql, args...).Scan(dest...)
		})
	})
}

var errBatchBegins = errors.New("dsqltx: the batch begins a transaction, which is not tried again as a whole; use Run")

type rowFunc func(dest ...any) error

func (f rowFunc) Scan(dest ...any) error { return f(dest...) }

// SendBatch sends the batch when the first result is read, or at Close. A batch that is only closed is
// tried again until it has ended, or has called a callback. A batch with BeginTx is an error.
func (db *DB) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	if b.Len() > 0 {
		if word, _ := firstWord(b.QueuedQueries[0].SQL); strings.EqualFold(word, "begin") {
			return pgx.FailedBatchResults(b, errBatchBegins)
		}
	}
	return &pooledBatch{db: db, ctx: ctx, batch: b}
}

// CopyFrom keeps the rows that it has read from src, to send them again: up to 3,000, the most that a
// transaction may write. With more it is not tried again.
func (db *DB) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, src pgx.CopyFromSource) (int64, error) {
	var n int64
	replay := &replaySource{src: src}
	err := db.onConn(ctx, false, 0, func(ctx context.Context, conn *pgxpool.Conn) (use, error) {
		replay.next = 0
		var err error
		n, err = conn.CopyFrom(ctx, table, columns, replay)
		return use{final: replay.incomplete}, err
	})
	return n, err
}

// Begin is BeginTx with the Runner's TxOptions.
func (db *DB) Begin(ctx context.Context) (pgx.Tx, error) {
	return db.BeginTx(ctx, db.runner.TxOptions)
}

// BeginTx begins a transaction, on another connection if the first one was lost. What happens in the
// transaction is not tried again. An error of its Commit is ErrCommitUnknown if the outcome is unknown.
func (db *DB) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	if err := db.runner.validate(); err != nil {
		return nil, err
	}
	var tx pgx.Tx
	l := newLoop(db.runner, db.pool, true)
	l.attempt = func(ctx context.Context) (outcome, error) {
		conn, err := acquire(ctx, db.pool, l.connsLost > 0)
		if err != nil {
			return classifyBegin(err), err
		}
		begun, err := conn.BeginTx(ctx, options)
		if err != nil {
			conn.Release()
			return classifyBegin(err), err
		}
		tx = &pooledTx{begun, conn}
		return applied, nil
	}
	err := l.run(ctx)
	return tx, err
}

// use is what a statement made of the connection that it ran on.
type use struct {
	keepsConn bool // its results are read later
	final     bool // it must not run again, because results were handed out
}

// onConn runs a statement on a connection of the pool. read tells that it writes nothing.
func (db *DB) onConn(ctx context.Context, read bool, key laneKey, statement func(ctx context.Context, conn *pgxpool.Conn) (use, error)) error {
	if err := db.runner.validate(); err != nil {
		return err
	}
	l := newLoop(db.runner, db.pool, false)
	l.attempt = func(ctx context.Context) (outcome, error) {
		if err := l.turn.take(ctx, key); err != nil {
			return failed, err
		}
		conn, err := acquire(ctx, db.pool, l.connsLost > 0)
		if err != nil {
			return classifyBegin(err), err
		}
		l.turn.committing()
		var u use
		defer func() {
			if !u.keepsConn {
				conn.Release()
			}
		}()
		u, err = statement(ctx, conn)
		result := classifyStatement(err)
		switch {
		case result == unknown && u.final:
			return failed, unknownError(err)
		case result == unknown && read && !db.runner.Idempotent, result != applied && u.final:
			return failed, err
		}
		return result, err
	}
	return l.run(ctx)
}

// isRead tells whether a statement writes nothing, by its first keyword.
func isRead(sql string) bool {
	word, _ := firstWord(sql)
	for _, read := range [...]string{"select", "values", "table", "show"} {
		if strings.EqualFold(word, read) {
			return true
		}
	}
	return false
}

// pooledRows gives the connection back with its end.
type pooledRows struct {
	pgx.Rows
	conn   *pgxpool.Conn
	read   bool // the statement writes nothing
	peeked bool // Next was called, and is to be told once
}

func (r *pooledRows) Close() {
	r.Rows.Close()
	r.releaseConn()
}

func (r *pooledRows) releaseConn() {
	if r.conn != nil {
		r.conn.Release()
		r.conn = nil
	}
}

func (r *pooledRows) Next() bool {
	if r.peeked {
		r.peeked = false
		return true
	}
	more := r.Rows.Next()
	if !more {
		r.Close()
	}
	return more
}

func (r *pooledRows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

func (r *pooledRows) Values() ([]any, error) {
	values, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return values, err
}

// Err tells of rows that were handed out already whether the statement may have been applied.
func (r *pooledRows) Err() error {
	err := r.Rows.Err()
	if !r.read && classifyStatement(err) == unknown {
		return unknownError(err)
	}
	return err
}

// pooledTx gives the connection back with its end.
type pooledTx struct {
	pgx.Tx
	conn *pgxpool.Conn
}

func (t *pooledTx) Commit(ctx context.Context) error {
	err := t.Tx.Commit(ctx)
	t.releaseConn()
	if classifyCommit(err) == unknown && !errors.Is(err, pgx.ErrTxClosed) && !errors.Is(err, pgx.ErrTxCommitRollback) {
		return unknownError(err)
	}
	return err
}

func (t *pooledTx) Rollback(ctx context.Context) error {
	err := t.Tx.Rollback(ctx)
	t.releaseConn()
	return err
}

func (t *pooledTx) releaseConn() {
	if t.conn != nil {
		t.conn.Release()
		t.conn = nil
	}
}

// replaySource is a source that can begin again.
type replaySource struct {
	src  pgx.CopyFromSource
	rows [][]any // that were read
	next int     // how many were given in this attempt

	incomplete bool // there were more rows
}

func (s *replaySource) Next() bool {
	if s.next < len(s.rows) {
		return true
	}
	return s.src.Next()
}

func (s *replaySource) Values() ([]any, error) {
	if s.next < len(s.rows) {
		s.next++
		return s.rows[s.next-1], nil
	}
	values, err := s.src.Values()
	switch {
	case err != nil:
	case len(s.rows) == maxTxRows:
		s.incomplete = true
	default:
		s.rows = append(s.rows, slices.Clone(values))
		s.next++
	}
	return values, err
}

func (s *replaySource) Err() error { return s.src.Err() }
