package main

import (
	"context"
	"sync"
	"time"
)

const (
	// Probes come every few seconds, from several places, to every replica. While an idle
	// cluster wakes up, each that finds no connection would have the pool open one more. So an
	// answer holds for a while, and one that is "not ready" for less.
	readyFor    = 30 * time.Second
	notReadyFor = 2 * time.Second

	// pingTimeout is less than probes wait as a rule. The pool goes on connecting after it,
	// so a later ping finds a cluster that has woken meanwhile.
	pingTimeout = 2 * time.Second
)

// readiness asks the database at most once a while, however many ask it. Its
// methods may be called by any number of goroutines at once.
type readiness struct {
	ping func(context.Context) error

	mu    sync.Mutex // guards what follows; held while one pings and the others wait for its answer
	until time.Time  // the answer holds
	err   error
}

func (r *readiness) check(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if time.Now().Before(r.until) {
		return r.err
	}
	// The answer is for all who ask: that one of them has hung up says nothing of the database.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), pingTimeout)
	defer cancel()
	r.err = r.ping(ctx)
	hold := readyFor
	if r.err != nil {
		hold = notReadyFor
	}
	r.until = time.Now().Add(hold)
	return r.err
}
