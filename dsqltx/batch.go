package dsqltx

import (
	"encoding/json"
	"fmt"
	"reflect"
)

const (
	// The most that a transaction may change (AWS guide, "Quotas").
	maxTxRows  = 3000
	maxTxBytes = 10 << 20

	// A third of the quota, because a batch that has to run again costs all of its time.
	defaultBatchRows = 1000

	// Sizes are estimated before encoding, and messages have headers.
	maxBatchBytes = maxTxBytes * 3 / 4

	// The most parameters that a statement can have: a 16-bit count (PostgreSQL docs, "Message
	// Formats", Bind).
	maxParameters = 65535
)

// A BatchState says what became of a batch.
type BatchState int

const (
	BatchOut     BatchState = iota // not applied
	BatchIn                        // applied, once
	BatchUnknown                   // applied or not: the connection was lost while committing
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

// A Batch is the rows[From:To] of a Write.
type Batch struct {
	From, To int
	State    BatchState
	Err      error // why it is not in the table; nil for batches that Write did not begin
}

// A Report says which rows are in the table.
type Report struct {
	Batches []Batch // all of them, in order
}

// Rows returns the rows whose batches are in state; rows are those that were given to Write. Rows that
// are BatchOut can be written again. For rows that are BatchUnknown, look into the table first.
func (r Report) Rows(rows [][]any, state BatchState) [][]any {
	var found [][]any
	for _, b := range r.Batches {
		if b.State == state {
			found = append(found, rows[b.From:b.To]...)
		}
	}
	return found
}

// split checks the Writer and rows, and divides rows into batches that a transaction may hold.
func (w Writer) split(rows [][]any) ([]Batch, error) {
	if err := w.validate(); err != nil {
		return nil, err
	}
	limit := w.BatchRows
	if limit == 0 {
		limit = defaultBatchRows
	}
	var batches []Batch
	from, bytes := 0, 0
	for i, row := range rows {
		if len(row) != len(w.Columns) {
			return nil, fmt.Errorf("dsqltx: row %d has %d values for %d columns", i, len(row), len(w.Columns))
		}
		size := rowSize(row)
		if size > maxTxBytes {
			return nil, fmt.Errorf("dsqltx: row %d has about %d bytes, and DSQL takes %d a transaction; store less in it", i, size, maxTxBytes)
		}
		if i > from && (i-from == limit || bytes+size > maxBatchBytes) {
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
		// pgx sends such a value as JSON, or as something shorter.
		if text, err := json.Marshal(value); err == nil {
			return len(text)
		}
	}
	return 16
}
