package dsqltx

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// Beginner begins transactions: a *pgxpool.Pool, *pgxpool.Conn or *pgx.Conn.
type Beginner interface {
	BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error)
}

// Execer executes statements: a *pgxpool.Pool, *pgxpool.Conn or *pgx.Conn.
type Execer interface {
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
}

// Querier reads a row: a *pgxpool.Pool, *pgxpool.Conn or *pgx.Conn.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// A Runner says how transactions and statements are tried again. It is a plain value, and may be
// used by many goroutines at once. The zero Runner is right for most; [Run], [RunSQL], [Exec],
// [ExecSQL] and [Retry] use it.
type Runner struct {
	// MaxAttempts bounds the attempts: 1 or more, 0 for 1,000. No attempt begins later than five
	// minutes after the first.
	MaxAttempts int

	// TxOptions say how transactions begin. DSQL has one isolation level, repeatable read; others
	// are an error before anything is sent. RunSQL takes the access mode alone. Exec, ExecSQL and
	// Retry ignore TxOptions.
	//
	// A read-only transaction runs again also when its outcome is unknown.
	TxOptions pgx.TxOptions

	// Idempotent says that running the transaction or statement twice does what running it once
	// does. So it runs again when its outcome is unknown. If that attempt fails, the error is
	// ErrCommitUnknown and wraps the failure, because the earlier attempt may have been applied.
	// Reads in autocommit are idempotent.
	Idempotent bool

	// CheckCommit, if not nil, finds out whether a transaction or statement of unknown outcome was
	// applied, for example by a key that it wrote. Applied ends the run without an error; not
	// applied runs it again; an error ends the run with ErrCommitUnknown. CheckCommit and
	// Idempotent exclude each other.
	//
	// CheckCommit is called also when the context of the run is over. Its own ctx lives 10 s longer.
	// The COMMIT may still be on its way while CheckCommit runs. Insert a unique key in the
	// transaction, so that a second run conflicts with a first one that arrives late.
	CheckCommit func(ctx context.Context) (applied bool, err error)

	// Key says which transactions are likely to change the same rows: of those with equal keys, on
	// the same pool or handle and in this process, one runs after the other once they conflict. Set
	// it where the first statement with its arguments does not say so, for RunSQL and Retry always:
	// "account 7", for example. Empty: Run, Exec and ExecSQL go by the statement; RunSQL and Retry
	// only wait between their attempts.
	Key string

	// SeparateBegin sends BEGIN by itself, instead of together with the first statement.
	SeparateBegin bool

	// OnAttempt, if not nil, is called after each attempt, on the goroutine that runs it.
	OnAttempt func(Attempt)
}

// An Attempt is one run of a transaction or statement.
type Attempt struct {
	Number   int           // 1 for the first
	Err      error         // nil when it was applied
	Conflict string        // "OC000" or "OC001" when Err is a conflict, else ""
	Again    bool          // another attempt follows
	Wait     time.Duration // until it; the time in a queue comes on top
	Elapsed  time.Duration // since the first attempt began
}

// Run is [Runner.Run] of the zero Runner.
func Run(ctx context.Context, db Beginner, fn func(ctx context.Context, tx pgx.Tx) error) error {
	return Runner{}.Run(ctx, db, fn)
}

// RunSQL is [Runner.RunSQL] of the zero Runner.
func RunSQL(ctx context.Context, db *sql.DB, fn func(ctx context.Context, tx *sql.Tx) error) error {
	return Runner{}.RunSQL(ctx, db, fn)
}

// Exec is [Runner.Exec] of the zero Runner.
func Exec(ctx context.Context, db Execer, sql string, args ...any) (pgconn.CommandTag, error) {
	return Runner{}.Exec(ctx, db, sql, args...)
}

// ExecSQL is [Runner.ExecSQL] of the zero Runner.
func ExecSQL(ctx context.Context, db *sql.DB, query string, args ...any) (sql.Result, error) {
	return Runner{}.ExecSQL(ctx, db, query, args...)
}

// Retry is [Runner.Retry] of the zero Runner.
func Retry(ctx context.Context, fn func(ctx context.Context) error) error {
	return Runner{}.Retry(ctx, fn)
}

// validate returns an error that names the field which cannot work.
func (r Runner) validate() error {
	switch {
	case r.MaxAttempts < 0:
		return fmt.Errorf("dsqltx: Runner.MaxAttempts is %d; set 1 or more, or 0 for %d",
			r.MaxAttempts, defaultMaxAttempts)
	case r.TxOptions.IsoLevel != "" && r.TxOptions.IsoLevel != pgx.RepeatableRead:
		return fmt.Errorf("dsqltx: Runner.TxOptions.IsoLevel is %q; DSQL has repeatable read only, so leave it empty",
			r.TxOptions.IsoLevel)
	case r.TxOptions.DeferrableMode == pgx.Deferrable:
		return errors.New("dsqltx: Runner.TxOptions.DeferrableMode is deferrable, " +
			"which only serializable transactions can be; leave it empty")
	case r.TxOptions.AccessMode == pgx.ReadOnly && r.TxOptions.BeginQuery != "" &&
		!strings.Contains(strings.ToLower(r.TxOptions.BeginQuery), "read only"):
		return errors.New("dsqltx: Runner.TxOptions.AccessMode is read only, but BeginQuery replaces it; " +
			"write READ ONLY in BeginQuery, or leave it empty")
	case r.Idempotent && r.CheckCommit != nil:
		return errors.New("dsqltx: Runner.CheckCommit is set beside Idempotent, which needs no check; set one of them")
	}
	return nil
}

// validateSQL refuses TxOptions that database/sql has no counterpart for.
func (r Runner) validateSQL() error {
	if r.TxOptions.BeginQuery != "" || r.TxOptions.CommitQuery != "" {
		return errors.New("dsqltx: Runner.TxOptions has a BeginQuery or CommitQuery, " +
			"which RunSQL cannot send; leave them empty, or use Run")
	}
	return r.validate()
}
