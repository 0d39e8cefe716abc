package dsqltx

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

var errNoConn = errors.New("dsqltx: the transaction has no connection")

// insertOrCopy writes rows in tx.
func (w Writer) insertOrCopy(ctx context.Context, tx pgx.Tx, rows [][]any) error {
	switch {
	case w.Insert || w.SkipExisting:
		return w.insert(ctx, tx, rows)
	case w.Text:
		conn := tx.Conn()
		if conn == nil {
			return errNoConn
		}
		_, err := conn.PgConn().CopyFrom(ctx, &copyText{rows: rows}, "copy "+w.Table.Sanitize()+" ("+columnList(w.Columns)+") from stdin")
		return err
	}
	_, err := tx.CopyFrom(ctx, w.Table, w.Columns, pgx.CopyFromRows(rows))
	return err
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
	b.WriteString("insert into " + w.Table.Sanitize() + " (" + columnList(w.Columns) + ") values ")
	writeTuples(&b, rows, len(w.Columns))
	if w.SkipExisting {
		b.WriteString(" on conflict do nothing")
	}
	return b.String()
}

// columnList quotes names.
func columnList(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = pgx.Identifier{name}.Sanitize()
	}
	return strings.Join(quoted, ", ")
}

// writeTuples writes parameters as ($1, $2), ($3, $4).
func writeTuples(b *strings.Builder, rows, columns int) {
	for i := range rows {
		for j := range columns {
			switch {
			case j > 0:
				b.WriteString(", ")
			case i > 0:
				b.WriteString("), (")
			default:
				b.WriteString("(")
			}
			b.WriteString("$" + strconv.Itoa(i*columns+j+1))
		}
	}
	b.WriteString(")")
}

// copyText reads rows of strings and nil as the text format of COPY (PostgreSQL docs, "COPY").
type copyText struct {
	rows [][]any
	line []byte // what is left of the last row that was encoded
	buf  []byte
}

func (c *copyText) Read(p []byte) (n int, err error) {
	for n < len(p) {
		if len(c.line) == 0 {
			if len(c.rows) == 0 {
				break
			}
			c.buf = appendCopyText(c.buf[:0], c.rows[0])
			c.line, c.rows = c.buf, c.rows[1:]
		}
		copied := copy(p[n:], c.line)
		n, c.line = n+copied, c.line[copied:]
	}
	if n == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	return n, nil
}

func appendCopyText(line []byte, row []any) []byte {
	for i, value := range row {
		if i > 0 {
			line = append(line, '\t')
		}
		text, ok := value.(string)
		if !ok {
			line = append(line, `\N`...)
			continue
		}
		for {
			special := strings.IndexAny(text, "\\\t\n\r")
			if special < 0 {
				break
			}
			line = append(line, text[:special]...)
			switch text[special] {
			case '\t':
				line = append(line, `\t`...)
			case '\n':
				line = append(line, `\n`...)
			case '\r':
				line = append(line, `\r`...)
			default:
				line = append(line, `\\`...)
			}
			text = text[special+1:]
		}
		line = append(line, text...)
	}
	return append(line, '\n')
}
