package dsqltx

import (
	"context"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// unencodable holds the statements whose arguments pgx once could not encode. Alone, such a
// statement fails. In a batch it also costs the connection, because Pipeline.Close ends one with
// requests that were not synced. So it happens once for each statement, and only on a connection
// that can be replaced.
var unencodable sync.Map

// sendFirst sends BEGIN and the first statement. Its results are those of the statement.
func (t *lazyTx) sendFirst(ctx context.Context, sql string, args []any) *firstBatch {
	b := &pgx.Batch{}
	b.BeginTx(t.options)
	b.Queue(sql, args...)
	br := t.conn.SendBatch(ctx, b)
	t.tx = br.Tx()
	_, _ = br.Exec() // its error is the statement's too
	return &firstBatch{t, br, sql}
}

// canPipeline tells whether a statement can go out together with BEGIN.
func (t *lazyTx) canPipeline(sql string, args []any) bool {
	if !t.pooled || t.tx != nil || t.abortErr != nil {
		return false
	}
	if _, found := unencodable.Load(sql); found {
		return false
	}
	if len(args) > 0 {
		switch args[0].(type) {
		case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
			return false // a pgx.Batch takes no options
		}
	}
	return canPipelineOn(t.conn)
}

// canPipelineOn tells whether a batch on conn takes one round trip and behaves as a query would. The
// answer is kept with the connection, because Config copies.
func canPipelineOn(conn *pgx.Conn) bool {
	const key = "dsqltx.pipelines"
	data := conn.PgConn().CustomData()
	yes, known := data[key].(bool)
	if !known {
		config := conn.Config()
		_, tracesBatches := config.Tracer.(pgx.BatchTracer)
		yes = config.DefaultQueryExecMode != pgx.QueryExecModeSimpleProtocol && (config.Tracer == nil || tracesBatches)
		data[key] = yes
	}
	return yes
}

// firstBatch is BEGIN and the first statement.
type firstBatch struct {
	tx  *lazyTx
	br  pgx.BatchResults
	sql string
}

// close ends the batch and sets the state of the transaction. err is the statement's.
func (f *firstBatch) close(err error) error {
	closed := f.br.Close()
	if err == nil {
		err = closed
	}
	var preprocessing pgx.ErrPreprocessingBatch
	notSent := errors.As(err, &preprocessing)
	if notSent {
		err = preprocessing.Unwrap() // the caller did not ask for a batch
	}
	conn := f.tx.conn.PgConn()
	var pgErr *pgconn.PgError
	switch {
	case conn.IsClosed():
		if notSent {
			unencodable.Store(f.sql, true)
		}
		f.tx.tx, f.tx.abortErr = nil, pgconn.ErrConnClosed
	case conn.TxStatus() != 'I':
	case err == nil:
		err = errNotBegun
		f.tx.tx, f.tx.abortErr = nil, err
	case errors.As(err, &pgErr):
		f.tx.tx, f.tx.abortErr = nil, err
	default:
		f.tx.tx = nil
	}
	return err
}

// firstRows also closes the batch wherever pgx's rows close themselves.
type firstRows struct {
	pgx.Rows
	results *firstBatch
	closed  bool
	err     error
}

func (r *firstRows) Close() {
	if !r.closed {
		r.closed = true
		r.Rows.Close()
		r.err = r.results.close(r.Rows.Err())
	}
}

func (r *firstRows) Next() bool {
	more := r.Rows.Next()
	if !more {
		r.Close()
	}
	return more
}

func (r *firstRows) Scan(dest ...any) error {
	err := r.Rows.Scan(dest...)
	if err != nil {
		r.Close()
	}
	return err
}

func (r *firstRows) Values() ([]any, error) {
	values, err := r.Rows.Values()
	if err != nil {
		r.Close()
	}
	return values, err
}

func (r *firstRows) Err() error {
	if r.closed {
		return r.err
	}
	return r.Rows.Err()
}

// firstRow closes the batch when it is scanned.
type firstRow struct {
	pgx.Row
	results *firstBatch
}

func (r *firstRow) Scan(dest ...any) error { return r.results.close(r.Row.Scan(dest...)) }
