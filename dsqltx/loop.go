package dsqltx

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// More than any transaction should need: on one contended row all but one of the transactions
	// lose in each round.
	defaultMaxAttempts = 1000

	// DSQL ends a transaction after 5 minutes (AWS guide, "Quotas"). One that did not succeed in as
	// much time is not going to.
	maxRetryTime = 5 * time.Minute

	// A run that loses so many connections in a row, all of them alive when it took them, loses them
	// by what it sends: a message of more than 10 MiB ends the connection.
	maxConnsLost = 20

	// The bounds of the waits before an attempt: see backoff.
	minConflictWait = 100 * time.Microsecond
	minLostWait     = 2 * time.Millisecond
	maxWait         = 5 * time.Second

	// What CheckCommit gets when the context is over.
	checkTimeout = 10 * time.Second
)

// loop makes attempts until one is applied or another is pointless. It decides nothing about
// errors: attempt returns an outcome, and stopReason looks at that.
type loop struct {
	Runner
	readOnly bool        // an attempt of unknown outcome has no effects
	isGone   func() bool // the connection is closed, and cannot be replaced
	attempt  func(ctx context.Context) (outcome, error)

	turn       *turn // of the attempt
	began      time.Time
	attempts   int
	connsLost  int   // in a row
	conflicts  int   // for which a wait is due
	retried    error // what the last attempt failed with that another follows
	unknownErr error // of an attempt that may have been applied and that another follows
}

// newLoop returns a loop for what runs on db, or for a func if db is nil.
func newLoop(r Runner, db any, readOnly bool) *loop {
	l := &loop{Runner: r, readOnly: readOnly, isGone: func() bool { return isClosedConn(db) }}
	l.turn = &turn{table: lanes, none: readOnly}
	if r.Key != "" {
		l.turn.key, l.turn.fixed = namedKey(db, r.Key), true
	}
	return l
}

func (l *loop) run(ctx context.Context) error {
	l.began = time.Now()
	defer func() { l.turn.end(failed) }() // if attempt panicked
	for {
		l.attempts++
		l.turn = l.turn.next()
		result, err := l.attempt(ctx)
		length, lostToPeer := l.turn.end(result)
		report := Attempt{Number: l.attempts, Conflict: conflictKind(err)}
		if result == unknown {
			result, err = l.resolve(ctx, err)
		}
		report.Err, report.Elapsed = err, time.Since(l.began)
		if result == applied || result == failed {
			l.report(report)
			return l.end(ctx, err)
		}
		l.count(result, report.Conflict, lostToPeer)
		report.Wait = l.backoff(length)
		stop := l.stopReason(ctx, report)
		report.Again = stop == nil
		l.report(report)
		l.retried = err
		if stop == nil {
			stop = sleep(ctx, report.Wait)
		}
		if stop != nil {
			return l.stop(stop)
		}
	}
}

// resolve finds out what became of an attempt of unknown outcome, as far as the Runner has means.
func (l *loop) resolve(ctx context.Context, cause error) (outcome, error) {
	switch {
	case l.readOnly:
		return connLost, cause
	case l.Idempotent:
		l.unknownErr = cause
		return connLost, cause
	case l.CheckCommit == nil:
		return failed, unknownError(cause)
	}
	ctx, cancel := outlive(ctx, checkTimeout)
	defer cancel()
	done, err := l.CheckCommit(ctx)
	switch {
	case err != nil:
		return failed, fmt.Errorf("%w: %w, and CheckCommit failed: %w", ErrCommitUnknown, cause, err)
	case done:
		return applied, nil
	}
	return connLost, cause
}

// count counts what the attempt lost.
func (l *loop) count(result outcome, conflict string, lostToPeer bool) {
	if l.connsLost++; result != connLost {
		l.connsLost = 0
	}
	// A changed schema is no other transaction's fault, and what lost to a peer queues instead.
	if conflict == rowConflict && !lostToPeer {
		l.conflicts++
	}
}

// backoff returns how long to wait after an attempt of that length: a random time below a bound.
//
// After a conflict, the bound follows the attempt's own length, which is about that of what it met.
// It is twice the length at first, so that the winner's other rivals get on, and shrinks then, so
// that who has lost often is faster than who has just come. It grows again with dozens of losses:
// there are dozens of processes. Numbers are from the simulation in internal/contend. After a lost
// connection, the bound doubles each time.
func (l *loop) backoff(length time.Duration) time.Duration {
	var bound time.Duration
	switch {
	case l.connsLost > 0:
		bound = max(length, minLostWait) << min(l.connsLost-1, 10)
	case l.conflicts > 0:
		n := float64(l.conflicts)
		bound = time.Duration(float64(max(length, minConflictWait)) * (0.5 + 1.5/n + n/32))
	default:
		return 0
	}
	return rand.N(min(bound, maxWait))
}

// stopReason returns why no attempt follows last, or nil.
func (l *loop) stopReason(ctx context.Context, last Attempt) error {
	limit := l.MaxAttempts
	if limit == 0 {
		limit = defaultMaxAttempts
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case l.isGone():
		return errConnGone
	case last.Number >= limit, last.Elapsed+last.Wait > maxRetryTime:
		return errNoAttemptLeft
	case l.connsLost >= maxConnsLost:
		return errAlwaysLost
	}
	return nil
}

func (l *loop) report(a Attempt) {
	if l.OnAttempt != nil {
		l.OnAttempt(a)
	}
}

// end returns what a run returns whose last attempt was applied, or failed with err.
func (l *loop) end(ctx context.Context, err error) error {
	if err != nil && l.retried != nil && ctx.Err() != nil && !errors.Is(err, ErrCommitUnknown) {
		// ctx cut the last attempt short. What the attempt before it failed with says more.
		err = &stoppedError{cause: l.retried, stop: err, attempts: l.attempts, elapsed: time.Since(l.began)}
	}
	return withUnknown(err, l.unknownErr)
}

// stop returns the error of a run that another attempt would follow.
func (l *loop) stop(reason error) error {
	err := &stoppedError{cause: l.retried, stop: reason, attempts: l.attempts, elapsed: time.Since(l.began)}
	return withUnknown(err, l.unknownErr)
}

// outlive returns a context that ends d after ctx does.
func outlive(ctx context.Context, d time.Duration) (context.Context, context.CancelFunc) {
	longer, cancel := context.WithCancel(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		timer := time.AfterFunc(d, cancel)
		context.AfterFunc(longer, func() { timer.Stop() })
	})
	return longer, func() { stop(); cancel() }
}

// sleep waits for d, or returns the error of a context that ends before.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
