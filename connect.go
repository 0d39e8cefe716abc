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
	"github.com/dsqlgo/dsql/internal/transport"
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
//	choice   a route                     -                            -
//	dial     an open TCP connection      unknown name                 any other error
//	TLS      a verified handshake        certificate, alert, no TLS   reset, silence
//	upgrade  an accepted WebSocket       another answer               HTTP status 5xx, reset, silence
//	login    ReadyForQuery               a permanent refusal          a transient refusal, reset, silence
//
// There is a choice with Transport "auto" only, and an upgrade with a WebSocket. While there is another
// route, an error before the login is final only if it is on both.
//
// Every state also ends with the context. The error then names the state.
type connectLoop struct {
	connector *connector
	routes    routes
	startup   []byte // pgx's startup message

	route    *route                                // of the last attempt
	stopped  transport.Transport                   // if the network stopped the last attempt
	failures map[transport.Transport]*connectError // the last attempts that the network stopped

	backoff time.Duration
	renewed bool          // the token was replaced after a refusal; this happens once
	refusal *connectError // the last refusal by the server, if any
}

// run makes attempts until one succeeds or fails for good, or ctx ends. opened is an open TCP
// connection for the first attempt, or nil.
func (r *connectLoop) run(ctx context.Context, opened net.Conn) (*login.Session, error) {
	start := time.Now()
	r.backoff = minBackoff
	r.route = r.routes.first()
	r.failures = make(map[transport.Transport]*connectError)
	for attempts := 1; ; attempts++ {
		session, failed := r.attemptOnce(ctx, opened)
		if failed == nil {
			r.connector.observer.connected(ctx, r.route.transport, attempts, time.Since(start))
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
		r.connector.observer.retry(ctx, RetryEvent{Attempt: attempts, Transport: string(r.route.transport), Err: failed, Wait: wait, Elapsed: failed.elapsed})
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
		r.routes.dropEarlyToken()
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
	case r.canSwitch():
		return 0, true
	case r.isTransient(failed):
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
		e := newConnectError(phase, r.route.address, r.route.attempt.TLS, err)
		e.transport, e.named = r.route.transport, r.connector.transport != transportTCP
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

	session, phase, timeout, err := r.open(ctx, opened, token.Reveal())
	if err == nil {
		return session, nil
	}
	_, failed = fail(phase, err)
	failed.timeout = timeout
	if r.stopped != "" {
		r.failures[r.stopped] = failed
	}
	if phase != login.PhaseLogin {
		failed.other = r.failures[failed.transport.Other()]
	}
	return nil, failed
}

// open makes the part of an attempt that uses the network. If there are two routes, it chooses one, and
// passes on what that showed of the network. If a timeout of its own ended the attempt, it returns that.
func (r *connectLoop) open(ctx context.Context, opened net.Conn, token string) (_ *login.Session, _ login.Phase, timeout time.Duration, err error) {
	done := func(transport.Result) {}
	if len(r.routes) > 1 {
		patience := min(tcpPatience, timeLeft(ctx)/2)
		chosen, err := transports.Next(ctx, r.routes.name(), r.stopped, patience)
		if err != nil {
			return nil, login.PhaseDial, 0, err
		}
		done, r.route = chosen.Done, r.routes[chosen.Transport]
		r.route.attempt.OnConnect = func() { done(transport.Open) }
		if chosen.Transport == transport.TCP {
			r.route.attempt.ConnectTimeout = patience
		}
	}
	timeout = min(max(timeLeft(ctx)/3, minAttempt), maxAttempt)
	attemptCtx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	session, phase, err := r.route.attempt.Open(attemptCtx, opened, r.startup, token)
	r.stopped = ""
	if err == nil {
		return session, phase, 0, nil
	}
	if len(r.routes) > 1 && ctx.Err() == nil && isStopped(r.route.transport, phase, err, r.routes.proxied()) {
		r.stopped = r.route.transport
		done(transport.Stopped)
	}
	done(transport.Unknown)

	if limit := r.route.attempt.ConnectTimeout; limit > 0 && phase != login.PhaseLogin {
		timeout = min(timeout, limit)
	} else if attemptCtx.Err() == nil {
		timeout = 0
	}
	if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) && !errors.Is(err, os.ErrDeadlineExceeded) {
		timeout = 0
	}
	return nil, phase, timeout, err
}

// timeLeft returns the time until ctx's deadline. Without one, it is more than any limit here.
func timeLeft(ctx context.Context) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		return time.Until(deadline)
	}
	return time.Hour
}

// canSwitch reports whether the network stopped the last attempt, and there is a route that this
// connect has not tried yet.
func (r *connectLoop) canSwitch() bool {
	return r.stopped != "" && r.failures[r.stopped.Other()] == nil
}

// isTransient reports whether another attempt may succeed: if the network stopped the last one, also
// by the other route.
func (r *connectLoop) isTransient(failed *connectError) bool {
	return failed.isTransient() || r.stopped != "" && r.failures[r.stopped.Other()].isTransient()
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
