package dsqltx

import (
	"context"
	"encoding/json"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// fakeDB takes rows as a table would that keeps no order. fault may fail a COPY.
type fakeDB struct {
	mu      sync.Mutex
	batches []int // sizes
	rows    map[any]int
	fault   func(rows [][]any) error
}

type fakeTx struct {
	pgx.Tx
	db   *fakeDB
	rows [][]any
}

func (db *fakeDB) BeginTx(context.Context, pgx.TxOptions) (pgx.Tx, error) {
	return &fakeTx{db: db}, nil
}
func (*fakeTx) Conn() *pgx.Conn                { return nil }
func (*fakeTx) Rollback(context.Context) error { return nil }

func (tx *fakeTx) CopyFrom(_ context.Context, _ pgx.Identifier, _ []string, source pgx.CopyFromSource) (int64, error) {
	for source.Next() {
		values, err := source.Values()
		if err != nil {
			return 0, err
		}
		tx.rows = append(tx.rows, values)
	}
	if tx.db.fault != nil {
		return 0, tx.db.fault(tx.rows)
	}
	return 0, nil
}

func (tx *fakeTx) Commit(context.Context) error {
	tx.db.mu.Lock()
	defer tx.db.mu.Unlock()
	if tx.db.rows == nil {
		tx.db.rows = map[any]int{}
	}
	tx.db.batches = append(tx.db.batches, len(tx.rows))
	for _, row := range tx.rows {
		tx.db.rows[row[0]]++
	}
	return nil
}

func numbered(n int) [][]any {
	rows := make([][]any, n)
	for i := range rows {
		rows[i] = []any{i, "x"}
	}
	return rows
}

func TestWriterBatches(t *testing.T) {
	w := Writer{Table: pgx.Identifier{"t"}, Columns: []string{"id", "text"}}
	sizes := func(w Writer, rows [][]any) []int {
		db := &fakeDB{}
		report, err := w.Write(t.Context(), db, rows)
		require.NoError(t, err)
		require.Equal(t, len(rows), report.Count(BatchIn))
		return db.batches
	}
	rows := numbered(2500)
	require.Equal(t, []int{1000, 1000, 500}, sizes(w, rows))
	w.BatchRows = 3000
	require.Equal(t, []int{2500}, sizes(w, rows))
	w.BatchRows = 1
	require.Equal(t, []int{1, 1}, sizes(w, rows[:2]))
	require.Empty(t, sizes(w, nil))

	// Large rows make small batches, whatever holds their bytes.
	w.BatchRows = 3000
	long := strings.Repeat("x", 3<<20)
	for name, value := range map[string]any{"string": long, "bytes": []byte(long), "pointer": &long, "named": pgx.QueryExecMode(0), "map": map[string]string{"k": long}, "slice": []string{long}} {
		row := []any{1, value}
		want := []int{2, 2, 1}
		if name == "named" {
			want = []int{5}
		}
		require.Equal(t, want, sizes(w, [][]any{row, row, row, row, row}), name)
	}
}

// The server finds a batch too large once, and the others are smaller from the start.
func TestWriterLearnsSize(t *testing.T) {
	limit, refused := 300, 0
	db := &fakeDB{fault: func(rows [][]any) error {
		if len(rows) > limit {
			refused++
			return &pgconn.PgError{Code: "54000", Message: "transaction size limit 10mb exceeded"}
		}
		return nil
	}}
	w := Writer{Table: pgx.Identifier{"t"}, Columns: []string{"id", "text"}}
	report, err := w.Write(t.Context(), db, numbered(10_000))
	require.NoError(t, err)
	require.Equal(t, Report{Batches: []Batch{{To: 10_000, State: BatchIn}}}, report)
	require.Equal(t, 2, refused, "1,000 rows and 500")
	require.Len(t, db.rows, 10_000)

	limit = 0 // a single row
	report, err = w.Write(t.Context(), db, numbered(4))
	require.ErrorContains(t, err, "writing rows 0 to 0 (out)")
	require.Equal(t, 4, report.Count(BatchOut))
}

// A batch that keeps losing is split, and its rows are written once.
func TestWriterSplitsLosers(t *testing.T) {
	conflicts := 0
	db := &fakeDB{fault: func(rows [][]any) error {
		if len(rows) > 10 && rows[0][0] == 0 {
			conflicts++
			return &pgconn.PgError{Code: "40001", Message: "change conflicts with another transaction (OC000)"}
		}
		return nil
	}}
	w := Writer{Table: pgx.Identifier{"t"}, Columns: []string{"id", "text"}, BatchRows: 40}
	_, err := w.Write(t.Context(), db, numbered(80))
	require.NoError(t, err)
	require.Equal(t, []int{10, 10, 20, 40}, db.batches)
	require.Equal(t, 2*splitAfter, conflicts)
}

// The report says what is in, wherever a load panics or stops, with many workers.
func TestWriterReportIsExact(t *testing.T) {
	for _, at := range []string{"rows", "rows error", "OnBatch", "Checkpoint", "copy", "copy error", "Checkpoint error", "ctx", "goexit"} {
		t.Run(at, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			var last Report
			batches, checkpoints := 0, 0
			db := &fakeDB{}
			db.fault = func(rows [][]any) error {
				if rows[0][0] != 300 {
					return nil
				}
				switch at {
				case "copy":
					panic("copy")
				case "copy error":
					return errors.New("copy error")
				case "ctx":
					cancel()
					return ctx.Err()
				}
				return nil
			}
			w := Writer{Table: pgx.Identifier{"t"}, Columns: []string{"id", "text"}, BatchRows: 10, Workers: 4,
				OnBatch: func(Batch) {
					if batches++; batches == 30 && at == "OnBatch" {
						panic("OnBatch")
					} else if batches == 30 && at == "goexit" {
						runtime.Goexit()
					}
				},
				Checkpoint: func(r Report) error {
					if checkpoints++; checkpoints == 30 && at == "Checkpoint" {
						panic("Checkpoint")
					} else if checkpoints == 30 && at == "Checkpoint error" {
						return errors.New("Checkpoint error")
					}
					last = r
					return nil
				}}
			panics := at == "rows" || at == "OnBatch" || at == "Checkpoint" || at == "copy"
			var report Report
			var err error
			func() {
				defer func() {
					if panics {
						require.Equal(t, at, recover())
					}
				}()
				report, err = w.WriteSeq(ctx, db, func(yield func([]any, error) bool) {
					for i, row := range numbered(1000) {
						if i == 305 && at == "rows" {
							panic("rows")
						}
						if i == 305 && at == "rows error" {
							yield(nil, errors.New("rows error"))
							return
						}
						if !yield(row, nil) {
							return
						}
					}
				})
				if at == "goexit" {
					require.ErrorContains(t, err, "panicked")
				} else if at == "ctx" {
					require.ErrorIs(t, err, context.Canceled)
				} else {
					require.ErrorContains(t, err, at)
				}
			}()
			if !panics {
				require.Equal(t, ranges(report), ranges(last))
			}
			require.Zero(t, last.Count(BatchUnknown))
			require.Len(t, db.rows, last.Count(BatchIn))
			require.Positive(t, last.Count(BatchIn))
			require.Less(t, last.Count(BatchIn), 1000)
			for _, row := range last.Rows(numbered(1000), BatchIn) {
				require.Equal(t, 1, db.rows[row[0]])
			}

			// Going on from there writes the rest, once.
			db.fault = nil
			w.OnBatch, w.Checkpoint, w.Resume = nil, nil, last
			report, err = w.Write(t.Context(), db, numbered(1000))
			require.NoError(t, err)
			require.Equal(t, Report{Batches: []Batch{{To: 1000, State: BatchIn}}}, report)
			require.Len(t, db.rows, 1000)
			for id, n := range db.rows {
				require.Equal(t, 1, n, id)
			}
		})
	}
}

func ranges(r Report) string {
	text, _ := json.Marshal(r)
	return string(text)
}

// What an earlier run left unknown is looked for in the same ranges, and stays unknown without means.
func TestWriterResume(t *testing.T) {
	var earlier Report
	require.NoError(t, json.Unmarshal([]byte(`{"unknown":[[10,20],[20,25],[40,50]],"in":[[0,10],[30,40]],"rejected":[[25,26]],"out":[[26,30]]}`), &earlier))
	w := Writer{Table: pgx.Identifier{"t"}, Columns: []string{"id", "text"}, BatchRows: 7, Resume: earlier}
	var looked [][2]any
	w.Check = func(_ context.Context, rows [][]any) (bool, error) {
		looked = append(looked, [2]any{rows[0][0], rows[len(rows)-1][0]})
		if rows[0][0] == 40 {
			return false, errors.New("cannot look")
		}
		return rows[0][0] == 10, nil
	}
	db := &fakeDB{}
	report, err := w.Write(t.Context(), db, numbered(60))
	require.ErrorIs(t, err, ErrCommitUnknown)
	require.ErrorContains(t, err, "writing rows 40 to 49 (unknown)")
	require.Equal(t, [][2]any{{10, 19}, {20, 24}, {40, 49}}, looked)
	require.Equal(t, []int{5, 4}, db.batches)
	require.Equal(t, `{"in":[[0,25],[26,40]],"out":[[50,60]],"rejected":[[25,26]],"unknown":[[40,50]]}`, ranges(report))

	_, err = w.Write(t.Context(), db, numbered(45))
	require.ErrorContains(t, err, "there are 45 rows, and Writer.Resume has 50")

	w.Check = nil
	report, err = w.Write(t.Context(), db, numbered(60))
	require.ErrorContains(t, err, "neither Key nor Check")
	require.Equal(t, 25, report.Count(BatchUnknown))
	w.Runner.Idempotent = true
	report, err = w.Write(t.Context(), db, numbered(60))
	require.NoError(t, err)
	require.Equal(t, 59, report.Count(BatchIn))
}

func TestReportJSON(t *testing.T) {
	for text, says := range map[string]string{
		`{"in":[[0,5],[3,8]]}`:              "overlap",
		`{"in":[[5,5]]}`:                    "5 to 5 is not a range",
		`{"in":[[-1,5]]}`:                   "-1 to 5 is not a range",
		`{"in":[[0,1,2]]}`:                  "a range has two numbers",
		`{"lost":[[0,1]]}`:                  `"lost" is not a state`,
		`{"unknown":[[0,3001]]}`:            "more than a transaction can have written",
		`{"in":[[0,99999999999999999999]]}`: "cannot unmarshal",
		`[]`:                                "cannot unmarshal",
	} {
		r := Report{Batches: []Batch{{To: 1}}}
		require.ErrorContains(t, json.Unmarshal([]byte(text), &r), says, text)
		require.Equal(t, 1, r.end(), "it stays as it was")
	}
}

func FuzzReportJSON(f *testing.F) {
	f.Add([]byte(`{"in":[[0,5],[5,8]],"unknown":[[8,10]]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var r, again Report
		if json.Unmarshal(text, &r) != nil {
			return
		}
		require.NoError(t, r.validate())
		out, err := json.Marshal(r)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(out, &again))
		require.Equal(t, r.Batches, again.Batches)
	})
}

// set does what an array of states would do.
func FuzzReportSet(f *testing.F) {
	f.Add([]byte{0, 5, 1, 3, 9, 2, 4, 4, 0})
	f.Fuzz(func(t *testing.T, changes []byte) {
		var r Report
		var want [64]int
		for ; len(changes) >= 3; changes = changes[3:] {
			from, state := int(changes[0]%60), BatchState(changes[2]%4)
			to := from + 1 + int(changes[1])%(64-from)
			r.set(Batch{From: from, To: to, State: state})
			for i := from; i < to; i++ {
				want[i] = int(state) + 1
			}
			require.NoError(t, r.validate())
		}
		var got [64]int
		for _, b := range r.Batches {
			for i := b.From; i < b.To; i++ {
				got[i] = int(b.State) + 1
			}
		}
		require.Equal(t, want, got)
	})
}

func TestWriterErrors(t *testing.T) {
	good := Writer{Table: pgx.Identifier{"t"}, Columns: []string{"id", "text"}}
	row := []any{1, "x"}
	for says, test := range map[string]struct {
		change func(*Writer)
		rows   [][]any
	}{
		"Writer.Table is empty":         {func(w *Writer) { w.Table = nil }, nil},
		"Writer.Columns has 0":          {func(w *Writer) { w.Columns = nil }, nil},
		"Writer.BatchRows is 3001":      {func(w *Writer) { w.BatchRows = 3001 }, nil},
		"Writer.BatchRows is -1":        {func(w *Writer) { w.BatchRows = -1 }, nil},
		"Writer.Workers is -1":          {func(w *Writer) { w.Workers = -1 }, nil},
		`Writer.Key has "no"`:           {func(w *Writer) { w.Key = []string{"id", "no"} }, nil},
		"Writer.Resume: 5 to 5":         {func(w *Writer) { w.Resume.Batches = []Batch{{From: 5, To: 5}} }, nil},
		"Writer.Text takes strings":     {func(w *Writer) { w.Text = true }, [][]any{row}},
		"row 1 has 1 values for 2":      {func(*Writer) {}, [][]any{row, {1}}},
		"row 1 has about 11534360 byte": {func(*Writer) {}, [][]any{row, {nil, strings.Repeat("x", 11<<20)}}},
	} {
		w := good
		test.change(&w)
		// A nil beginner: nothing is begun when a row is bad.
		report, err := w.Write(t.Context(), nil, test.rows)
		require.ErrorContains(t, err, says)
		require.Empty(t, report.Batches)
	}
}

func TestWriterSQL(t *testing.T) {
	w := Writer{Table: pgx.Identifier{"s", `t"x`}, Columns: []string{"id", "Text"}}
	require.Equal(t, `insert into "s"."t""x" ("id", "Text") values ($1, $2), ($3, $4)`, w.insertSQL(2))
	w.SkipExisting = true
	require.True(t, strings.HasSuffix(w.insertSQL(1), " values ($1, $2) on conflict do nothing"))
	w.Key = []string{"Text", "id"}
	query, args := w.keyQuery([][]any{{1, "a"}, {2, "b"}})
	require.Equal(t, `select count(*) from "s"."t""x" where ("Text", "id") in (($1, $2), ($3, $4))`, query)
	require.Equal(t, []any{"a", 1, "b", 2}, args)
}

func TestReportRows(t *testing.T) {
	rows := [][]any{{0}, {1}, {2}, {3}, {4}}
	r := Report{Batches: []Batch{{From: 0, To: 2, State: BatchIn}, {From: 2, To: 3, State: BatchUnknown}, {From: 3, To: 4}, {From: 4, To: 5}}}
	require.Equal(t, rows[0:2], r.Rows(rows, BatchIn))
	require.Equal(t, rows[2:3], r.Rows(rows, BatchUnknown))
	require.Equal(t, rows[3:5], r.Rows(rows, BatchOut))
}
