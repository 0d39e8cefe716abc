package dsqldoctor

import (
	"context"
	"time"
)

// limits bound the parts of a diagnosis.
type limits struct {
	total       time.Duration // of a Diagnose whose context has no deadline
	step        time.Duration
	credentials time.Duration // which may come from several services in turn, or from a program
	plaintext   time.Duration // DSQL may leave it unanswered, which must not delay a healthy report

	// A probe that ignores its context is left behind this long after its time. The whole
	// diagnosis ends so much before its own deadline.
	grace time.Duration
}

var defaultLimits = limits{
	total:       20 * time.Second,
	step:        5 * time.Second,
	credentials: 10 * time.Second,
	plaintext:   time.Second,
	grace:       100 * time.Millisecond,
}

// bound returns ctx with the deadline of the whole diagnosis.
func (l limits) bound(ctx context.Context, now time.Time) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		deadline = now.Add(l.total)
	}
	return context.WithDeadline(ctx, deadline.Add(-l.grace))
}

// shareOf returns the time for one probe: limit, or a third of the time left if that is shorter, so
// that an endpoint that answers nothing leaves time for every step.
func shareOf(ctx context.Context, limit time.Duration) time.Duration {
	if deadline, ok := ctx.Deadline(); ok {
		limit = min(limit, time.Until(deadline)/3)
	}
	return limit
}

const noTimeLeft = "no time left"

// start runs a probe in the background, for limit at most. wait returns what the probe found, also
// when it ignores its context.
func start[T any](ctx context.Context, d *diagnosis, limit time.Duration, probe func(context.Context) (T, finding)) (wait func() (T, finding)) {
	type result struct {
		value T
		finding
	}
	if ctx.Err() != nil {
		return func() (value T, f finding) { return value, finding{skipped: noTimeLeft} }
	}
	limit = shareOf(ctx, limit)
	probeCtx, cancel := d.withTimeout(ctx, limit)
	began := time.Now()
	done := make(chan result, 1)
	go func() {
		var r result
		r.value, r.finding = probe(probeCtx)
		r.took = time.Since(began)
		done <- r
	}()
	return func() (T, finding) {
		defer cancel()
		var r result
		select {
		case r = <-done:
		case <-probeCtx.Done():
			select {
			case r = <-done:
			case <-time.After(d.limits.grace):
				r.finding = finding{outcome: outcomeTimeout, err: probeCtx.Err(), took: time.Since(began)}
			}
		}
		r.limit = limit
		// What the end of the whole diagnosis cut short says nothing about the network.
		if ctx.Err() != nil && (r.outcome == outcomeTimeout || r.outcome == outcomeResolverFailed || r.outcome == outcomeFailed) {
			r.finding = finding{skipped: noTimeLeft}
		}
		return r.value, r.finding
	}
}

// startProbe is start for a probe that returns nothing but its finding.
func startProbe(ctx context.Context, d *diagnosis, limit time.Duration, probe func(context.Context) finding) (wait func() finding) {
	waitBoth := start(ctx, d, limit, func(ctx context.Context) (struct{}, finding) { return struct{}{}, probe(ctx) })
	return func() finding {
		_, f := waitBoth()
		return f
	}
}
