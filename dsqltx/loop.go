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

	// The winner of a conflict has committed when the loser learns of it, so the first retry has no
	// wait. Later ones have full jitter, from the length of a short transaction on.
	minBackoff = 2 * time.Millisecond
	maxBackoff = 128 * time.Millisecond

	// A run that loses so many connections in a row loses them by what it sends: a message of more
	// than 10 MiB ends the connection.
	maxConnsLost = 20
)

// loop makes attempts until one is applied or another is pointless. It decides nothing about
// errors: attempt returns an outcome, and stopReason looks at that.
type loop struct {
	Runner
	readOnly bool // an attempt of unknown outcome has no effects
	turns    *turns
	attempt  func(ctx context.Context) (outcome, error)

	began      time.Time
	attempts   int
	connsLost  int           // in a row
	backoff    time.Duration // bound of the next wait
	hasTurn    bool          // this attempt counts among turns.running
	retried    error         // what the last attempt failed with that another follows
	unknownErr error         // of an attempt that may have been applied and that another follows
}

func (l *loop) run(ctx context.Context) error {
	l.began, l.backoff = time.Now(), minBackoff
	defer func() {
		if l.hasTurn { // attempt panicked
			l.turns.release(true)
		}
	}()
	if l.turns.hasQueue() {
		l.hasTurn, _ = l.turns.acquire(ctx) // attempt reports a context that ended
	}
	for {
		l.attempts++
		result, err := l.attempt(ctx)
		if l.hasTurn {
			l.turns.release(result == conflict)
			l.hasTurn = false
		}
		report := Attempt{Number: l.attempts, Conflict: conflictKind(err)}
		if result == unknown {
			result, err = l.resolve(ctx, err)
		}
		report.Err, report.Elapsed = err, time.Since(l.began)
		if result == applied || result == failed {
			l.report(report)
			return l.end(ctx, err)
		}
		if l.connsLost++; result == conflict {
			l.connsLost = 0
		}
		report.Wait = l.nextWait()
		stop := l.stopReason(ctx, report)
		report.Again = stop == nil
		l.report(report)
		l.retried = err
		if stop == nil {
			stop = l.wait(ctx, report)
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
	case l.CheckCommit == nil || ctx.Err() != nil:
		return failed, unknownError(cause)
	}
	done, err := l.CheckCommit(ctx)
	switch {
	case err != nil:
		return failed, fmt.Errorf("%w: %w, and CheckCommit failed: %w", ErrCommitUnknown, cause, err)
	case done:
		return applied, nil
	}
	return connLost, cause
}

// nextWait returns how long to wait before the next attempt.
func (l *loop) nextWait() time.Duration {
	if l.attempts == 1 {
		return 0
	}
	wait := rand.N(l.backoff)
	l.backoff = min(2*l.backoff, maxBackoff)
	return wait
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
	case last.Number >= limit, last.Elapsed+last.Wait > maxRetryTime:
		return errNoAttemptLeft
	case l.connsLost >= maxConnsLost:
		return errAlwaysLost
	}
	return nil
}

// wait returns when the attempt after last may begin, or with ctx's error.
func (l *loop) wait(ctx context.Context, last Attempt) error {
	if err := sleep(ctx, last.Wait); err != nil {
		return err
	}
	if last.Conflict == schemaConflict { // no other transaction has to finish first
		return nil
	}
	var err error
	l.hasTurn, err = l.turns.acquire(ctx)
	return err
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
