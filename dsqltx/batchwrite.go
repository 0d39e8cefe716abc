package dsqltx

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// A batch that lost so often is split: a shorter transaction meets fewer others, and a smaller
	// one passes where the connection is lost by what it sends.
	splitAfter = 4

	// A server that is unavailable gets a second to begin with, then twice as much, ten times.
	maxUnavailable  = 10
	unavailableWait = time.Second
)

// errSplit ends the attempts of a batch that lost too often.
var errSplit = errors.New("dsqltx: the batch lost too often")

// write writes b, and returns what is to be written in its place, the last first: nothing, its
// parts, or b again.
func (l *load) write(ctx context.Context, b *batch) []*batch {
	if parts := l.splitLarge(b); parts != nil {
		return parts
	}
	defer l.endPanicked(b)
	if !l.begin(b) {
		l.endUnwritten(b)
		return nil
	}
	completed := l.countCompleted()
	err := l.attempt(ctx, b)
	unknown := errors.Is(err, ErrCommitUnknown)
	if unknown && l.idempotent() && isSplittable(err) {
		unknown = false // parts may be written again
	}
	switch {
	case err == nil:
		l.end(b, BatchIn, nil)
	case unknown:
		l.end(b, BatchUnknown, err)
	case isSplittable(err) && len(b.rows) > 1:
		l.learn(b, err)
		return l.split(b, len(b.rows)/2)
	case l.Reject != nil && isRowError(err):
		return l.isolate(b, err)
	case l.mayPass(ctx, b, err, completed):
		l.putBack(b)
		return []*batch{b}
	default:
		l.end(b, BatchOut, err)
	}
	return nil
}

// attempt writes b in a transaction, which the Runner tries again.
func (l *load) attempt(ctx context.Context, b *batch) error {
	if b.check && !l.idempotent() {
		in, err := l.find(ctx, b.rows)
		if err != nil || in {
			return err
		}
	}
	r := l.Runner
	r.Idempotent = l.idempotent()
	lost := 0
	connected := false
	setConnected := func(c bool) {
		if c != connected {
			connected = c
			l.countConnected(c)
		}
	}
	defer setConnected(false)
	r.OnAttempt = func(a Attempt) {
		setConnected(false)
		if a.Err != nil && a.Conflict != schemaConflict {
			lost++
		}
		if l.Runner.OnAttempt != nil {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.Runner.OnAttempt(a)
		}
	}
	if l.Key != nil || l.Check != nil {
		r.CheckCommit = func(ctx context.Context) (bool, error) {
			b.check = true // from now on, a COMMIT may still be on its way
			return l.find(ctx, b.rows)
		}
		r.Idempotent = false
	}
	err := r.Run(ctx, l.db, func(ctx context.Context, tx pgx.Tx) error {
		setConnected(true)
		b.maybeIn = l.idempotent() && lost > 0
		if lost >= splitAfter && len(b.rows) > 1 {
			return errSplit
		}
		err := l.insertOrCopy(ctx, tx, b.rows)
		b.maybeIn = b.maybeIn || err == nil
		return err
	})
	var pgErr *pgconn.PgError
	if b.check && errors.As(err, &pgErr) && pgErr.Code == "23505" && !l.idempotent() {
		// An earlier COMMIT may have arrived after all.
		if in, findErr := l.find(ctx, b.rows); findErr == nil && in {
			return nil
		}
	}
	return err
}

// find looks for rows whose batch may be in the table.
func (l *load) find(ctx context.Context, rows [][]any) (in bool, err error) {
	switch {
	case l.Check != nil:
		in, err = l.Check(ctx, rows)
	case l.Key != nil:
		in, err = l.findByKey(ctx, rows)
	default:
		err = errors.New("an earlier run may have written the rows, and Writer has neither Key nor Check to look for them")
	}
	if err != nil && !errors.Is(err, ErrCommitUnknown) {
		err = fmt.Errorf("%w: %w", ErrCommitUnknown, err)
	}
	return in, err
}

// endUnwritten records a batch that the load's failure came before, or whose writing panicked.
func (l *load) endUnwritten(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.endUnwrittenLocked(b)
}

func (l *load) endUnwrittenLocked(b *batch) {
	l.stopWriting(b)
	state := BatchOut
	if b.maybeIn || b.check && !l.idempotent() {
		state = BatchUnknown
	}
	l.report.set(Batch{From: b.from, To: b.to(), State: state})
}

// endPanicked records a batch that is still being written when its worker leaves it.
func (l *load) endPanicked(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Contains(l.writing, b) {
		l.endUnwrittenLocked(b)
	}
}

// putBack marks b as pending again.
func (l *load) putBack(b *batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.stopWriting(b)
}

func (l *load) countCompleted() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.completed
}

// countConnected counts the workers that have a connection.
func (l *load) countConnected(more bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if more {
		l.connected++
	} else {
		l.connected--
	}
}

// othersGetOn tells whether other workers have a connection now, or completed a batch since there
// were as many.
func (l *load) othersGetOn(completed int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.connected > 0 || l.completed > completed
}

// mayPass tells whether b may succeed in a while: it got no connection, and others have some; or the
// server was unavailable, which mayPass waits for.
func (l *load) mayPass(ctx context.Context, b *batch, err error, completed int) bool {
	var connect *pgconn.ConnectError
	if errors.As(err, &connect) {
		return ctx.Err() == nil && l.othersGetOn(completed)
	}
	if !isIndefinite(err) || b.refused == maxUnavailable {
		return false
	}
	b.refused++
	return sleep(ctx, min(unavailableWait<<(b.refused-1), maxWait)) == nil
}

// splitLarge splits a batch that is larger than what the server was found to take meanwhile.
func (l *load) splitLarge(b *batch) []*batch {
	l.mu.Lock()
	large := len(b.rows) > 1 && !b.check && (b.bytes > l.maxBytes || len(b.rows) > l.maxRows)
	l.mu.Unlock()
	if !large {
		return nil
	}
	return l.split(b, len(b.rows)/2)
}

// split returns the parts of b, the last first. Nothing of b was applied.
func (l *load) split(b *batch, at int) []*batch {
	l.putBack(b)
	return nonEmpty(b.part(at, len(b.rows)), b.part(0, at))
}

// part returns rows of b as a batch.
func (b *batch) part(from, to int) *batch {
	part := &batch{from: b.from + from, rows: b.rows[from:to], check: b.check}
	for _, row := range part.rows {
		part.bytes += rowSize(row)
	}
	return part
}

func nonEmpty(batches ...*batch) (found []*batch) {
	for _, b := range batches {
		if len(b.rows) > 0 {
			found = append(found, b)
		}
	}
	return found
}

// learn makes the batches to come smaller than b, if the server found it too large.
func (l *load) learn(b *batch, err error) {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case strings.Contains(pgErr.Message, "transaction size limit"):
		l.maxBytes = min(l.maxBytes, b.bytes/2)
	case strings.Contains(pgErr.Message, "transaction row limit"):
		l.maxRows = min(l.maxRows, len(b.rows)/2)
	}
}

// isolate separates the row of b that the server refuses, and rejects it.
func (l *load) isolate(b *batch, err error) []*batch {
	row, ok := copyLine(err)
	switch {
	case len(b.rows) == 1:
		row = 0
	case !ok || row >= len(b.rows):
		return l.split(b, len(b.rows)/2)
	}
	l.putBack(b)
	l.refuse(b.from+row, b.rows[row], err)
	return nonEmpty(b.part(row+1, len(b.rows)), b.part(0, row))
}

// refuse leaves out a row that cannot be written, or fails the load.
func (l *load) refuse(number int, row []any, err error) (ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	result := Batch{From: number, To: number + 1, State: BatchRejected}
	stop := err
	if l.Reject != nil {
		stop = l.Reject(number, row, err)
	}
	if stop != nil {
		result.State, result.Err = BatchOut, stop
		l.failLocked(fmt.Errorf("dsqltx: row %d: %w", number, stop))
	}
	l.report.set(result)
	if l.OnBatch != nil {
		l.OnBatch(result)
	}
	return stop == nil
}

// isSplittable tells whether parts of a batch may be written where the whole could not: after one
// of the limits of a transaction, and after losing too often.
func isSplittable(err error) bool {
	var pgErr *pgconn.PgError
	return errors.Is(err, errSplit) || errors.As(err, &pgErr) && pgErr.Code == "54000"
}

// isRowError tells whether the server refuses a row by itself: data exceptions, constraints, and
// limits that a row alone exceeds.
func isRowError(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) &&
		(strings.HasPrefix(pgErr.Code, "22") || strings.HasPrefix(pgErr.Code, "23") || strings.HasPrefix(pgErr.Code, "54"))
}

// copyContext is the context of an error of COPY (PostgreSQL's copyfrom.c, CopyFromErrorCallback).
var copyContext = regexp.MustCompile(`^COPY .*?, line (\d+)`)

// copyLine returns which row of a COPY an error is about, from 0.
func copyLine(err error) (int, bool) {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) {
		return 0, false
	}
	m := copyContext.FindStringSubmatch(pgErr.Where)
	if m == nil {
		return 0, false
	}
	line, err := strconv.Atoi(m[1])
	return line - 1, err == nil && line > 0
}
