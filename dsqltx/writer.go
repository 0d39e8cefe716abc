package dsqltx

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// A Writer writes more rows than one transaction may, in batches of a transaction each. It is a
// plain value, and may be used by many goroutines at once.
type Writer struct {
	Table   pgx.Identifier // for example pgx.Identifier{"schema", "table"}
	Columns []string       // of each row's values, in their order

	// Insert uses INSERT statements of many rows each. False uses COPY, which is faster.
	Insert bool

	// BatchRows is how many rows a transaction writes: 1 to 3,000, 0 for 1,000. Large rows make
	// smaller batches, to stay below 10 MiB.
	BatchRows int

	// Runner says how each batch is tried again. Its CheckCommit must be nil; see Check.
	Runner Runner

	// Check, if not nil, finds out whether a batch of unknown outcome is in the table. Like
	// CheckCommit, for one batch. Without Check, such a batch ends Write as BatchUnknown.
	Check func(ctx context.Context, rows [][]any) (in bool, err error)

	// OnBatch, if not nil, is called after each batch, on the goroutine of Write.
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
	case w.Runner.CheckCommit != nil:
		return errors.New("dsqltx: Writer.Runner.CheckCommit is set, but does not know the batch; set Writer.Check")
	case w.Runner.Idempotent && w.Check != nil:
		return errors.New("dsqltx: Writer.Check is set beside Runner.Idempotent, which needs no check; set one of them")
	}
	return w.Runner.validate()
}

// Write writes rows in batches, one after the other. It stops at the first batch that is not in
// the table. The report says what became of each batch, also when there is an error. Write checks
// the Writer and all rows before it begins: a report without batches means that nothing was
// written.
func (w Writer) Write(ctx context.Context, db Beginner, rows [][]any) (Report, error) {
	var report Report
	batches, err := w.split(rows)
	if err != nil {
		return report, err
	}
	report.Batches = batches
	for i := range report.Batches {
		b := &report.Batches[i]
		b.Err = w.writeBatch(ctx, db, rows[b.From:b.To])
		switch {
		case b.Err == nil:
			b.State = BatchIn
		case errors.Is(b.Err, ErrCommitUnknown):
			b.State = BatchUnknown
		}
		if w.OnBatch != nil {
			w.OnBatch(*b)
		}
		if b.Err != nil {
			return report, fmt.Errorf("dsqltx: writing rows %d to %d of %d (%s): %w",
				b.From, b.To-1, len(rows), b.State, b.Err)
		}
	}
	return report, nil
}

func (w Writer) writeBatch(ctx context.Context, db Beginner, rows [][]any) error {
	r := w.Runner
	if w.Check != nil {
		r.CheckCommit = func(ctx context.Context) (bool, error) { return w.Check(ctx, rows) }
	}
	return r.Run(ctx, db, func(ctx context.Context, tx pgx.Tx) error {
		if w.Insert {
			return w.insert(ctx, tx, rows)
		}
		_, err := tx.CopyFrom(ctx, w.Table, w.Columns, pgx.CopyFromRows(rows))
		return err
	})
}

func (w Writer) insert(ctx context.Context, tx pgx.Tx, rows [][]any) error {
	for len(rows) > 0 {
		n := min(len(rows), maxParameters/len(w.Columns))
		args := make([]any, 0, n*len(w.Columns))
		for _, row := range rows[:n] {
			args = append(args, row...)
		}
		if _, err := tx.Exec(ctx, w.insertSQL(n), args...); err != nil {
			return err
		}
		rows = rows[n:]
	}
	return nil
}

func (w Writer) insertSQL(rows int) string {
	var b strings.Builder
	b.WriteString("insert into " + w.Table.Sanitize() + " (")
	for i, column := range w.Columns {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(pgx.Identifier{column}.Sanitize())
	}
	b.WriteString(") values ")
	for i := range rows {
		for j := range w.Columns {
			switch {
			case j > 0:
				b.WriteString(", ")
			case i > 0:
				b.WriteString("), (")
			default:
				b.WriteString("(")
			}
			b.WriteString("$" + strconv.Itoa(i*len(w.Columns)+j+1))
		}
	}
	b.WriteString(")")
	return b.String()
}
