package dsqltx

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"sync"
)

// load is one run of a Writer. Its states, and what ends each:
//
//	reading   rows are taken, and batches begin. Ends when there are no more rows; and with the
//	          first failure: of a batch, of rows, of a func of the Writer, of ctx, or a panic.
//	draining  no batch begins; those being written go on. Ends when the last of them has ended.
//	ended     the report is complete.
//
// The states of a batch:
//
//	pending   its rows are taken, and it waits for a worker. Ends when a worker begins it (writing),
//	          or when the load fails first (out).
//	writing   the Runner tries to write it. A checkpoint counts it as unknown. Ends with the Runner's
//	          result, or with a panic.
//	in        the server confirmed the COMMIT, or Key or Check found the rows.
//	out       nothing was applied, and the load fails with this batch. Also after a panic before COMMIT.
//	unknown   applied or not, and neither Key nor Check could tell. The load fails.
//	rejected  a single row that the server refuses by itself, and that Reject leaves out.
//	split     nothing was applied, and parts of it may do better. The parts are pending, and the
//	          batch is in no report.
//
// A batch of which an earlier run left the outcome unknown begins as pending, and is looked for
// while writing.
type load struct {
	Writer
	db      Beginner
	slots   chan struct{} // one is taken for each batch that is held
	workers sync.WaitGroup

	mu        sync.Mutex // guards what follows, and is held while a func of the Writer runs
	report    Report     // of batches that have ended, and of Resume
	writing   []*batch
	maxRows   int // of the batches to come
	maxBytes  int
	completed int // batches that are in
	connected int // workers that have a connection
	failed    chan struct{}
	err       error // of the first failure
	panicked  any   // of a worker
}

// batch is a range of rows that one transaction writes.
type batch struct {
	from  int
	rows  [][]any
	bytes int
	check bool // an earlier run may have written it

	maybeIn bool // a COMMIT of it may have been sent, and its outcome is not known
	refused int  // times that the server was unavailable
}

func (b *batch) to() int { return b.from + len(b.rows) }

func newLoad(w Writer, db Beginner) *load {
	l := &load{Writer: w, db: db, slots: make(chan struct{}, max(w.Workers, 1)),
		maxRows: w.BatchRows, maxBytes: maxBatchBytes, failed: make(chan struct{})}
	if l.maxRows == 0 {
		l.maxRows = defaultBatchRows
	}
	for _, b := range w.Resume.Batches {
		if b.State != BatchOut {
			l.report.set(Batch{From: b.From, To: b.To, State: b.State})
		}
	}
	return l
}

func (l *load) run(ctx context.Context, rows iter.Seq2[[]any, error]) (Report, error) {
	returned := false
	defer func() {
		if !returned { // rows panicked, or ended this goroutine
			l.fail(errors.New("dsqltx: the sequence of rows panicked"))
			l.finish()
		}
	}()
	l.read(ctx, rows)
	returned = true
	l.finish()
	if l.panicked != nil {
		panic(l.panicked)
	}
	return l.report, l.err
}

// finish waits for the batches that are being written, and makes the last checkpoint.
func (l *load) finish() {
	l.workers.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.checkpoint()
}

// read takes rows, and has workers write them, until there are no more or the load fails.
func (l *load) read(ctx context.Context, rows iter.Seq2[[]any, error]) {
	c := collector{load: l, ctx: ctx, earlier: l.Resume.Batches}
	defer c.drop()
	for row, err := range rows {
		if err != nil {
			l.fail(fmt.Errorf("dsqltx: row %d: %w", c.next, err))
			return
		}
		if !c.add(row) {
			return
		}
	}
	if end := l.Resume.end(); c.next < end {
		l.fail(fmt.Errorf("dsqltx: there are %d rows, and Writer.Resume has %d; give the same rows as before", c.next, end))
		return
	}
	c.flush()
}

// start has a worker write b, for which there is a slot.
func (l *load) start(ctx context.Context, b *batch) {
	l.workers.Go(func() {
		defer func() { <-l.slots }()
		pending, returned := []*batch{b}, false
		defer func() {
			if !returned {
				l.recordPanic(recover())
				for _, b := range pending {
					l.endUnwritten(b)
				}
			}
		}()
		for len(pending) > 0 {
			last := len(pending) - 1
			b, pending = pending[last], pending[:last]
			pending = append(pending, l.write(ctx, b)...)
		}
		returned = true
	})
}

// recordPanic ends the load with the panic of a worker. value is nil if a func of the Writer ended
// the goroutine.
func (l *load) recordPanic(value any) {
	l.fail(errors.New("dsqltx: a func of the Writer, or the encoding of a value, panicked"))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.panicked == nil {
		l.panicked = value
	}
}

// fail ends reading with err, unless another failure came first.
func (l *load) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.failLocked(err)
}

func (l *load) failLocked(err error) {
	if l.err == nil {
		l.err = err
		close(l.failed)
	}
}

func (l *load) hasFailed() bool {
	select {
	case <-l.failed:
		return true
	default:
		return false
	}
}

// begin marks b as being written, or returns false if the load has failed.
func (l *load) begin(b *batch) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil {
		return false
	}
	l.writing = append(l.writing, b)
	l.checkpoint()
	return l.err == nil
}

// end records what became of b.
func (l *load) end(b *batch, state BatchState, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopWriting(b)
	if state == BatchIn {
		l.completed++
	}
	result := Batch{From: b.from, To: b.to(), State: state, Err: err}
	l.report.set(result)
	if err != nil {
		l.failLocked(fmt.Errorf("dsqltx: writing rows %d to %d (%s): %w", result.From, result.To-1, state, err))
	}
	if l.OnBatch != nil {
		l.OnBatch(result)
	}
}

// stopWriting removes b from those that are being written.
func (l *load) stopWriting(b *batch) {
	if i := slices.Index(l.writing, b); i >= 0 {
		l.writing = slices.Delete(l.writing, i, i+1)
	}
}

// checkpoint hands the report over, with what is being written as unknown.
func (l *load) checkpoint() {
	if l.Checkpoint == nil {
		return
	}
	report := Report{Batches: slices.Clone(l.report.Batches)}
	for _, b := range l.writing {
		report.set(Batch{From: b.from, To: b.to(), State: BatchUnknown})
	}
	if err := l.Checkpoint(report); err != nil {
		l.failLocked(fmt.Errorf("dsqltx: Writer.Checkpoint: %w", err))
	}
}
