package rowfile

import (
	"bytes"
	"compress/gzip"
	"encoding/csv"
	"errors"
	"io"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func readAll(t testing.TB, format Format, columns int, text string) (rows [][]any, lines []int, bad []RowError, err error) {
	r, err := NewReader(strings.NewReader(text), format)
	if err != nil {
		return nil, nil, nil, err
	}
	r.SetColumns(columns)
	for {
		values, line, err := r.Read()
		var rowErr *RowError
		switch {
		case err == io.EOF:
			return rows, lines, bad, nil
		case errors.As(err, &rowErr):
			require.Equal(t, line, rowErr.Line)
			bad = append(bad, *rowErr)
		case err != nil:
			return rows, lines, bad, err
		default:
			rows, lines = append(rows, values), append(lines, line)
		}
	}
}

func TestRead(t *testing.T) {
	for name, test := range map[string]struct {
		format Format
		text   string
		rows   [][]any
		lines  []int
	}{
		"CSV":             {CSV, "1,a\n2,b", [][]any{{"1", "a"}, {"2", "b"}}, []int{1, 2}},
		"CRLF":            {CSV, "1,a\r\n2,b\r\n", [][]any{{"1", "a"}, {"2", "b"}}, []int{1, 2}},
		"BOM":             {CSV, "\xef\xbb\xbf1,ä\n", [][]any{{"1", "ä"}}, []int{1}},
		"NULL and empty":  {CSV, ",\"\"\n\\N,\"\\N\"\n", [][]any{{nil, ""}, {nil, `\N`}}, []int{1, 2}},
		"quotes":          {CSV, `"say ""hi""","a,b"` + "\n", [][]any{{`say "hi"`, "a,b"}}, []int{1}},
		"lines in values": {CSV, "\"a\nb\r\nc\",1\n\nd,2\n", [][]any{{"a\nb\r\nc", "1"}, {"d", "2"}}, []int{1, 5}},
		"quoted quote":    {CSV, "\"\"\"\n\"\"\",1\n", [][]any{{"\"\n\"", "1"}}, []int{1}},
		"TSV":             {TSV, "1\t5\" disk\n2\t\"a\tb\"\n", [][]any{{"1", `5" disk`}, {"2", "a\tb"}}, []int{1, 2}},
		"text":            {Text, "1\t\\N\n\ta\\tb\\\\N\\x41\\101\\q\\\n.\n\\.\nx\ty\n", [][]any{{"1", nil}, {"", "a\tb\\NAAq\n."}}, []int{1, 2}},
		"no rows":         {CSV, "", nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			rows, lines, bad, err := readAll(t, test.format, 2, test.text)
			require.NoError(t, err)
			require.Empty(t, bad)
			require.Equal(t, test.rows, rows)
			require.Equal(t, test.lines, lines)
		})
	}
	rows, _, _, err := readAll(t, CSV, 1, "a\n\n\"\"\n")
	require.NoError(t, err)
	require.Equal(t, [][]any{{"a"}, {nil}, {""}}, rows, "of one column, an empty line is a NULL")
}

// A bad row has its line and a reason, and the rows behind it are read.
func TestReadBadRows(t *testing.T) {
	for text, reason := range map[string]string{
		"1,2,3\n":      "it has 3 values for 2 columns",
		"1\n":          "it has 1 values for 2 columns",
		"a\"b,c\n":     "value 1 has a quote inside",
		"\"a\"b,c\n":   "value 1 goes on behind its closing quote",
		"caf\xe9,1\n":  "it is not UTF-8",
		"a\x00b,1\r\n": "it holds a NUL byte",
	} {
		rows, lines, bad, err := readAll(t, CSV, 2, "\"x\ny\",1\n"+text+"z,2\n")
		require.NoError(t, err)
		require.Equal(t, [][]any{{"x\ny", "1"}, {"z", "2"}}, rows, text)
		require.Equal(t, []int{1, 4}, lines)
		require.Len(t, bad, 1)
		require.Equal(t, 3, bad[0].Line)
		require.Contains(t, bad[0].Reason, reason)
		require.Equal(t, text, string(bad[0].Raw))
	}
	_, _, _, err := readAll(t, CSV, 2, "1,2\n3,\"a\nb,c\n")
	require.ErrorContains(t, err, "line 2: the file ends within quotes")
	_, _, _, err = readAll(t, CSV, 2, "1,2\n3,\""+strings.Repeat(strings.Repeat("x", 1023)+"\n", maxRecord/1024))
	require.ErrorContains(t, err, "line 2: the row is longer than 16 MiB; is a quote not closed?")
	_, _, _, err = readAll(t, CSV, 2, "\xff\xfe1\x00")
	require.ErrorContains(t, err, "UTF-16")
}

func TestReadGzip(t *testing.T) {
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	_, err := w.Write([]byte("\xef\xbb\xbf1,a\n2,b\n"))
	require.NoError(t, err)
	require.NoError(t, w.Close())
	rows, _, _, err := readAll(t, CSV, 2, packed.String())
	require.NoError(t, err)
	require.Equal(t, [][]any{{"1", "a"}, {"2", "b"}}, rows)

	_, _, _, err = readAll(t, CSV, 2, packed.String()[:packed.Len()-9])
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
}

func TestFormatOf(t *testing.T) {
	for name, want := range map[string]Format{"a.csv": CSV, "a.TSV.gz": TSV, "a.tab": TSV, "a": CSV, "tsv": CSV, "a.csv.gz": CSV} {
		require.Equal(t, want, FormatOf(name), name)
	}
	_, err := ParseFormat("xls")
	require.ErrorContains(t, err, `"xls" is not a format`)
}

// Rows that encoding/csv reads are the same rows here, and the other way round.
func FuzzReadCSV(f *testing.F) {
	for _, text := range []string{"a,b\n1,2\n", "\"a\"\"\nb\",\n", "a\"b,c\n", "\"a\"b\n", ",\"\"\n\n\"x", "\"\n"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		if strings.ContainsAny(text, "\r\x00") || strings.HasPrefix(text, "\x1f\x8b") || strings.HasPrefix(text, "\xef\xbb\xbf") {
			return // which encoding/csv takes otherwise
		}
		rows, _, bad, err := readAll(t, CSV, 0, text)
		theirs := csv.NewReader(strings.NewReader(text))
		theirs.FieldsPerRecord = -1
		want, wantErr := theirs.ReadAll()
		if strings.ToValidUTF8(text, "") != text || strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
			return
		}
		require.Equal(t, wantErr == nil, err == nil && len(bad) == 0, "%v, and encoding/csv: %v", err, wantErr)
		if wantErr != nil {
			return
		}
		require.Len(t, rows, len(want))
		for i := range rows {
			require.Len(t, rows[i], len(want[i]))
			for j, value := range rows[i] {
				if text, ok := value.(string); ok {
					require.Equal(t, want[i][j], text)
				} else {
					require.Contains(t, []string{"", `\N`}, want[i][j])
				}
			}
		}
	})
}

// What Append writes is read as it was, in every format.
func FuzzAppend(f *testing.F) {
	f.Add("a", "\\N", true)
	f.Add("\"\n\r\t\\", ",", false)
	f.Add("\\.", "", false)
	f.Fuzz(func(t *testing.T, a, b string, null bool) {
		if !utf8.ValidString(a) || !utf8.ValidString(b) || strings.Contains(a+b, "\x00") {
			return
		}
		for _, format := range []Format{CSV, TSV, Text} {
			row := []any{a, b, nil}
			if null {
				row = []any{nil, a, b}
			}
			text := format.Append(format.Append([]byte("x"+string(format.delimiter())+"y"+string(format.delimiter())+"z\n"), row), row)
			rows, _, bad, err := readAll(t, format, 3, string(text))
			require.NoError(t, err)
			require.Empty(t, bad)
			require.Equal(t, [][]any{{"x", "y", "z"}, row, row}, rows, "%s", text)
		}
		rows, _, _, err := readAll(t, CSV, 1, "x\n"+string(CSV.Append(CSV.Append(nil, []any{a}), []any{nil})))
		require.NoError(t, err)
		require.Equal(t, [][]any{{"x"}, {a}, {nil}}, rows)
	})
}
