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
	// A network that drops the packets of one connection may pass those of the next. So each
	// attempt gets a third of the remaining time, within these limits.
	minAttempt = time.Second
	maxAttempt = 10 * time.Second

	// The wait between attempts is random between 0 and a limit that doubles from minBackoff to
	// maxBackoff ("full jitter", AWS Architecture Blog, "Exponential Backoff and Jitter").
	minBackoff = 50 * time.Millisecond
	maxBackoff = 5 * time.Second
)

// connectLoop opens one session, in as many attempts as are needed. Each attempt goes through these
// states:
//
//	state    ends with                   fails for good               fails, and is retried
//	pacing   a free slot                 no slot before the deadline  -
//	token    a valid token               no credentials               -
//	dial     an open TCP connection      unknown name                 any other error
//	TLS      a verified handshake        certificate, alert, no TLS   reset, silence
//	login    ReadyForQuery               a permanent refusal          a transient refusal, reset, silence
//
// Every state also ends with the context. The error then names the state.
type connectLoop struct {
	connector *connector
	attempt   *login.Attempt
	address   string // to dial
	startup   []byte // pgx's startup message

	backoff time.Duration
	renewed bool          // the token was replaced after a refusal; this happens once
	refusal *connectError // the last refusal by the server, if any
}

// run makes attempts until one succeeds or fails for good, or ctx ends. opened is an open TCP
// connection for the first attempt, or nil.
func (r *connectLoop) run(ctx context.Context, opened net.Conn) (*login.Session, error) {
	start := time.Now()
	r.backoff = minBackoff
	for attempts := 1; ; attempts++ {
		session, failed := r.attemptOnce(ctx, opened)
		if failed == nil {
			return session, nil
		}
		opened = nil
		failed = r.preferRefusal(ctx, failed)
		failed.attempts, failed.elapsed = attempts, time.Since(start)
		if failed.ctxErr != nil {
			return nil, failed
		}
		wait, again := r.prepareRetry(failed)
		if !again {
			return nil, failed
		}
		r.connector.observer.retry(ctx, RetryEvent{Attempt: attempts, Err: failed, Wait: wait, Elapsed: failed.elapsed})
		if sleep(ctx, wait) != nil {
			if r.refusal != nil {
				failed = r.refusal
			}
			failed = failed.endedBy(ctx)
			failed.attempts, failed.elapsed = attempts, time.Since(start)
			return nil, failed
		}
	}
}

// preferRefusal returns the error to report. If ctx ended before the server answered again, that is
// the server's last refusal, since it tells more.
func (r *connectLoop) preferRefusal(ctx context.Context, failed *connectError) *connectError {
	switch {
	case failed.kind != refusal.None && failed.phase == login.PhaseLogin:
		r.refusal = failed
	case r.refusal != nil && (ctx.Err() != nil || failed.phase == phasePacing):
		return r.refusal.endedBy(ctx)
	}
	return failed
}

// prepareRetry decides whether to make another attempt. If so, it changes what has to be different
// and returns how long to wait.
func (r *connectLoop) prepareRetry(failed *connectError) (wait time.Duration, again bool) {
	k := r.connector
	switch {
	case errors.Is(failed, login.ErrTokenUnread):
		r.attempt.EarlyToken = false
		k.earlyRefused.Store(true)
		return 0, true
	case failed.kind == refusal.TokenExpired && !r.renewed:
		r.renewed = true
		k.tokens.discardExpired(failed.token)
		return 0, true
	case failed.kind == refusal.AccessDenied && !r.renewed && k.tokens.discardDenied(failed.token):
		r.renewed = true
		return 0, true
	case failed.kind == refusal.RateExceeded && k.pacer != nil && failed.phase == login.PhaseLogin:
		return 0, true // the pacer delays the next attempt
	case failed.isTransient():
		wait = rand.N(r.backoff)
		r.backoff = min(2*r.backoff, maxBackoff)
		return wait, true
	}
	return 0, false
}

// attemptOnce makes one attempt. opened is an open TCP connection, or nil.
func (r *connectLoop) attemptOnce(ctx context.Context, opened net.Conn) (session *login.Session, failed *connectError) {
	var token *Token
	fail := func(phase login.Phase, err error) (*login.Session, *connectError) {
		e := newConnectError(phase, r.address, r.attempt.TLS, err)
		e.token, e.ctxErr = token, ctx.Err()
		return nil, e
	}
	closeOpened := func() {
		if opened != nil {
			opened.Close()
		}
	}

	var err error
	if p := r.connector.pacer; p != nil {
		slot, err := p.wait(ctx)
		if err != nil {
			closeOpened()
			return fail(phasePacing, err)
		}
		defer func() { p.release(slot, answerOf(failed)) }()
	}
	if token, err = r.connector.tokens.get(ctx); err != nil {
		closeOpened()
		return fail(phaseToken, err)
	}

	timeout := maxAttempt
	if deadline, ok := ctx.Deadline(); ok {
		timeout = min(max(time.Until(deadline)/3, minAttempt), maxAttempt)
	}
	attemptCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	session, phase, err := r.attempt.Open(attemptCtx, opened, r.startup, token.Reveal())
	if err == nil {
		return session, nil
	}
	_, failed = fail(phase, err)
	if ctx.Err() == nil && attemptCtx.Err() != nil && (errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded)) {
		failed.timeout = timeout
	}
	return nil, failed
}

// answerOf returns what the result of an attempt says of the cluster's quota of new connections.
func answerOf(failed *connectError) answer {
	switch {
	case failed == nil:
		return answerAccepted
	case failed.kind == refusal.RateExceeded:
		return answerRefused
	case failed.kind != refusal.None:
		return answerAccepted // it was refused, but not for the rate
	}
	return answerNone
}
