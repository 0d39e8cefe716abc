package dsqltx

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
)

func TestWriterSplit(t *testing.T) {
	w := Writer{Table: pgx.Identifier{"t"}, Columns: []string{"id", "text"}}
	rows := make([][]any, 2500)
	for i := range rows {
		rows[i] = []any{i, "x"}
	}
	sizes := func(w Writer, rows [][]any) (sizes []int) {
		batches, err := w.split(rows)
		require.NoError(t, err)
		next := 0
		for _, b := range batches {
			require.Equal(t, next, b.From)
			require.Equal(t, BatchOut, b.State)
			next = b.To
			sizes = append(sizes, b.To-b.From)
		}
		require.Equal(t, len(rows), next, "every row is in one batch")
		return sizes
	}
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
}

func TestReportRows(t *testing.T) {
	rows := [][]any{{0}, {1}, {2}, {3}, {4}}
	r := Report{Batches: []Batch{{From: 0, To: 2, State: BatchIn}, {From: 2, To: 3, State: BatchUnknown}, {From: 3, To: 4}, {From: 4, To: 5}}}
	require.Equal(t, rows[0:2], r.Rows(rows, BatchIn))
	require.Equal(t, rows[2:3], r.Rows(rows, BatchUnknown))
	require.Equal(t, rows[3:5], r.Rows(rows, BatchOut))
}
