package dsql

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

const (
	// What a transaction may change (AWS guide, "Quotas").
	maxTxRows  = 3000
	maxTxBytes = 10 << 20

	// What a batch has unless said otherwise. A third of what is allowed loses less time
	// when it has to run again.
	defaultBatchRows = 1000

	// Sizes are estimated before encoding, and messages have headers.
	maxBatchBytes = maxTxBytes * 3 / 4

	// The most parameters that a statement can have: a 16-bit count (PostgreSQL
	// docs, "Message Formats", Bind).
	maxParameters = 65535
)

// RowWriter writes more rows than one transaction may, in batches of a
// transaction each. It is a plain value and may be used by many goroutines at once.
type RowWriter struct {
	Table   pgx.Identifier // as pgx.Identifier{"schema", "table"}
	Columns []string       // that each row has values for, in this order

	// Insert writes by INSERT with many rows, which triggers defaults and conversions as
	// other statements do. False: by COPY, which is faster.
	Insert bool

	// BatchRows is how many rows a transaction writes: 1 to 3,000, 0 for
	// 1,000. Large rows make smaller batches, to stay below 10 MiB.
	BatchRows int

	// OnBatch, if not nil, is told of each batch when it has ended.
	OnBatch func(Batch)

	// Check, if not nil, looks whether a batch is in that was lost while it was committed. It
	// is to RunTx's CheckCommit what a batch is to a transaction; without it
	// such a batch ends the writing as BatchUnknown.
	Check func(ctx context.Context, rows [][]any) (in bool, err error)
}

// BatchState says what became of a batch.
type BatchState int

const (
	BatchOut     BatchState = iota // not applied
	BatchIn                        // applied, once
	BatchUnknown                   // one of both: the connection was lost while committing
)

func (s BatchState) String() string {
	switch s {
	case BatchIn:
		return "in"
	case BatchUnknown:
		return "unknown"
	}
	return "out"
}

// Batch is the rows[From:To] of a Write.
type Batch struct {
	From, To int
	State    BatchState
	Err      error // why it is not in, of the batch that ended the writing
}

// WriteReport says which rows are in.
type WriteReport struct {
	Batches []Batch // all of them, in order
}

// Rows returns the rows whose batches are in the state, of the rows that were
// given to Write. Those that are BatchOut can be given to Write again as they
// are; those that are BatchUnknown have to be looked for in the table first.
func (r WriteReport) Rows(rows [][]any, state BatchState) [][]any {
	var found [][]any
	for _, b := range r.Batches {
		if b.State == state {
			found = append(found, rows[b.From:b.To]...)
		}
	}
	return found
}

// Write writes rows in batches, one after the other, each in a transaction that RunTx
// runs with opts. It stops at the first batch that is not in; the
// report says what became of each, also when there is an error. Nothing is
// written when the error is ErrConfig.
func (w RowWriter) Write(ctx context.Context, db TxBeginner, rows [][]any, opts ...RetryOption) (WriteReport, error) {
	var report WriteReport
	batches, err := w.split(rows)
	if err != nil {
		return report, err
	}
	report.Batches = batches
	for i := range report.Batches {
		b := &report.Batches[i]
		b.Err = w.writeBatch(ctx, db, rows[b.From:b.To], opts)
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
			return report, fmt.Errorf("dsql: writing rows %d to %d of %d (%s): %w", b.From, b.To-1, len(rows), b.State, b.Err)
		}
	}
	return report, nil
}

func (w RowWriter) writeBatch(ctx context.Context, db TxBeginner, rows [][]any, opts []RetryOption) error {
	if w.Check != nil {
		opts = append(opts[:len(opts):len(opts)], CheckCommit(func(ctx context.Context) (bool, error) { return w.Check(ctx, rows) }))
	}
	return RunTx(ctx, db, func(tx pgx.Tx) error {
		if w.Insert {
			return w.insert(ctx, tx, rows)
		}
		_, err := tx.CopyFrom(ctx, w.Table, w.Columns, pgx.CopyFromRows(rows))
		return err
	}, opts...)
}

func (w RowWriter) insert(ctx context.Context, tx pgx.Tx, rows [][]any) error {
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

func (w RowWriter) insertSQL(rows int) string {
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

// split cuts rows into batches that a transaction may hold.
func (w RowWriter) split(rows [][]any) ([]Batch, error) {
	most := w.BatchRows
	if most == 0 {
		most = defaultBatchRows
	}
	switch {
	case len(w.Table) == 0:
		return nil, configError("RowWriter.Table", "is empty; name the table")
	case len(w.Columns) == 0 || len(w.Columns) > maxParameters:
		return nil, configError("RowWriter.Columns", "has %d names; name 1 to %d columns", len(w.Columns), maxParameters)
	case most < 1 || most > maxTxRows:
		return nil, configError("RowWriter.BatchRows", "is %d; DSQL takes 1 to %d rows a transaction", w.BatchRows, maxTxRows)
	}
	var batches []Batch
	from, bytes := 0, 0
	for i, row := range rows {
		if len(row) != len(w.Columns) {
			return nil, configError("rows", "row %d has %d values for %d columns", i, len(row), len(w.Columns))
		}
		size := rowSize(row)
		if size > maxTxBytes {
			return nil, configError("rows", "row %d has about %d bytes, and DSQL takes %d a transaction; store less in it", i, size, maxTxBytes)
		}
		if i > from && (i-from == most || bytes+size > maxBatchBytes) {
			batches = append(batches, Batch{From: from, To: i})
			from, bytes = i, 0
		}
		bytes += size
	}
	if from < len(rows) {
		batches = append(batches, Batch{From: from, To: len(rows)})
	}
	return batches, nil
}

// rowSize estimates a row's bytes on the wire.
func rowSize(row []any) int {
	size := 16
	for _, value := range row {
		size += 4 + valueSize(value)
	}
	return size
}

func valueSize(value any) int {
	switch v := value.(type) {
	case nil:
		return 0
	case string:
		return len(v)
	case []byte:
		return len(v)
	}
	switch v := reflect.ValueOf(value); v.Kind() {
	case reflect.String:
		return v.Len()
	case reflect.Pointer:
		if v.IsNil() {
			return 0
		}
		return valueSize(v.Elem().Interface())
	case reflect.Map, reflect.Struct, reflect.Slice:
		// As pgx sends what becomes JSON, and longer than it sends most else.
		if text, err := json.Marshal(value); err == nil {
			return len(text)
		}
	}
	return 16
}
