package dsqltx

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// A Writer writes more rows than one transaction may, in batches of a transaction each. It is a
// plain value, and may be used by many goroutines at once.
//
// The rows as a whole are not one transaction. The [Report] says which of them are in the table.
// Rows are numbered from 0, in the order in which they were given.
//
// The funcs of a Writer and OnAttempt of its Runner are called one at a time, on the goroutines of
// the workers; only Check may run several times at once. A panic of one continues on the goroutine
// of Write, after the batches that were being written have ended.
type Writer struct {
	Table   pgx.Identifier // for example pgx.Identifier{"schema", "table"}
	Columns []string       // of each row's values, in their order

	// Insert uses INSERT statements of many rows each. False uses COPY, which is faster.
	Insert bool

	// SkipExisting leaves out rows that the table has already, by any of its unique keys. It uses
	// INSERT … ON CONFLICT DO NOTHING. Writing a batch twice does no harm then, so batches of
	// unknown outcome are written again, and need neither Key nor Check.
	SkipExisting bool

	// Text says that all values are strings in PostgreSQL's text form, or nil, as in a file. The
	// server parses them, so every type of a column works. COPY then needs a round trip less.
	Text bool

	// BatchRows is how many rows a transaction writes: 1 to 3,000, 0 for 1,000. Batches are smaller
	// where rows are large, to stay below 10 MiB; after the server found one too large; and for
	// rows that lost four times.
	BatchRows int

	// Workers is how many batches are written at once: 1 or more, 0 for 1, which writes them in
	// order. Each needs a connection, so db must be a pool for more than 1. A worker that gets no
	// connection, because of a quota, tries again as long as others get on.
	Workers int

	// Runner says how each batch is tried again. Its CheckCommit must be nil; see Check.
	Runner Runner

	// Key names columns, among Columns, whose values together are not null and unique in the table.
	// A batch of unknown outcome is looked for by them: a batch is in the table as a whole or not
	// at all. Let nothing else insert or delete rows with the same values meanwhile. A unique index
	// makes sure that a COMMIT which arrives late cannot apply a batch a second time.
	Key []string

	// Check, if not nil, finds out in another way than Key whether a batch of unknown outcome is
	// in the table. Like CheckCommit, for one batch.
	//
	// Without SkipExisting, Key and Check, such a batch ends Write as BatchUnknown.
	Check func(ctx context.Context, rows [][]any) (in bool, err error)

	// Resume is the report of an earlier run over the same rows in the same order. Rows that were
	// in or rejected are skipped. Those that were unknown are looked for first.
	Resume Report

	// Checkpoint, if not nil, is called before each batch is written, and when all have ended, with
	// the report so far. Batches that are being written count as unknown in it. Save it, and give
	// it back as Resume after a crash. An error ends Write.
	Checkpoint func(Report) error

	// Reject, if not nil, is called for each row that the server refuses by itself: a value that
	// does not fit, a constraint (SQLSTATE classes 22 and 23), too large a row. Nil leaves the row
	// out and goes on; an error ends Write. Without Reject, such a row ends Write.
	Reject func(row int, values []any, err error) error

	// OnBatch, if not nil, is called after each batch, or part of one that was split.
	OnBatch func(Batch)
}

// validate returns an error that names the field which cannot work.
func (w Writer) validate() error {
	switch {
	case len(w.Table) == 0:
		return errors.New("dsqltx: Writer.Table is empty; name the table")
	case len(w.Columns) == 0 || len(w.Columns) > maxParameters:
		return fmt.Errorf("dsqltx: Writer.Columns has %d names; name 1 to %d columns", len(w.Columns), maxParameters)
	case w.BatchRows < 0 || w.BatchRows > maxTxRows:
		return fmt.Errorf("dsqltx: Writer.BatchRows is %d; set 1 to %d, the most rows of a transaction, or 0 for %d",
			w.BatchRows, maxTxRows, defaultBatchRows)
	case w.Workers < 0:
		return fmt.Errorf("dsqltx: Writer.Workers is %d; set 1 or more, or 0 for 1", w.Workers)
	case w.Runner.CheckCommit != nil:
		return errors.New("dsqltx: Writer.Runner.CheckCommit is set, but does not know the batch; set Writer.Check")
	case w.idempotent() && w.Check != nil:
		return errors.New("dsqltx: Writer.Check is set beside Runner.Idempotent or SkipExisting, which need no check; set one of them")
	case w.Key != nil && w.Check != nil:
		return errors.New("dsqltx: Writer.Key is set beside Check, which looks in its place; set one of them")
	}
	for _, column := range w.Key {
		if !slices.Contains(w.Columns, column) {
			return fmt.Errorf("dsqltx: Writer.Key has %q, which is not among Columns; name columns that are written", column)
		}
	}
	if err := w.Resume.validate(); err != nil {
		return fmt.Errorf("dsqltx: Writer.Resume: %w", err)
	}
	return w.Runner.validate()
}

// idempotent tells whether a batch may be written twice.
func (w Writer) idempotent() bool { return w.Runner.Idempotent || w.SkipExisting }

// Write writes rows. It stops at the first batch that fails: no other begins then, and those that
// are being written go on to their end. The report says what became of each row, also when there is
// an error. Write checks the Writer and all rows before it begins: a report without batches means
// that nothing was written.
func (w Writer) Write(ctx context.Context, db Beginner, rows [][]any) (Report, error) {
	if err := w.validate(); err != nil {
		return Report{}, err
	}
	for i, row := range rows {
		if err := w.checkRow(row); err != nil && w.Reject == nil {
			return Report{}, fmt.Errorf("dsqltx: row %d %w", i, err)
		}
	}
	report, err := w.WriteSeq(ctx, db, func(yield func([]any, error) bool) {
		for _, row := range rows {
			if !yield(row, nil) {
				return
			}
		}
	})
	report.fillOut(len(rows))
	return report, err
}

// WriteSeq is Write for rows that come one by one. It holds Workers × BatchRows rows at most, and
// one more, and must be given each in a slice of its own. It stops at an error of rows, too. Since
// it looks at its state only when rows yields, rows should heed ctx if it may block.
//
// The report covers the rows that were taken. When rows panics, the batches that are being written
// go on to their end, and Checkpoint is called a last time.
func (w Writer) WriteSeq(ctx context.Context, db Beginner, rows iter.Seq2[[]any, error]) (Report, error) {
	if err := w.validate(); err != nil {
		return Report{}, err
	}
	switch db.(type) {
	case *pgx.Conn, *pgxpool.Conn:
		if w.Workers > 1 {
			return Report{}, fmt.Errorf("dsqltx: Writer.Workers is %d on a single connection; use a pool, or 1 worker", w.Workers)
		}
	}
	return newLoad(w, db).run(ctx, rows)
}

// WriteSeqSQL is [Writer.WriteSeq] for database/sql. The handle's driver must be pgx's or one that
// gives its *pgx.Conn to [sql.Conn.Raw], as those of dsql.OpenDB do.
func (w Writer) WriteSeqSQL(ctx context.Context, db *sql.DB, rows iter.Seq2[[]any, error]) (Report, error) {
	return w.WriteSeq(ctx, sqlBeginner{db}, rows)
}

// checkRow says why row cannot be written.
func (w Writer) checkRow(row []any) error {
	if len(row) != len(w.Columns) {
		return fmt.Errorf("has %d values for %d columns", len(row), len(w.Columns))
	}
	if size := rowSize(row); size > maxTxBytes {
		return fmt.Errorf("has about %d bytes, and DSQL takes %d a transaction; store less in it", size, maxTxBytes)
	}
	if w.Text {
		for i, value := range row {
			if _, ok := value.(string); !ok && value != nil {
				return fmt.Errorf("has a %T as its %q; Writer.Text takes strings and nil", value, w.Columns[i])
			}
		}
	}
	return nil
}
