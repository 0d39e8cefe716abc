package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql/dsqltx"
	"github.com/dsqlgo/dsql/internal/progress"
	"github.com/dsqlgo/dsql/internal/resumefile"
	"github.com/dsqlgo/dsql/internal/rowfile"
)

const (
	drainTime  = 30 * time.Second // what is being written has as long after Ctrl-C
	sampleRows = 1000             // that --dry-run has the server check
)

// tableLoad is one call of load.
type tableLoad struct {
	*command
	options     loadOptions
	pool        *pgxpool.Pool
	interrupted context.Context // ends at Ctrl-C

	files       *rowfile.Files
	sources     []string
	closeSource func()
	total       int64          // bytes
	part        func() float64 // of the source that was read; nil if that is not known

	writer    dsqltx.Writer
	state     resumefile.State // how far it is; guarded by Writer, which calls one func at a time
	earlier   resumefile.State // how far it was
	badRows   atomic.Int64     // that are no rows, met by this run
	rejected  atomic.Int64     // by the server, in all runs
	rowsRead  atomic.Int64
	rowsIn    atomic.Int64 // of this run
	settled   atomic.Int64 // rows of this run whose batch has ended, and those that were skipped
	retries   atomic.Int64
	rejecting sync.Mutex // guards rejects
	rejects   *os.File
	meter     *progress.Meter
}

// prepare sets up the Writer.
func (l *tableLoad) prepare(table tableInfo) (err error) {
	o, columns := l.options, l.files.Columns
	if err := table.checkColumns(columns); err != nil {
		return err
	}
	l.state = resumefile.State{Table: o.table, Columns: columns, Sources: l.sources}
	if o.resume != "" && !o.dryRun {
		if l.earlier, err = resumefile.Load(o.resume); err != nil {
			return fmt.Errorf("--resume: %w", err)
		}
		if l.earlier.Table != "" {
			if err := l.earlier.CheckSame(l.state); err != nil {
				return fmt.Errorf("--resume: %s: %w", o.resume, err)
			}
		}
	}
	l.rejected.Store(int64(l.earlier.Rows.Count(dsqltx.BatchRejected)))
	w := dsqltx.Writer{Table: table.name, Columns: columns, Text: true, BatchRows: o.batch, Workers: o.workers,
		SkipExisting: o.onConflict == "skip", Resume: l.earlier.Rows, Reject: l.reject, OnBatch: l.onBatch}
	w.Runner.OnAttempt = func(a dsqltx.Attempt) {
		if a.Again {
			l.retries.Add(1)
		}
	}
	if key := o.key; !w.SkipExisting {
		if key == nil {
			key = table.key
		}
		if containsAll(columns, key) && len(key) > 0 {
			w.Key = key
		} else if o.key != nil {
			return fmt.Errorf("--key: %s are not all among the columns %s", strings.Join(o.key, ", "), strings.Join(columns, ", "))
		}
	}
	if o.dryRun {
		w.Workers, w.BatchRows, w.Key = 1, sampleRows, nil
	}
	if o.resume != "" && !o.dryRun {
		w.Checkpoint = func(r dsqltx.Report) error { return l.save(r, o.resume) }
	}
	l.writer = w
	return nil
}

func containsAll(all, some []string) bool {
	return !slices.ContainsFunc(some, func(s string) bool { return !slices.Contains(all, s) })
}

func (l *tableLoad) save(r dsqltx.Report, file string) error {
	l.state.Rows, l.state.BadRows = r, int(max(l.badRows.Load(), int64(l.earlier.BadRows)))
	return l.state.Save(file)
}

// run writes the rows and sums up.
func (l *tableLoad) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(l.interrupted, func() { time.AfterFunc(drainTime, cancel) })()
	defer func() {
		if l.rejects != nil {
			l.rejects.Close()
		}
	}()
	l.meter = progress.Start(l.stderr, l.terminal(l.stderr), l.numbers)
	began := time.Now()
	var db dsqltx.Beginner = l.pool
	if l.options.dryRun {
		db = rollbackOnly{l.pool}
	}
	report, err := l.writer.WriteSeq(ctx, db, l.rows)
	l.meter.Stop()
	var bad *badRowError
	switch {
	case errors.As(err, &bad):
		err = bad
	case errors.Is(err, errInterrupted):
		err = errInterrupted
	}
	if l.options.dryRun {
		if err == nil {
			l.print(l.stdout, fmt.Sprintf("%s rows can be read; the server took %s of the first %s, and nothing was written\n",
				progress.Thousands(int(l.rowsRead.Load())), progress.Thousands(report.Count(dsqltx.BatchIn)), progress.Thousands(min(int(l.rowsRead.Load()), sampleRows))))
		}
		return err
	}
	l.print(l.stdout, l.summary(report, time.Since(began)))
	if err != nil {
		err = l.howToGoOn(report, err)
	}
	return err
}

// rows yields the rows of the source until Ctrl-C.
func (l *tableLoad) rows(yield func([]any, error) bool) {
	number := 0
	for row, err := range l.files.Rows() {
		if l.interrupted.Err() != nil {
			err = errInterrupted
		}
		if err == nil {
			l.rowsRead.Add(1)
			if l.options.dryRun && number >= sampleRows {
				l.files.Forget(number, number+1)
				number++
				continue
			}
		}
		if l.skips(number) {
			l.settled.Add(1)
			l.files.Forget(number, number+1)
		}
		number++
		if !yield(row, err) || err != nil {
			return
		}
	}
}

// skips tells whether an earlier run has done with a row.
func (l *tableLoad) skips(number int) bool {
	batches := l.earlier.Rows.Batches
	i, found := slices.BinarySearchFunc(batches, number, func(b dsqltx.Batch, number int) int { return cmp.Compare(b.From, number) })
	if !found {
		i--
	}
	return i >= 0 && number < batches[i].To && (batches[i].State == dsqltx.BatchIn || batches[i].State == dsqltx.BatchRejected)
}

func (l *tableLoad) numbers() progress.Numbers {
	n := progress.Numbers{Rows: int(l.rowsIn.Load()), Part: -1, Retries: int(l.retries.Load()),
		Bad: int(l.rejected.Load() + l.badRows.Load())}
	if l.part != nil {
		// Of what was read, only a part is written.
		n.Part = l.part() * float64(l.settled.Load()) / max(float64(l.rowsRead.Load()), 1)
	}
	return n
}

func (l *tableLoad) onBatch(b dsqltx.Batch) {
	l.files.Forget(b.From, b.To)
	l.settled.Add(int64(b.To - b.From))
	if b.State == dsqltx.BatchIn {
		l.rowsIn.Add(int64(b.To - b.From))
	}
}

// badRow handles a row that is no row.
func (l *tableLoad) badRow(file string, e *rowfile.RowError) error {
	if l.badRows.Add(1) <= int64(l.earlier.BadRows) {
		return nil // an earlier run has reported it
	}
	if err := l.countBad(rowfile.Place{File: file, Line: e.Line}, e.Reason); err != nil {
		l.badRows.Add(-1) // it is not left out
		return err
	}
	raw := e.Raw
	if len(raw) > 0 && raw[len(raw)-1] != '\n' {
		raw = append(raw, '\n')
	}
	return l.writeReject(raw)
}

// reject handles a row that the server refuses.
func (l *tableLoad) reject(row int, values []any, err error) error {
	l.rejected.Add(1)
	if err := l.countBad(l.files.Place(row), refusalReason(err)); err != nil {
		l.rejected.Add(-1)
		return err
	}
	return l.writeReject(l.rejectFormat().Append(nil, values))
}

// countBad says what is bad, or ends the load if it is one too many.
func (l *tableLoad) countBad(place rowfile.Place, reason string) error {
	where := place.String()
	switch {
	case l.options.from != "":
		where = fmt.Sprintf("row %d of %s", place.Line, l.options.fromTable)
	case place.File == "-":
		where = fmt.Sprintf("standard input, line %d", place.Line)
	}
	if l.badRows.Load()+l.rejected.Load() <= int64(l.options.maxErrors) {
		l.meter.Println(where + ": " + reason)
		return nil
	}
	return &badRowError{fmt.Sprintf("%s: %s; mend it, or leave out more bad rows with --max-errors, which is %d", where, reason, l.options.maxErrors)}
}

// badRowError ends a load. Its text needs none of what the Writer puts around it.
type badRowError struct{ text string }

func (e *badRowError) Error() string { return e.text }

func (l *tableLoad) rejectFormat() rowfile.Format {
	switch {
	case l.options.from != "":
		return rowfile.Text
	case l.options.format != "":
		return l.options.format
	}
	return rowfile.FormatOf(l.options.files[0])
}

// writeReject appends to the file of --rejects, which can be loaded like the files once it is
// mended.
func (l *tableLoad) writeReject(line []byte) (err error) {
	if l.options.rejects == "" || l.options.dryRun {
		return nil
	}
	l.rejecting.Lock()
	defer l.rejecting.Unlock()
	if l.rejects == nil {
		if l.rejects, err = os.OpenFile(l.options.rejects, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644); err != nil {
			return fmt.Errorf("--rejects: %w", err)
		}
		info, err := l.rejects.Stat()
		if err != nil {
			return fmt.Errorf("--rejects: %w", err)
		}
		if info.Size() == 0 && l.options.columns == nil {
			header := make([]any, len(l.files.Columns))
			for i, name := range l.files.Columns {
				header[i] = name
			}
			line = append(l.rejectFormat().Append(nil, header), line...)
		}
	}
	if _, err := l.rejects.Write(line); err != nil {
		return fmt.Errorf("--rejects: %w", err)
	}
	return nil
}

// columnContext is the column in the context of an error of COPY.
var columnContext = regexp.MustCompile(`^COPY .*?, line \d+, column ([^:]+)`)

func refusalReason(err error) string {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return err.Error()
	}
	reason := pgErr.Message
	if m := columnContext.FindStringSubmatch(pgErr.Where); m != nil {
		reason = "column " + m[1] + ": " + reason
	}
	if pgErr.Detail != "" {
		reason += " (" + pgErr.Detail + ")"
	}
	return reason
}

func (l *tableLoad) summary(r dsqltx.Report, took time.Duration) string {
	var b strings.Builder
	rows := int(l.rowsIn.Load())
	fmt.Fprintf(&b, "%s rows in %s, %s a second", progress.Thousands(rows), progress.Clock(took), progress.Thousands(int(float64(rows)/max(took.Seconds(), 0.001))))
	if before := l.earlier.Rows.Count(dsqltx.BatchIn); before > 0 {
		fmt.Fprintf(&b, "; %s were in before", progress.Thousands(before))
	}
	if n := l.retries.Load(); n > 0 {
		fmt.Fprintf(&b, "; %s retries", progress.Thousands(int(n)))
	}
	if n := l.rejected.Load() + l.badRows.Load(); n > 0 {
		fmt.Fprintf(&b, "; %s bad rows were left out", progress.Thousands(int(n)))
	}
	if n := r.Count(dsqltx.BatchUnknown); n > 0 {
		fmt.Fprintf(&b, "; %s rows may be in or not", progress.Thousands(n))
	}
	return b.String() + "\n"
}

// howToGoOn keeps how far the load is, and adds to err how to go on from there.
func (l *tableLoad) howToGoOn(r dsqltx.Report, err error) error {
	file := l.options.resume
	if file == "" {
		if r.Count(dsqltx.BatchIn)+r.Count(dsqltx.BatchUnknown) == 0 {
			return err // from the beginning
		}
		file = strings.ReplaceAll(l.options.table, string(os.PathSeparator), "_") + ".resume.json"
		if _, statErr := os.Stat(file); statErr == nil {
			file = strings.TrimSuffix(file, ".json") + fmt.Sprintf(".%d.json", time.Now().Unix())
		}
		if saveErr := l.save(r, file); saveErr != nil {
			return errors.Join(err, saveErr)
		}
	}
	return fmt.Errorf("%w\nto go on, run the same command with --resume %s", err, quote(file))
}

// rollbackOnly begins transactions that are rolled back when they should commit.
type rollbackOnly struct{ pool *pgxpool.Pool }

type rollbackTx struct{ pgx.Tx }

func (r rollbackOnly) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	tx, err := r.pool.BeginTx(ctx, options)
	return rollbackTx{tx}, err
}

func (t rollbackTx) Commit(ctx context.Context) error { return t.Rollback(ctx) }
