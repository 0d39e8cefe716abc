package dsql

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

const (
	// The quota of new connections to a cluster (AWS guide, "Quotas"). The server has the same kind
	// of token bucket.
	defaultConnectRate  = 100 // a second
	defaultConnectBurst = 1000

	// Other processes use the same quota. The pacer measures how much they leave over windows of
	// this length, and adapts its rate to that, down to minRate.
	paceWindow = time.Second
	minRate    = 1 // a second
)

// pacer delays the new connections of this process to one cluster, so that the server does not
// refuse them.
//
//	burst    connections open at once        until the burst is used up, or one is refused
//	paced    they open at the full rate      until more than a fifth of those in a window are refused
//	slowed   they open at the rate at which  a quarter faster after each window with fewer refusals,
//	         the server accepted them        until the full rate is reached
type pacer struct {
	limiter *rate.Limiter
	// first is held by the call that waits for the next slot. The others wait for first, in order.
	// They have no slots yet, so a change of the rate applies to them.
	first   chan struct{}
	waiting atomic.Int64

	mu          sync.Mutex // guards the fields below
	fullRate    rate.Limit
	windowStart time.Time
	accepted    int // delayed connections in this window that the server accepted
	refused     int // and refused
}

// pacers has a pacer for each cluster ID. They are never removed, since a process uses few
// clusters.
var pacers sync.Map

// pacerFor returns the cluster's pacer, or nil if c wants none. If several Configs disagree, the
// last one counts.
func pacerFor(c Config, clusterID string) *pacer {
	if c.ConnectRate < 0 {
		return nil
	}
	perSecond, burst := rate.Limit(c.ConnectRate), c.ConnectBurst
	if perSecond == 0 {
		perSecond = defaultConnectRate
	}
	if burst == 0 {
		burst = defaultConnectBurst
	}
	found, loaded := pacers.LoadOrStore(clusterID, newPacer(perSecond, burst))
	p := found.(*pacer)
	if loaded {
		p.set(perSecond, burst)
	}
	return p
}

func newPacer(perSecond rate.Limit, burst int) *pacer {
	return &pacer{limiter: rate.NewLimiter(perSecond, burst), first: make(chan struct{}, 1), fullRate: perSecond}
}

func (p *pacer) set(perSecond rate.Limit, burst int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if perSecond != p.fullRate {
		p.fullRate = perSecond
		p.limiter.SetLimit(perSecond)
	}
	if burst != p.limiter.Burst() {
		p.limiter.SetBurst(burst)
	}
}

// wait returns when a connection may be opened, and whether it was delayed. It fails at once with
// errNoSlot if that would be after ctx's deadline.
func (p *pacer) wait(ctx context.Context) (paced bool, err error) {
	if p.waiting.Load() == 0 && p.limiter.Allow() {
		return false, nil
	}
	ahead := p.waiting.Add(1) - 1
	defer p.waiting.Add(-1)
	if err := p.checkDeadline(ctx, time.Duration(float64(ahead)/float64(p.limiter.Limit())*float64(time.Second))); err != nil {
		return true, err
	}
	select {
	case p.first <- struct{}{}:
	case <-ctx.Done():
		return true, ctx.Err()
	}
	defer func() { <-p.first }()

	now := time.Now()
	slot := p.limiter.ReserveN(now, 1)
	delay := slot.DelayFrom(now)
	if err = p.checkDeadline(ctx, delay); err == nil {
		err = sleep(ctx, delay)
	}
	if err != nil {
		slot.Cancel()
	}
	return true, err
}

// checkDeadline fails if ctx's deadline comes before delay is over.
func (p *pacer) checkDeadline(ctx context.Context, delay time.Duration) error {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < delay {
		return fmt.Errorf("%w: at %.4g a second the next slot is in %s, after the deadline", errNoSlot, float64(p.limiter.Limit()), delay.Round(time.Millisecond))
	}
	return nil
}

// record counts the server's answer to a connection that wait admitted.
func (p *pacer) record(paced, refused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if refused {
		// The server's bucket is empty, so empty this one.
		if left := int(p.limiter.TokensAt(now)); left > 0 {
			p.limiter.ReserveN(now, left)
		}
	}
	if !paced {
		return
	}
	if refused {
		p.refused++
	} else {
		p.accepted++
	}
	elapsed := now.Sub(p.windowStart)
	if elapsed < paceWindow {
		return
	}
	if elapsed < 2*paceWindow { // otherwise there was a pause, so the counts are of two windows
		switch limit := p.limiter.Limit(); {
		case 4*p.refused > p.accepted:
			perSecond := rate.Limit(float64(p.accepted) / elapsed.Seconds())
			p.limiter.SetLimitAt(now, min(max(perSecond, minRate, limit/2), p.fullRate))
		case limit < p.fullRate:
			p.limiter.SetLimitAt(now, min(limit*5/4, p.fullRate))
		}
	}
	p.windowStart, p.accepted, p.refused = now, 0, 0
}
