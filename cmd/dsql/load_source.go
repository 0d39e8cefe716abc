package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/dsqlgo/dsql/internal/rowfile"
)

var errInterrupted = errors.New("interrupted")

// openSource opens the files, or the table to copy, and finds out the columns.
func (l *tableLoad) openSource(ctx context.Context, table tableInfo) error {
	o := l.options
	l.files = &rowfile.Files{Names: o.files, Format: o.format, Columns: o.columns, BadRow: l.badRow}
	l.sources, l.closeSource = o.files, l.files.Close
	if o.from != "" {
		return l.openTable(ctx, table)
	}
	l.files.Stdin = interruptible(ctx, l.stdin)
	if err := l.files.Open(); err != nil {
		return err
	}
	if l.total = l.files.Size(); l.total > 0 {
		l.part = func() float64 { return float64(l.files.BytesRead()) / float64(l.total) }
	}
	return nil
}

// interruptible returns a reader that ends with ctx, even while r has nothing to read.
func interruptible(ctx context.Context, r io.Reader) io.Reader {
	read, write := io.Pipe()
	context.AfterFunc(ctx, func() { write.CloseWithError(errInterrupted) })
	go func() {
		_, err := io.Copy(write, r)
		write.CloseWithError(err)
	}()
	return read
}

// openTable copies a table out of PostgreSQL, as one snapshot has it, in the order of its primary
// key.
func (l *tableLoad) openTable(ctx context.Context, table tableInfo) error {
	o := l.options
	conn, err := pgx.Connect(ctx, o.from)
	if err != nil {
		return fmt.Errorf("--from: %w", err)
	}
	copying, cancel := context.WithCancel(ctx)
	l.closeSource = func() {
		cancel()
		_ = conn.Close(context.Background())
	}
	if err := l.beginCopy(ctx, copying, conn, table); err != nil {
		l.closeSource()
		return fmt.Errorf("--from: %w", err)
	}
	return nil
}

func (l *tableLoad) beginCopy(ctx, copying context.Context, conn *pgx.Conn, table tableInfo) error {
	source, err := lookupTable(ctx, conn, l.options.fromTable)
	if err != nil {
		return err
	}
	columns := l.options.columns
	if columns == nil {
		columns = source.columns
	}
	if err := source.checkColumns(columns); err != nil {
		return err
	}
	if l.options.resume != "" && source.key == nil {
		return fmt.Errorf("%s has no primary key, so a later run cannot find its place; leave out --resume", l.options.fromTable)
	}
	if _, err := conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}); err != nil {
		return err
	}
	var estimate float64
	if err := conn.QueryRow(ctx, "select greatest(reltuples, 0)::float8 from pg_class where oid = $1::text::regclass", source.name.Sanitize()).Scan(&estimate); err != nil {
		return err
	}
	if estimate > 0 {
		l.part = func() float64 { return min(float64(l.rowsRead.Load())/estimate, 0.999) }
	}
	query := "select " + quoteNames(columns) + " from " + source.name.Sanitize()
	if source.key != nil {
		query += " order by " + quoteNames(source.key)
	}
	read, write := io.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, err := conn.PgConn().CopyTo(copying, write, "copy ("+query+") to stdout")
		if ctx.Err() != nil {
			err = errInterrupted
		}
		write.CloseWithError(err)
	}()
	end := l.closeSource
	l.closeSource = func() {
		read.CloseWithError(errInterrupted)
		<-done
		end()
	}
	l.sources = []string{l.options.fromTable}
	l.files.Names, l.files.Stdin, l.files.Format, l.files.Columns = []string{"-"}, read, rowfile.Text, columns
	return l.files.Open()
}

func quoteNames(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = pgx.Identifier{name}.Sanitize()
	}
	return strings.Join(quoted, ", ")
}
