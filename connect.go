package dsql

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"time"

	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/refusal"
)

const (
	// A network that swallows one connection may let the next one through, so one attempt gets a
	// third of the time that is left, within these bounds.
	shortestAttempt = time.Second
	longestAttempt  = 10 * time.Second

	// Waits between attempts are drawn from 0 to a bound that doubles from the first to the last
	// of these ("full jitter", AWS Architecture Blog, "Exponential Backoff and Jitter").
	firstBackoff = 50 * time.Millisecond
	lastBackoff  = 5 * time.Second
)

// connectRun opens one session, in as many attempts as it takes. The states of one attempt, and
// what ends each:
//
//	pacing   a connection may be opened   a slot after the deadline: the run ends
//	token    one is at hand               no credentials: the run ends
//	dial     TCP is open                  name unknown: the run ends; else another attempt
//	TLS      verified                     certificate, alert, no TLS: the run ends; reset, silence: another attempt
//	login    ReadyForQuery                a refusal: by its kind; reset, silence: another attempt
//
// Every state also ends with the context. The error then names the state.
type connectRun struct {
	connector *connector
	attempt   *login.Attempt
	address   string // dialled

	backoff time.Duration
	renewed bool          // the token was replaced because the server called it expired
	refused *connectError // of the last attempt that the server refused
}

// run makes attempts until one succeeds, fails for good, or ctx ends. opened is a TCP connection
// for the first one, or nil.
func (r *connectRun) run(ctx context.Context, opened net.Conn) (*login.Session, error) {
	began := time.Now()
	r.backoff = firstBackoff
	for attempts := 1; ; attempts++ {
		session, failed := r.try(ctx, opened)
		if failed == nil {
			return session, nil
		}
		opened = nil
		failed = r.moreTelling(ctx, failed)
		failed.attempts, failed.elapsed = attempts, time.Since(began)
		if failed.ended != nil {
			return nil, failed
		}
		wait, again := r.prepareRetry(failed)
		if !again {
			return nil, failed
		}
		r.connector.observer.retry(ctx, RetryEvent{Attempt: attempts, Err: failed, Wait: wait, Elapsed: failed.elapsed})
		if sleep(ctx, wait) != nil {
			if r.refused != nil {
				failed = r.refused
			}
			failed = failed.endedBy(ctx)
			failed.attempts, failed.elapsed = attempts, time.Since(began)
			return nil, failed
		}
	}
}

// moreTelling returns the error to report: the server's last refusal, when the time was over on
// the way to another answer.
func (r *connectRun) moreTelling(ctx context.Context, failed *connectError) *connectError {
	switch {
	case failed.kind != refusal.None && failed.phase == login.PhaseLogin:
		r.refused = failed
	case r.refused != nil && (ctx.Err() != nil || failed.phase == phasePacing):
		return r.refused.endedBy(ctx)
	}
	return failed
}

// prepareRetry decides whether another attempt can help, changes what it has to do otherwise, and
// returns how long to wait before it.
func (r *connectRun) prepareRetry(failed *connectError) (wait time.Duration, again bool) {
	k := r.connector
	switch {
	case errors.Is(failed, login.ErrTokenUnread):
		r.attempt.EarlyToken = false
		k.earlyRefused.Store(true)
		return 0, true
	case failed.kind == refusal.TokenExpired && !r.renewed:
		r.renewed = true
		k.tokens.drop(failed.token)
		return 0, true
	case failed.kind == refusal.RateExceeded && k.pacer != nil && !failed.paced && failed.phase == login.PhaseLogin:
		return 0, true // it went in a burst; the pacer holds the next one back
	case failed.isTransient():
		wait = rand.N(r.backoff)
		r.backoff = min(2*r.backoff, lastBackoff)
		return wait, true
	}
	return 0, false
}

// try makes one attempt. opened may be an open TCP connection.
func (r *connectRun) try(ctx context.Context, opened net.Conn) (session *login.Session, failed *connectError) {
	var token *Token
	paced := false
	fail := func(phase login.Phase, err error) (*login.Session, *connectError) {
		e := newConnectError(phase, r.address, r.attempt.TLS.ServerName, err)
		e.token, e.paced, e.ended = token, paced, ctx.Err()
		return nil, e
	}
	closeOpened := func() {
		if opened != nil {
			opened.Close()
		}
	}

	var err error
	if p := r.connector.pacer; p != nil {
		if paced, err = p.wait(ctx); err != nil {
			closeOpened()
			return fail(phasePacing, err)
		}
		defer func() {
			if failed == nil || failed.phase == login.PhaseLogin {
				p.record(paced, failed != nil && failed.kind == refusal.RateExceeded)
			}
		}()
	}
	if token, err = r.connector.tokens.get(ctx); err != nil {
		closeOpened()
		return fail(phaseToken, err)
	}

	timeout := longestAttempt
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(max(time.Until(deadline)/3, shortestAttempt), longestAttempt)
	}
	attemptCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	session, phase, err := r.attempt.Open(attemptCtx, opened, token.Reveal())
	if err == nil {
		return session, nil
	}
	_, failed = fail(phase, err)
	if ctx.Err() == nil && attemptCtx.Err() != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)) {
		failed.timeout = timeout
	}
	return nil, failed
}
