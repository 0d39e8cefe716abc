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
	// The quota of new connections to a cluster (AWS guide, "Quotas"): a
	// token bucket that the server fills and empties in the same way.
	defaultConnectRate  = 100 // a second
	defaultConnectBurst = 1000

	// Other processes use the same quota. How much of it they leave is measured over
	// windows of this length, and the rate follows it, down to slowestRate.
	paceWindow  = time.Second
	slowestRate = 1 // a second
)

// pacer spaces out the new connections of this process to one cluster, before
// the server has to refuse them.
//
//	burst     nothing refused yet: connections go at once, up to the burst
//	paced     a refusal empties the burst: connections go at the rate
//	slowed    more than a fifth of a window's paced ones refused: at the rate at which they were accepted
//	          and, each window in which fewer are, a quarter faster, up to the rate again
type pacer struct {
	limiter *rate.Limiter
	// Held by the one that waits for the next slot. The others queue for it, in
	// order, and so have no slots yet: these follow the rate as it changes.
	turn    chan struct{}
	waiting atomic.Int64

	mu       sync.Mutex // guards what follows
	ceiling  rate.Limit
	began    time.Time // the window
	accepted int       // in it, of the paced
	refused  int
}

// pacers are one for each cluster ID. They are never dropped: a process talks to a
// handful of clusters.
var pacers sync.Map

// pacerFor returns the cluster's pacer, or nil where c wants none. Configs that
// disagree about one cluster share what the last one says.
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
	return &pacer{limiter: rate.NewLimiter(perSecond, burst), turn: make(chan struct{}, 1), ceiling: perSecond}
}

func (p *pacer) set(perSecond rate.Limit, burst int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if perSecond != p.ceiling {
		p.ceiling = perSecond
		p.limiter.SetLimit(perSecond)
	}
	if burst != p.limiter.Burst() {
		p.limiter.SetBurst(burst)
	}
}

// wait returns when a connection may be opened, and whether it had to wait for that.
// It fails at once, with errPaced, when that would be after ctx's deadline.
func (p *pacer) wait(ctx context.Context) (paced bool, err error) {
	if p.waiting.Load() == 0 && p.limiter.Allow() {
		return false, nil
	}
	ahead := p.waiting.Add(1) - 1
	defer p.waiting.Add(-1)
	if err := p.inTime(ctx, time.Duration(float64(ahead)/float64(p.limiter.Limit())*float64(time.Second))); err != nil {
		return true, err
	}
	select {
	case p.turn <- struct{}{}:
	case <-ctx.Done():
		return true, ctx.Err()
	}
	defer func() { <-p.turn }()

	now := time.Now()
	slot := p.limiter.ReserveN(now, 1)
	delay := slot.DelayFrom(now)
	if err = p.inTime(ctx, delay); err == nil {
		err = sleep(ctx, delay)
	}
	if err != nil {
		slot.Cancel()
	}
	return true, err
}

// inTime fails when ctx's deadline comes before delay is over.
func (p *pacer) inTime(ctx context.Context, delay time.Duration) error {
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < delay {
		return fmt.Errorf("%w: the next free one of %.4g a second is in %s, after the deadline", errPaced, float64(p.limiter.Limit()), delay.Round(time.Millisecond))
	}
	return nil
}

// record counts how the server answered a connection that wait admitted.
func (p *pacer) record(paced, refused bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if refused {
		// What is left of the burst the server does not have.
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
	elapsed := now.Sub(p.began)
	if elapsed < paceWindow {
		return
	}
	if elapsed < 2*paceWindow { // else there was a pause, and this is the first of a new window
		switch limit := p.limiter.Limit(); {
		case 4*p.refused > p.accepted:
			perSecond := rate.Limit(float64(p.accepted) / elapsed.Seconds())
			p.limiter.SetLimitAt(now, min(max(perSecond, slowestRate, limit/2), p.ceiling))
		case limit < p.ceiling:
			p.limiter.SetLimitAt(now, min(limit*5/4, p.ceiling))
		}
	}
	p.began, p.accepted, p.refused = now, 0, 0
}
