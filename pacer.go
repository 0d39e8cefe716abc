package dsql

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// The quota of new connections to a cluster (AWS guide, "Quotas"): a token bucket.
	defaultConnectRate  = 100 // a second
	defaultConnectBurst = 1000

	// While nothing is known of other processes, a connection that does not answer holds up the next
	// one for this long. It is above the time of a connect inside a Region (p99 120 ms, measured by
	// others with 1,000 at once), but for a few.
	answerTimeout = 50 * time.Millisecond

	// A refusal multiplies the rate by this, unless the share is larger.
	slowDown = 0.85

	// The first slot after the first refusal is at a random time within this part of an interval, so
	// that processes which started together do not go on together. A process that wants one connection
	// only tries again in the time of loneTokens.
	firstSlot  = 0.85
	loneTokens = 10

	// The times between two slots vary by this part.
	slotJitter = 0.1

	// So many connections in a row have to be accepted, and so much time of the present rate, before one
	// goes ahead of its time to see whether the quota has room.
	probeAfter     = 2
	probeAfterTime = time.Second
)

// errNoSlot means that the pacer has no slot before the deadline.
var errNoSlot = errors.New("too many new connections from this process")

// pacer delays the new connections of this process to one cluster, so that the server refuses few of
// them. All processes share the cluster's quota, a token bucket, but they see only what the server
// accepts and refuses.
//
//	state    connections open                          ends with
//	free     at once, up to the burst, then at the     a refusal
//	         full rate; a few at first, more as the
//	         server accepts them
//	limited  at this process' share of the quota       nothing to do for the time in which the
//	                                                   bucket fills: burst/rate, 10 s
//
// A refusal means that the bucket is empty. What this process took of it is its share then: one that
// took 100 of the 1,000 may go on at a tenth of the rate, and any at a thousandth, once in 10 s. Each
// further refusal slows it down, but not below its share of that moment, and the next connection is
// tried after half the time, since the others are ahead now. When several were accepted in a row, the
// bucket has tokens that others left: connections open at once until the next refusal. docs/pools.md
// has what that gives in a fleet, and TestFleet simulates it.
type pacer struct {
	// first is held by the call that waits for the next slot. The others wait for first, in order.
	first   chan struct{}
	waiting atomic.Int64

	mu       sync.Mutex // guards the fields below
	fullRate float64    // a second
	burst    float64
	rateSet  bool // by a Config, as is burstSet
	burstSet bool

	// The bucket as it would be if this process were alone.
	tokens   float64
	filledAt time.Time

	limited  bool
	rate     float64   // when limited
	next     time.Time // when limited: the next slot
	inRow    int       // when limited: accepted since the last refusal
	accepted int       // when free: since the state began
	inFlight int       // slots without an answer
	lastSlot time.Time
	refused  time.Time     // the last refusal that counted
	busy     time.Time     // the last time that there was something to do
	changed  chan struct{} // closed when an answer may have changed the next slot
}

// slot is the permission to open a connection. It ends with an answer.
type slot struct{ start time.Time }

// answer is the server's answer to a connection, as far as the quota is concerned.
type answer int

const (
	answerNone     answer = iota // the connection failed, or needs none
	answerAccepted               // the quota had a token, whatever became of the login
	answerRefused
)

// pacers has a pacer for each cluster ID. They are never removed, since a process uses few clusters.
var pacers sync.Map

// pacerFor returns the cluster's pacer, or nil if c wants none. The slowest rate and the smallest burst
// that any Config set count; 0 sets none.
func pacerFor(c Config, clusterID string) *pacer {
	if c.ConnectRate < 0 {
		return nil
	}
	found, _ := pacers.LoadOrStore(clusterID, newPacer(defaultConnectRate, defaultConnectBurst))
	p := found.(*pacer)
	p.limit(c.ConnectRate, c.ConnectBurst)
	return p
}

func newPacer(perSecond float64, burst int) *pacer {
	return &pacer{
		first: make(chan struct{}, 1), changed: make(chan struct{}),
		fullRate: perSecond, burst: float64(burst), tokens: float64(burst), filledAt: time.Now(),
	}
}

// limit sets the rate and burst to those of another Config, if they are slower; 0 sets nothing.
func (p *pacer) limit(perSecond float64, burst int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fill(time.Now())
	if perSecond > 0 && (!p.rateSet || perSecond < p.fullRate) {
		p.fullRate, p.rateSet = perSecond, true
		p.rate = min(p.rate, perSecond)
	}
	if b := float64(burst); b > 0 && (!p.burstSet || b < p.burst) {
		p.tokens = max(0, p.tokens+b-p.burst)
		p.burst, p.burstSet = b, true
	}
}

// wait returns when a connection may be opened. It fails at once with errNoSlot if ctx's deadline
// comes before the quota can have a token. Every slot has to be released.
func (p *pacer) wait(ctx context.Context) (slot, error) {
	ahead := p.waiting.Add(1) - 1
	defer p.waiting.Add(-1)
	if err := p.begin(ctx, int(ahead)); err != nil {
		return slot{}, err
	}
	select {
	case p.first <- struct{}{}:
	case <-ctx.Done():
		return slot{}, p.ended(ctx)
	}
	defer func() { <-p.first }()
	for {
		granted, delay, changed := p.grant(time.Now())
		if delay == 0 {
			return granted, nil
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-changed:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return slot{}, p.ended(ctx)
		}
	}
}

// begin makes the pacer free if it had nothing to do, and fails if ctx's deadline is too early for a
// call that has so many ahead of it.
func (p *pacer) begin(ctx context.Context, ahead int) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.fill(now)
	if ahead == 0 && p.inFlight == 0 && now.Sub(p.busy).Seconds() > p.burst/p.fullRate {
		p.limited, p.accepted, p.rate, p.refused = false, 0, 0, time.Time{}
	}
	p.busy = now
	tokens := 0.0
	if !p.limited {
		tokens = p.tokens
	}
	earliest := seconds((float64(ahead) + 1 - tokens) / p.fullRate)
	if deadline, ok := ctx.Deadline(); ok && deadline.Sub(now) < earliest {
		return fmt.Errorf("%w: at %.4g a second, the next slot is in %s, after the deadline", errNoSlot, p.fullRate, earliest.Round(time.Millisecond))
	}
	return nil
}

// ended returns the error of a call whose context ended.
func (p *pacer) ended(ctx context.Context) error {
	if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return ctx.Err()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.limited {
		return fmt.Errorf("%w: no slot before the deadline", errNoSlot)
	}
	return fmt.Errorf("%w: no slot before the deadline; other processes use most of the quota, so this one opens %.2g a second", errNoSlot, p.rate)
}

// grant returns a slot, or how long to wait for it unless changed is closed before.
func (p *pacer) grant(now time.Time) (granted slot, delay time.Duration, changed chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fill(now)
	p.busy = now
	if p.limited {
		delay = p.next.Sub(now)
	} else {
		delay = p.delayFree(now)
	}
	if delay > 0 {
		return slot{}, delay, p.changed
	}
	p.lastSlot = now
	p.inFlight++
	if p.limited {
		p.next = now.Add(p.interval())
	}
	return slot{start: now}, 0, nil
}

// delayFree returns the delay in the free state. At first one connection may be without an answer, then
// half as many as were accepted.
func (p *pacer) delayFree(now time.Time) time.Duration {
	delay := seconds((1 + float64(p.inFlight) - p.tokens) / p.fullRate)
	if p.inFlight >= 1+p.accepted/6 {
		delay = max(delay, p.lastSlot.Add(answerTimeout).Sub(now))
	}
	return delay
}

// release ends a slot.
func (p *pacer) release(s slot, a answer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.fill(now)
	p.busy = now
	p.inFlight--
	close(p.changed)
	p.changed = make(chan struct{})
	switch a {
	case answerAccepted:
		p.tokens--
		p.accepted++
		p.inRow++
		if p.limited && float64(p.inRow) >= max(probeAfter, p.rate*probeAfterTime.Seconds()) && p.rate < p.fullRate {
			p.limited, p.accepted = false, 0
		}
	case answerRefused:
		if !s.start.After(p.refused) {
			return // it was sent before the last refusal was known
		}
		p.rate = max(p.fullRate*(p.burst-p.tokens)/p.burst, p.rate*slowDown)
		p.next = now.Add(p.interval() / 2)
		if p.refused.IsZero() {
			within := firstSlot * p.interval().Seconds()
			if p.waiting.Load() == 0 {
				within = loneTokens / p.fullRate
			}
			p.next = now.Add(seconds(rand.Float64() * within))
		}
		p.limited, p.refused, p.inRow = true, now, 0
	}
}

// interval returns the time between two slots when limited.
func (p *pacer) interval() time.Duration {
	p.rate = min(max(p.rate, p.fullRate/p.burst), p.fullRate)
	return seconds((1 + slotJitter*(2*rand.Float64()-1)) / p.rate)
}

// fill adds the tokens of the time since the last call.
func (p *pacer) fill(now time.Time) {
	p.tokens = min(p.burst, p.tokens+p.fullRate*now.Sub(p.filledAt).Seconds())
	p.filledAt = now
}

func seconds(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
