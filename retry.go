package dsql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// More than any transaction should need: on one contended row the losers
	// of a round are all but one.
	defaultMaxAttempts = 1000

	// DSQL ends a transaction after 5 minutes. No attempt begins later than
	// that after the first: what has not won by then is not going to.
	retryTime = 5 * time.Minute

	// A conflict is over when the other transaction has committed, which it has: the
	// loser learns of it afterwards. So the first retry waits for its turn only; further
	// ones wait with full jitter, from the length of a short transaction on.
	firstRetryWait = 2 * time.Millisecond
	lastRetryWait  = 128 * time.Millisecond

	// A connection that is lost so often in a row, always before anything was applied, is lost by
	// what is sent on it: a message of more than 10 MiB ends the connection.
	maxLost = 20

	// What is done after the caller's context may have ended.
	rollbackTimeout = 5 * time.Second
)

// TxBeginner is what *pgxpool.Pool and *pgx.Conn are.
type TxBeginner interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// Execer is what *pgxpool.Pool and *pgx.Conn are.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// RetryOption changes how RunTx, RunSQLTx, Retry, Exec and RowWriter.Write try again.
type RetryOption func(*retrier)

// MaxAttempts bounds the attempts, 1 or more; the default is 1,000.
func MaxAttempts(n int) RetryOption { return func(r *retrier) { r.maxAttempts = n } }

// WithTxOptions sets how each transaction begins. DSQL knows one isolation
// level, repeatable read; any other is refused here, with ErrConfig, before
// it gets to the server. It has no meaning for Retry and Exec.
func WithTxOptions(o pgx.TxOptions) RetryOption { return func(r *retrier) { r.tx = o } }

// Idempotent says that running the transaction or statement twice does what
// running it once does, so that it may run again when nobody knows whether it was committed. When it
// then fails all the same, the error is ErrCommitUnknown, and has what it failed with: the
// attempt that was lost may have been applied.
func Idempotent() RetryOption { return func(r *retrier) { r.idempotent = true } }

// CheckCommit gives a function that looks whether a transaction or statement of unknown
// outcome was applied, by a row or a correlation ID that it wrote. Applied
// ends the run without an error; not applied runs it again; an error
// ends it with ErrCommitUnknown.
//
// A COMMIT may still be on its way while check looks. Let the transaction insert a unique key, so that
// a second run conflicts with a first that arrives late.
func CheckCommit(check func(ctx context.Context) (applied bool, err error)) RetryOption {
	return func(r *retrier) { r.check = check }
}

// OnAttempt is told of each attempt when it has ended, on the goroutine that runs it.
func OnAttempt(f func(AttemptEvent)) RetryOption { return func(r *retrier) { r.onAttempt = f } }

// AttemptEvent is one run of a transaction or statement.
type AttemptEvent struct {
	Attempt  int           // 1 for the first
	Err      error         // nil when it was applied
	Conflict string        // "OC000" or "OC001" when Err is a conflict, else ""
	Again    bool          // another attempt follows
	Wait     time.Duration // before it, and before its turn among those of the same fn
	Elapsed  time.Duration // since the first attempt began
}

// RunTx runs fn in a transaction and commits it, again from the start when it lost against
// another transaction or met a changed schema, or when the connection was lost before COMMIT was
// sent. The first retry comes at once, further ones after a little wait. Where several
// transactions of the same fn lose against each other, only as many run again at once as get
// through, and others wait up to 50 ms for their turn. An error of fn rolls back and is returned as
// it is; a panic rolls back and goes on up.
//
// fn must do nothing but through tx that cannot be done twice, for it may run any number of
// times. Its tx has no nested transactions (DSQL has no savepoints), and is committed and rolled
// back by RunTx alone. On a *pgxpool.Pool, BEGIN goes out together with a first statement that
// has arguments or returns rows, which saves a round trip. A tracer hears of the two as a batch;
// for one that does not trace batches, BEGIN goes by itself.
//
// When the connection is lost between COMMIT and its answer, nobody knows whether the transaction
// was applied. RunTx then returns ErrCommitUnknown, unless Idempotent or CheckCommit says what to
// do, or the transaction is read-only. When attempts (MaxAttempts, 5 minutes, ctx; 20 where each
// loses its connection) are used up, the error wraps the last conflict's, or what the connection was
// lost by. A single connection that is closed is an error at once.
func RunTx(ctx context.Context, db TxBeginner, fn func(tx pgx.Tx) error, opts ...RetryOption) error {
	r, err := newRetrier(opts)
	if err != nil {
		return err
	}
	r.readOnly = r.tx.AccessMode == pgx.ReadOnly
	return r.run(ctx, turnsFor(fn), func() (outcome, error) {
		tx, release, err := txOn(ctx, db, r.tx)
		if err != nil {
			if isGone(db) {
				return failed, err
			}
			return begun(err), err
		}
		defer release()
		committing := false
		defer func() {
			if !committing { // fn failed, panicked, or ended its goroutine
				tx.rollback()
			}
		}()
		if err := fn(tx); err != nil {
			return ran(err, tx.conn != nil && tx.conn.IsClosed()), err
		}
		if tx.conn != nil && tx.conn.IsClosed() {
			return lost, pgconn.ErrConnClosed
		}
		if tx.conn != nil && tx.conn.PgConn().IsBusy() {
			return failed, errOpenRows
		}
		committing = true
		err = tx.commit(ctx)
		if errors.Is(err, errSwallowed) {
			return failed, err
		}
		return answered(err), err
	})
}

// RunSQLTx is RunTx for database/sql. fn must leave Commit and Rollback to it,
// which database/sql cannot check beforehand: the error comes afterwards. Of WithTxOptions it
// heeds the access mode; others that are set are ErrConfig.
func RunSQLTx(ctx context.Context, db *sql.DB, fn func(tx *sql.Tx) error, opts ...RetryOption) error {
	r, err := newRetrier(opts)
	if err != nil {
		return err
	}
	if r.tx.BeginQuery != "" || r.tx.CommitQuery != "" {
		return configError("WithTxOptions", "sets BeginQuery or CommitQuery, which database/sql has not; use RunTx, or leave them empty")
	}
	r.readOnly = r.tx.AccessMode == pgx.ReadOnly
	options := &sql.TxOptions{ReadOnly: r.readOnly}
	return r.run(ctx, turnsFor(fn), func() (outcome, error) {
		conn, err := db.Conn(ctx)
		if err != nil {
			return begun(err), err
		}
		defer conn.Close()
		tx, err := conn.BeginTx(ctx, options)
		if err != nil {
			return begun(err), err
		}
		ended := false
		defer func() {
			if !ended {
				_ = tx.Rollback()
			}
		}()
		err = fn(tx)
		ended = true
		if err != nil {
			defer func() { _ = tx.Rollback() }()
			return ran(err, isClosed(conn)), err
		}
		if isClosed(conn) {
			defer func() { _ = tx.Rollback() }()
			return lost, pgconn.ErrConnClosed
		}
		switch err = tx.Commit(); {
		case err == sql.ErrTxDone && ctx.Err() == nil:
			return failed, errors.New("dsql: fn ended the transaction; leave Commit and Rollback to RunSQLTx")
		case err == sql.ErrTxDone, err != nil && err == ctx.Err():
			// database/sql looked at ctx before it sent anything.
			return failed, ctx.Err()
		case errors.Is(err, pgx.ErrTxCommitRollback):
			return failed, fmt.Errorf("%w: %w", errSwallowed, err)
		}
		return answered(err), err
	})
}

// isClosed tells whether pgx has closed what is beneath conn. It looks inside of Raw, which locks:
// when a context ends, database/sql rolls back on a goroutine of its own.
func isClosed(conn *sql.Conn) (closed bool) {
	_ = conn.Raw(func(driverConn any) error {
		if d, ok := driverConn.(interface{ Conn() *pgx.Conn }); ok {
			closed = d.Conn().IsClosed()
		}
		return nil
	})
	return closed
}

// Retry runs fn, which executes a single statement outside of a transaction, again when the
// statement lost against another transaction or met a changed schema, or when the connection was
// lost before it was sent. When the connection was lost later, an autocommitted write may have been
// applied, and Retry returns ErrCommitUnknown unless Idempotent or CheckCommit says what to do.
// Reads are Idempotent. Of several statements in fn the first ones would be applied twice: those
// belong into RunTx.
func Retry(ctx context.Context, fn func(ctx context.Context) error, opts ...RetryOption) error {
	r, err := newRetrier(opts)
	if err != nil {
		return err
	}
	return r.statement(ctx, fn)
}

func (r *retrier) statement(ctx context.Context, fn func(ctx context.Context) error) error {
	return r.run(ctx, turnsFor(fn), func() (outcome, error) {
		if err := ctx.Err(); err != nil {
			return failed, err // nothing is sent with it, but the error would not say so
		}
		err := fn(ctx)
		var connect *pgconn.ConnectError
		if errors.As(err, &connect) {
			return failed, err
		}
		return committed(err), err
	})
}

// Exec executes one statement in autocommit, as Retry does. The tag is empty where CheckCommit found
// out that the statement was applied.
func Exec(ctx context.Context, db Execer, sql string, args []any, opts ...RetryOption) (pgconn.CommandTag, error) {
	var tag pgconn.CommandTag
	r, err := newRetrier(opts)
	if err != nil {
		return tag, err
	}
	attempt := func() (outcome, error) {
		if err := ctx.Err(); err != nil {
			return failed, err
		}
		on := db
		if pool, ok := db.(*pgxpool.Pool); ok {
			// What is wrong before there is a connection must not be taken for a lost answer.
			conn, err := pool.Acquire(ctx)
			if err != nil {
				return begun(err), err
			}
			defer conn.Release()
			on = conn
		} else if isGone(db) {
			return failed, pgconn.ErrConnClosed
		}
		tag, err = on.Exec(ctx, sql, args...)
		return committed(err), err
	}
	err = r.run(ctx, turnsFor(attempt), attempt)
	return tag, err
}

// isGone tells that db is a single connection, or a transaction on one, and closed: it does not come back.
func isGone(db any) bool {
	if c, ok := db.(interface{ Conn() *pgx.Conn }); ok && c.Conn() != nil { // *pgxpool.Conn
		return c.Conn().IsClosed()
	}
	c, ok := db.(interface{ IsClosed() bool })
	return ok && c.IsClosed()
}

// retrier is the options of one run.
type retrier struct {
	maxAttempts int
	tx          pgx.TxOptions
	idempotent  bool
	readOnly    bool // a transaction that cannot have written
	check       func(ctx context.Context) (bool, error)
	onAttempt   func(AttemptEvent)
}

func newRetrier(opts []RetryOption) (*retrier, error) {
	r := &retrier{maxAttempts: defaultMaxAttempts, onAttempt: func(AttemptEvent) {}}
	for _, option := range opts {
		option(r)
	}
	switch {
	case r.maxAttempts < 1:
		return nil, configError("MaxAttempts", "is %d; it is 1 or more", r.maxAttempts)
	case r.tx.IsoLevel != "" && r.tx.IsoLevel != pgx.RepeatableRead:
		return nil, configError("WithTxOptions", "asks for isolation level %q; DSQL has repeatable read only, so leave IsoLevel empty", r.tx.IsoLevel)
	case r.tx.DeferrableMode == pgx.Deferrable:
		return nil, configError("WithTxOptions", "asks for a deferrable transaction, which only serializable ones are; leave DeferrableMode empty")
	case r.idempotent && r.check != nil:
		return nil, configError("CheckCommit", "is set beside Idempotent, which makes it needless; choose one of them")
	}
	if r.onAttempt == nil {
		r.onAttempt = func(AttemptEvent) {}
	}
	return r, nil
}

// run makes attempts until one is applied or fails for good.
func (r *retrier) run(ctx context.Context, turns *turns, attempt func() (outcome, error)) error {
	began := time.Now()
	backoff := firstRetryWait
	turn := false // this attempt is one of those that turns counts
	defer func() {
		if turn { // attempt panicked
			turns.done(true)
		}
	}()
	if turns.crowded() {
		turn, _ = turns.wait(ctx) // an ended ctx shows in attempt
	}
	var (
		again error // why the last attempt is followed by another
		maybe error // of an attempt that may have been applied, and was followed by another all the same
		lost  int   // connections in a row
	)
	for attempts := 1; ; attempts++ {
		result, err := attempt()
		if turn {
			turns.done(result == conflict)
			turn = false
		}
		e := AttemptEvent{Attempt: attempts, Err: err, Conflict: conflictKind(err)}
		if result == unknown && !r.readOnly {
			if r.idempotent {
				maybe = err
			} else if done, unclear := r.look(ctx, err); unclear != nil {
				result, err = failed, unclear
			} else if done {
				result, err = applied, nil
			}
			e.Err = err
		}
		e.Elapsed = time.Since(began)
		if result == applied || result == failed {
			r.onAttempt(e)
			if err != nil && again != nil && ctx.Err() != nil && !errors.Is(err, ErrCommitUnknown) {
				err = &retryError{cause: again, stop: err, attempts: attempts, elapsed: e.Elapsed}
			}
			return possibly(err, maybe)
		}

		if lost++; result == conflict {
			lost = 0
		}
		if attempts > 1 {
			e.Wait = rand.N(backoff)
			backoff = min(2*backoff, lastRetryWait)
		}
		stop := ctx.Err()
		switch {
		case stop != nil:
		case attempts == r.maxAttempts || e.Elapsed+e.Wait > retryTime:
			stop = errGivenUp
		case lost == maxLost:
			stop = errLost
		}
		e.Again = stop == nil
		r.onAttempt(e)
		if stop == nil {
			stop = sleep(ctx, e.Wait)
		}
		if stop == nil && e.Conflict != "OC001" { // a changed schema is nobody's row
			turn, stop = turns.wait(ctx)
		}
		again = e.Err
		if stop != nil {
			return possibly(&retryError{cause: again, stop: stop, attempts: attempts, elapsed: time.Since(began)}, maybe)
		}
	}
}

var (
	errGivenUp = errors.New("no attempt left")
	errLost    = errors.New("each lost its connection; a message of more than 10 MiB, the most that DSQL takes, does that every time")
)

// possibly keeps in err that an earlier attempt may have been applied.
func possibly(err, maybe error) error {
	if err == nil || maybe == nil || errors.Is(err, ErrCommitUnknown) {
		return err
	}
	return fmt.Errorf("%w: the connection was lost between a commit and its answer (%w), and afterwards: %w", ErrCommitUnknown, maybe, err)
}

// look finds out about a transaction that may have been applied.
func (r *retrier) look(ctx context.Context, cause error) (applied bool, err error) {
	if r.check == nil || ctx.Err() != nil {
		return false, fmt.Errorf("%w: the connection was lost between the commit and its answer: %w", ErrCommitUnknown, cause)
	}
	if applied, err = r.check(ctx); err != nil {
		return false, fmt.Errorf("%w: %w, and CheckCommit could not find out: %w", ErrCommitUnknown, cause, err)
	}
	return applied, nil
}

// retryError ends a run whose attempts are used up.
type retryError struct {
	cause    error // of the last attempt that was not cut short by ctx
	stop     error // why there is no other
	attempts int
	elapsed  time.Duration
}

func (e *retryError) Error() string {
	return fmt.Sprintf("dsql: given up after %d attempts in %s (%v): %v", e.attempts, e.elapsed.Round(time.Millisecond), e.stop, e.cause)
}

func (e *retryError) Unwrap() []error { return []error{e.cause, e.stop} }
