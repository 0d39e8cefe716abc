package dsql

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

var (
	errNested    = errors.New("dsql: DSQL has no savepoints, so transactions do not nest; use the transaction that there is")
	errSwallowed = errors.New("dsql: fn returned nil although one of its statements had failed; let it return that error")
	errOwned     = errors.New("dsql: RunTx commits and rolls back; return nil or an error")
	errOpenRows  = errors.New("dsql: fn returned while the rows of a query were open; close them, or read them to the end")
	errNotBegun  = errors.New("dsql: BEGIN was sent with the first statement, and the server did not begin")
)

// runningTx is the transaction that fn gets. Its BEGIN goes out together with the first
// statement, which saves a round trip of the three or four that a short transaction takes, and
// shortens the time in which another can get in its way. PostgreSQL's JDBC driver
// begins in the same way, so servers know it.
//
//	idle     nothing was sent. A statement that fails before BEGIN got through leaves it
//	         idle, and aborted if the server saw it.
//	begun    Batch.BeginTx of pgx sends BEGIN and statement, and gives the transaction.
//	aborted  as in PostgreSQL: nothing more runs, and the end is a rollback. So it is
//	         when the connection is lost.
type runningTx struct {
	ctx     context.Context // of RunTx, for what takes none
	conn    *pgx.Conn
	options pgx.TxOptions
	pooled  bool   // the connection is one of many
	begun   pgx.Tx // nil while idle
	aborted error
}

// misfits are the statements whose arguments pgx once could not encode. Alone, such a statement fails;
// in a batch it costs the connection (Pipeline.Close ends one with requests that were not
// synced), so that it happens once a statement, and never to a connection that is not pooled.
var misfits sync.Map

// txOn takes a connection for a transaction, which release gives back.
func txOn(ctx context.Context, db TxBeginner, options pgx.TxOptions) (tx *runningTx, release func(), err error) {
	tx, release = &runningTx{ctx: ctx, options: options}, func() {}
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
		if tx.begun, err = db.BeginTx(ctx, options); err != nil {
			return nil, nil, err
		}
		tx.conn = tx.begun.Conn()
	}
	return tx, release, nil
}

// begin begins without a statement.
func (t *runningTx) begin(ctx context.Context) (pgx.Tx, error) {
	if t.begun != nil || t.aborted != nil {
		return t.begun, t.aborted
	}
	var err error
	if t.begun, err = t.conn.BeginTx(ctx, t.options); err != nil {
		t.aborted = err
	}
	return t.begun, t.aborted
}

// first sends BEGIN and the first statement. Its results are those of the statement.
func (t *runningTx) first(ctx context.Context, sql string, args []any) *firstResults {
	b := &pgx.Batch{}
	b.BeginTx(t.options)
	b.Queue(sql, args...)
	br := t.conn.SendBatch(ctx, b)
	t.begun = br.Tx()
	_, _ = br.Exec() // its error is the statement's too
	return &firstResults{t, br, sql}
}

// takesFirst tells whether a statement can go out together with BEGIN.
func (t *runningTx) takesFirst(sql string, args []any) bool {
	if !t.pooled || t.begun != nil || t.aborted != nil {
		return false
	}
	if _, misfit := misfits.Load(sql); misfit {
		return false
	}
	if len(args) > 0 {
		switch args[0].(type) {
		case pgx.QueryExecMode, pgx.QueryResultFormats, pgx.QueryResultFormatsByOID:
			return false // a pgx.Batch takes none of them
		}
	}
	return pipelines(t.conn)
}

// pipelines tells whether conn is set to what a batch does in one go and as a query
// would. It is asked once a connection: Config copies.
func pipelines(conn *pgx.Conn) bool {
	const key = "dsql.pipelines"
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

type firstResults struct {
	tx  *runningTx
	br  pgx.BatchResults
	sql string
}

// close ends the batch; err is what the statement ended with.
func (f *firstResults) close(err error) error {
	closed := f.br.Close()
	if err == nil {
		err = closed
	}
	var preprocessing pgx.ErrPreprocessingBatch
	notSent := errors.As(err, &preprocessing)
	if notSent {
		err = preprocessing.Unwrap() // nobody asked for a batch
	}
	conn := f.tx.conn.PgConn()
	var pgErr *pgconn.PgError
	switch {
	case conn.IsClosed():
		if notSent {
			misfits.Store(f.sql, true)
		}
		f.tx.begun, f.tx.aborted = nil, pgconn.ErrConnClosed
	case conn.TxStatus() != 'I':
	case err == nil:
		err = errNotBegun
		f.tx.begun, f.tx.aborted = nil, err
	case errors.As(err, &pgErr):
		f.tx.begun, f.tx.aborted = nil, err
	default:
		f.tx.begun = nil
	}
	return err
}

func (t *runningTx) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	// Without arguments, sql may hold several statements, which a batch does not take.
	if len(args) > 0 && t.takesFirst(sql, args) {
		results := t.first(ctx, sql, args)
		tag, err := results.br.Exec()
		return tag, results.close(err)
	}
	tx, err := t.begin(ctx)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	return tx.Exec(ctx, sql, args...)
}

func (t *runningTx) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	if t.takesFirst(sql, args) {
		results := t.first(ctx, sql, args)
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

func (t *runningTx) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	if t.takesFirst(sql, args) {
		results := t.first(ctx, sql, args)
		return &firstRow{results.br.QueryRow(), results}
	}
	tx, err := t.begin(ctx)
	if err != nil {
		return pgx.FailedBatchResults(&pgx.Batch{}, err).QueryRow()
	}
	return tx.QueryRow(ctx, sql, args...)
}

// firstRows closes the batch, too, wherever pgx's rows close themselves.
type firstRows struct {
	pgx.Rows
	results *firstResults
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

type firstRow struct {
	pgx.Row
	results *firstResults
}

func (r *firstRow) Scan(dest ...any) error { return r.results.close(r.Row.Scan(dest...)) }

func (t *runningTx) SendBatch(ctx context.Context, b *pgx.Batch) pgx.BatchResults {
	tx, err := t.begin(ctx)
	if err != nil {
		return pgx.FailedBatchResults(b, err)
	}
	return tx.SendBatch(ctx, b)
}

func (t *runningTx) CopyFrom(ctx context.Context, table pgx.Identifier, columns []string, rows pgx.CopyFromSource) (int64, error) {
	tx, err := t.begin(ctx)
	if err != nil {
		return 0, err
	}
	return tx.CopyFrom(ctx, table, columns, rows)
}

func (t *runningTx) Prepare(ctx context.Context, name, sql string) (*pgconn.StatementDescription, error) {
	tx, err := t.begin(ctx)
	if err != nil {
		return nil, err
	}
	return tx.Prepare(ctx, name, sql)
}

// Conn returns the connection once the transaction is begun on it. When that fails, so will what
// is done on the connection, and the end is a rollback.
func (t *runningTx) Conn() *pgx.Conn {
	_, _ = t.begin(t.ctx)
	return t.conn
}

// LargeObjects needs none of DSQL, which has none; the server says so.
func (t *runningTx) LargeObjects() pgx.LargeObjects {
	tx, err := t.begin(t.ctx)
	if err != nil {
		return pgx.LargeObjects{}
	}
	return tx.LargeObjects()
}

func (*runningTx) Begin(context.Context) (pgx.Tx, error) { return nil, errNested }
func (*runningTx) Commit(context.Context) error          { return errOwned }
func (*runningTx) Rollback(context.Context) error        { return errOwned }

// commit commits what fn began.
func (t *runningTx) commit(ctx context.Context) error {
	switch {
	case t.aborted != nil:
		return fmt.Errorf("%w: %w: %w", errSwallowed, pgx.ErrTxCommitRollback, t.aborted)
	case t.begun == nil:
		return nil // fn did nothing
	}
	err := t.begun.Commit(ctx)
	if errors.Is(err, pgx.ErrTxCommitRollback) {
		return fmt.Errorf("%w: %w", errSwallowed, err)
	}
	return err
}

// rollback ends the transaction also when ctx is over: that may be why.
func (t *runningTx) rollback() {
	if t.begun == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.ctx), rollbackTimeout)
	defer cancel()
	_ = t.begun.Rollback(ctx) // a connection that cannot is closed by pgx
}
