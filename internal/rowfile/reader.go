package rowfile

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxRecord bounds a row in a file. DSQL takes rows of up to 2 MiB (AWS guide, "Quotas"); escapes
// make them longer, and a quote that nobody closes must not take the rest of the file into memory.
const maxRecord = 16 << 20

// A RowError is a row that is no row. The Reader goes on with the next line.
type RowError struct {
	Line   int    // of the file, from 1, where the row begins
	Raw    []byte // of the file, with the line's end
	Reason string
}

func (e *RowError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Reason) }

// A Reader reads rows. It takes away a byte order mark and unpacks gzip.
type Reader struct {
	format  Format
	in      *bufio.Reader
	line    int    // of the next record
	record  []byte // the current one, without its line's end
	raw     []byte
	columns int
}

// NewReader returns a reader of r.
func NewReader(r io.Reader, format Format) (*Reader, error) {
	in := bufio.NewReaderSize(r, 64<<10)
	if magic, _ := in.Peek(2); bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		unpacked, err := gzip.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("gzip: %w", err)
		}
		in = bufio.NewReaderSize(unpacked, 64<<10)
	}
	mark, _ := in.Peek(3)
	switch {
	case bytes.Equal(mark, []byte("\xef\xbb\xbf")):
		_, _ = in.Discard(3)
	case bytes.HasPrefix(mark, []byte("\xff\xfe")), bytes.HasPrefix(mark, []byte("\xfe\xff")):
		return nil, errors.New("the file is UTF-16; convert it, such as with: iconv -f UTF-16 -t UTF-8")
	}
	return &Reader{format: format, in: in, line: 1}, nil
}

// SetColumns sets how many values a row has; another number is a RowError. 0, the default, takes
// any.
func (r *Reader) SetColumns(n int) { r.columns = n }

// Read returns the next row, a string or nil for each value, and the line where it begins. At the
// end of the file the error is io.EOF. After a *RowError, Read may be called again; after any other
// error, not.
func (r *Reader) Read() (values []any, line int, err error) {
	for {
		line = r.line
		if err := r.readRecord(); err != nil {
			return nil, line, err
		}
		if r.format == Text && string(r.record) == `\.` {
			return nil, line, io.EOF
		}
		if len(r.record) > 0 || r.columns == 1 || r.format == Text {
			break
		}
	}
	reason := ""
	switch {
	case !utf8.Valid(r.record):
		reason = "it is not UTF-8; if that is so for the whole file, convert it, such as with: iconv -f LATIN1 -t UTF-8"
	case bytes.IndexByte(r.record, 0) >= 0:
		reason = "it holds a NUL byte, which PostgreSQL's types do not take"
	case r.format == Text:
		values = r.splitText()
	default:
		values, reason = r.splitCSV()
	}
	if reason == "" && r.columns > 0 && len(values) != r.columns {
		reason = fmt.Sprintf("it has %d values for %d columns", len(values), r.columns)
	}
	if reason != "" {
		return nil, line, &RowError{Line: line, Raw: bytes.Clone(r.raw), Reason: reason}
	}
	return values, line, nil
}

// readRecord reads the lines of one row.
func (r *Reader) readRecord() error {
	r.raw = r.raw[:0]
	begin, open := r.line, false
	for {
		from := len(r.raw)
		for {
			chunk, err := r.in.ReadSlice('\n')
			r.raw = append(r.raw, chunk...)
			if len(r.raw) > maxRecord {
				return fmt.Errorf("line %d: the row is longer than %d MiB; is a quote not closed?", begin, maxRecord>>20)
			}
			if err == nil {
				break
			}
			if err == bufio.ErrBufferFull {
				continue
			}
			if err != io.EOF {
				return fmt.Errorf("line %d: %w", r.line, err)
			}
			if len(r.raw) == 0 {
				return io.EOF
			}
			r.record = r.raw
			if open && len(r.raw) == from && r.format != Text {
				return fmt.Errorf("line %d: the file ends within quotes; close them", begin)
			}
			r.record = trimLineEnd(r.raw)
			return nil
		}
		r.line++
		open = r.isOpen(open, r.raw[from:])
		if !open {
			r.record = trimLineEnd(r.raw)
			return nil
		}
	}
}

// isOpen tells whether the row goes on in the next line. open tells whether this line began within
// quotes.
func (r *Reader) isOpen(open bool, line []byte) bool {
	if r.format == Text {
		end := len(line) - 1
		for end > 0 && line[end-1] == '\\' {
			end--
		}
		return (len(line)-1-end)%2 == 1
	}
	if !open && bytes.IndexByte(line, '"') < 0 {
		return false
	}
	// A quote opens at the begin of a field, and closes where no other quote follows.
	atStart := !open
	for i := 0; i < len(line); i++ {
		switch c := line[i]; {
		case open && c == '"':
			if i+1 < len(line) && line[i+1] == '"' {
				i++
			} else {
				open = false
			}
		case open:
		case c == '"' && atStart:
			open, atStart = true, false
		default:
			atStart = c == r.format.delimiter()
		}
	}
	return open
}

func trimLineEnd(line []byte) []byte {
	line = bytes.TrimSuffix(line, []byte("\n"))
	return bytes.TrimSuffix(line, []byte("\r"))
}

// splitCSV returns the values of the record, or the reason why it has none.
func (r *Reader) splitCSV() (values []any, reason string) {
	delimiter, rest := r.format.delimiter(), r.record
	values = make([]any, 0, max(r.columns, 8))
	for {
		if len(rest) == 0 || rest[0] != '"' {
			field, after, more := bytes.Cut(rest, []byte{delimiter})
			if bytes.IndexByte(field, '"') >= 0 && r.format == CSV {
				return nil, fmt.Sprintf("value %d has a quote inside, but no quotes around; write it as \"…\"\"…\"", len(values)+1)
			}
			if len(field) == 0 || string(field) == `\N` {
				values = append(values, nil)
			} else {
				values = append(values, string(field))
			}
			if !more {
				return values, ""
			}
			rest = after
			continue
		}
		text, after, ok := cutQuoted(rest[1:])
		if !ok {
			return nil, fmt.Sprintf("the quotes of value %d are not closed", len(values)+1)
		}
		values = append(values, string(text))
		switch {
		case len(after) == 0:
			return values, ""
		case after[0] != delimiter:
			return nil, fmt.Sprintf("value %d goes on behind its closing quote; write quotes inside as \"\"", len(values))
		}
		rest = after[1:]
	}
}

// cutQuoted returns the text up to the closing quote, and what follows that.
func cutQuoted(s []byte) (text, after []byte, ok bool) {
	end := bytes.IndexByte(s, '"')
	if end >= 0 && (end+1 == len(s) || s[end+1] != '"') {
		return s[:end], s[end+1:], true // as most are
	}
	for end >= 0 {
		text = append(text, s[:end]...)
		s = s[end+1:]
		if len(s) == 0 || s[0] != '"' {
			return text, s, true
		}
		text = append(text, '"')
		s = s[1:]
		end = bytes.IndexByte(s, '"')
	}
	return nil, nil, false
}

// splitText returns the values of a record in the format of COPY.
func (r *Reader) splitText() []any {
	values := make([]any, 0, max(r.columns, 8))
	var text []byte
	rest := r.record
	begin := 0
	for i := 0; ; i++ {
		switch {
		case i >= len(rest) || rest[i] == '\t':
			field := rest[begin:min(i, len(rest))]
			if string(field) == `\N` {
				values = append(values, nil)
			} else {
				text = unescape(text[:0], field)
				values = append(values, string(text))
			}
			if i >= len(rest) {
				return values
			}
			begin = i + 1
		case rest[i] == '\\':
			i++ // also before a tab, which is the value's then
		}
	}
}

// unescape appends field without its backslash escapes (PostgreSQL docs, "COPY", "Text Format").
func unescape(text, field []byte) []byte {
	for {
		i := bytes.IndexByte(field, '\\')
		if i < 0 || i+1 == len(field) {
			return append(text, field...)
		}
		text = append(text, field[:i]...)
		c := field[i+1]
		field = field[i+2:]
		switch {
		case c >= '0' && c <= '7':
			n := c - '0'
			for digits := 1; digits < 3 && len(field) > 0 && field[0] >= '0' && field[0] <= '7'; digits++ {
				n, field = n<<3|(field[0]-'0'), field[1:]
			}
			c = n
		case c == 'x' && len(field) > 0 && hexDigit(field[0]) >= 0:
			n := 0
			for digits := 0; digits < 2 && len(field) > 0 && hexDigit(field[0]) >= 0; digits++ {
				n, field = n<<4|hexDigit(field[0]), field[1:]
			}
			c = byte(n)
		default:
			if to := bytes.IndexByte([]byte("bfnrtv"), c); to >= 0 {
				c = "\b\f\n\r\t\v"[to]
			}
		}
		text = append(text, c)
	}
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	}
	return -1
}
