package dsqltx

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// canPipeline tells whether BEGIN can go out together with the first statement, in one batch of pgx.
//
// That the server begins before it runs the statement rests on the protocol: it works off the
// messages in order, and an error skips the rest until Sync. PostgreSQL's JDBC driver begins in the
// same way when autocommit is off (its QueryExecutorImpl), and AWS supports that driver. Batches of
// pgx were not tried on a live cluster. Runner.SeparateBegin switches them off.
//
// A batch whose arguments cannot be encoded costs the connection, because pgx finds out after it
// has queued BEGIN. So canPipeline encodes the arguments first, for which it needs the statement's
// description. When that cannot be had, as for a prepared statement's name, the answer is no, and
// the server says what is wrong in the transaction. An error is one of the connection.
func (t *lazyTx) canPipeline(ctx context.Context, sql string, args []any) (bool, error) {
	known := descriptionsOf(t.conn)
	if t.separate || !known.batches || !isQuery(sql) {
		return false, nil
	}
	for _, arg := range args {
		switch arg.(type) {
		case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID, pgx.QueryRewriter:
			return false, nil // options, which a batch does not take
		}
	}
	var description *pgconn.StatementDescription
	if known.needed {
		var err error
		if description, err = known.describe(ctx, t.conn, sql); description == nil {
			return false, err
		}
	}
	var builder pgx.ExtendedQueryBuilder
	return builder.Build(t.conn.TypeMap(), description, args) == nil, nil
}

// descriptions are what a connection's statements need to be encoded. pgx keeps the like, but does
// not show it.
type descriptions struct {
	batches bool // a batch takes one round trip, and the connection's tracer, if any, hears of it
	needed  bool // the connection's mode encodes by descriptions
	bySQL   map[string]*pgconn.StatementDescription
	order   []string // of bySQL, oldest first
}

// As many as pgx caches statements by default (ConnConfig.StatementCacheCapacity).
const maxDescriptions = 512

// descriptionsOf returns conn's. They are kept with the connection, and so is what its configuration
// says, because Config makes a copy.
func descriptionsOf(conn *pgx.Conn) *descriptions {
	const key = "dsqltx.descriptions"
	data := conn.PgConn().CustomData()
	d, ok := data[key].(*descriptions)
	if !ok {
		config := conn.Config()
		_, tracesBatches := config.Tracer.(pgx.BatchTracer)
		d = &descriptions{
			batches: config.DefaultQueryExecMode != pgx.QueryExecModeSimpleProtocol && (config.Tracer == nil || tracesBatches),
			needed:  config.DefaultQueryExecMode != pgx.QueryExecModeExec,
			bySQL:   map[string]*pgconn.StatementDescription{},
		}
		data[key] = d
	}
	return d
}

// describe returns the description of a statement, which it asks the server for the first time. It
// returns nil for one that the server does not parse. An error is one of the connection.
func (d *descriptions) describe(ctx context.Context, conn *pgx.Conn, sql string) (*pgconn.StatementDescription, error) {
	if description, ok := d.bySQL[sql]; ok {
		return description, nil
	}
	description, err := conn.Prepare(ctx, "", sql)
	var pgErr *pgconn.PgError
	switch {
	case err == nil:
	case !errors.As(err, &pgErr) || conn.IsClosed():
		return nil, err
	case pgErr.Code != "42601": // a syntax error is for good
		return nil, nil
	}
	if len(d.order) == maxDescriptions {
		delete(d.bySQL, d.order[0])
		d.order = d.order[1:]
	}
	d.bySQL[sql] = description
	d.order = append(d.order, sql)
	return description, nil
}

// forget drops the description of a statement that failed, in case the schema has changed.
func (d *descriptions) forget(sql string) {
	if _, ok := d.bySQL[sql]; !ok {
		return
	}
	delete(d.bySQL, sql)
	for i, s := range d.order {
		if s == sql {
			d.order = append(d.order[:i], d.order[i+1:]...)
			return
		}
	}
}

// firstBatch is BEGIN and the first statement.
type firstBatch struct {
	tx      *lazyTx
	sql     string
	results pgx.BatchResults // the next is the statement's
}

// sendFirst sends BEGIN and the first statement.
func (t *lazyTx) sendFirst(ctx context.Context, sql string, args []any) *firstBatch {
	b := &pgx.Batch{}
	b.BeginTx(t.options)
	b.Queue(sql, args...)
	results := t.conn.SendBatch(ctx, b)
	t.tx = results.Tx()
	_, _ = results.Exec() // an error of BEGIN is the statement's too
	return &firstBatch{t, sql, results}
}

// close ends the batch and sets the state of the transaction. err is the statement's.
func (f *firstBatch) close(err error) error {
	closed := f.results.Close()
	if err == nil {
		err = closed
	}
	var preprocessing pgx.ErrPreprocessingBatch
	if errors.As(err, &preprocessing) {
		err = preprocessing.Unwrap() // the caller did not ask for a batch
	}
	t := f.tx
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		descriptionsOf(t.conn).forget(f.sql)
	}
	switch {
	case t.conn.IsClosed():
		t.tx, t.abortErr = nil, pgconn.ErrConnClosed
	case t.conn.PgConn().TxStatus() != 'I':
	case err == nil:
		err = t.abortBegin(fmt.Errorf("%w: BEGIN was sent together with the first statement, which may be applied: %w; "+
			"set Runner.SeparateBegin", ErrCommitUnknown, errNotBegun))
	default:
		_ = t.abortBegin(err)
	}
	return err
}

// firstRows also closes the batch wherever pgx's rows close themselves.
type firstRows struct {
	pgx.Rows
	batch  *firstBatch
	closed bool
	err    error
}

func (r *firstRows) Close() {
	if !r.closed {
		r.closed = true
		r.Rows.Close()
		r.err = r.batch.close(r.Rows.Err())
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
	batch *firstBatch
}

func (r *firstRow) Scan(dest ...any) error { return r.batch.close(r.Row.Scan(dest...)) }
