// Package rowfile reads and writes rows of text values in files: CSV, TSV, and the text format of
// PostgreSQL's COPY.
package rowfile

import (
	"fmt"
	"path/filepath"
	"strings"
)

// A Format says how a file separates values, and how it writes NULL.
type Format string

const (
	CSV  Format = "csv"  // RFC 4180. A field without quotes that is empty or \N is NULL
	TSV  Format = "tsv"  // like CSV, with tabs between the fields
	Text Format = "text" // of PostgreSQL's COPY: tabs, backslash escapes, \N
)

// ParseFormat reads a format's name.
func ParseFormat(name string) (Format, error) {
	switch f := Format(name); f {
	case CSV, TSV, Text:
		return f, nil
	}
	return "", fmt.Errorf("%q is not a format; there are csv, tsv and text", name)
}

// FormatOf guesses a file's format by its name: TSV for .tsv and .tab, else CSV. A final .gz does
// not count.
func FormatOf(name string) Format {
	switch strings.ToLower(filepath.Ext(strings.TrimSuffix(strings.ToLower(name), ".gz"))) {
	case ".tsv", ".tab":
		return TSV
	}
	return CSV
}

func (f Format) delimiter() byte {
	if f == CSV {
		return ','
	}
	return '\t'
}

// Append appends a row as a line, so that a Reader of the format reads the same values. A value is
// a string, or nil for NULL.
func (f Format) Append(line []byte, values []any) []byte {
	for i, value := range values {
		if i > 0 {
			line = append(line, f.delimiter())
		}
		text, ok := value.(string)
		switch {
		case f == Text && !ok:
			line = append(line, `\N`...)
		case f == Text:
			line = append(line, textEscapes.Replace(text)...)
		case ok && (text == "" || text == `\N` || strings.ContainsAny(text, "\",\t\r\n") || len(values) == 1):
			line = append(append(append(line, '"'), strings.ReplaceAll(text, `"`, `""`)...), '"')
		case ok:
			line = append(line, text...)
		case len(values) == 1: // an empty line may be skipped
			line = append(line, `\N`...)
		}
	}
	return append(line, '\n')
}

var textEscapes = strings.NewReplacer(`\`, `\\`, "\t", `\t`, "\n", `\n`, "\r", `\r`)
