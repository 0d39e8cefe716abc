package dsqltx

import (
	"context"
	"reflect"
	"sync"
	"time"
)

// turns limits concurrent retries to the number that recently succeeded. Most conflicts are with
// another transaction of the same process. If all the losers ran again at once, all but one would
// lose again; if each waited for long, the row would be idle. So losers queue, and the number that
// may run at once changes as TCP's congestion window does (RFC 5681): a success adds a little, a
// conflict halves it.
//
// A turn is no lock: a transaction that has waited for maxTurnWait runs without one, so a long
// transaction cannot hold up the others.
type turns struct {
	mu      sync.Mutex // guards what follows
	window  float64    // how many may run: 1 or more
	running int
	queue   []chan struct{} // closed when it is the waiter's turn
}

const (
	maxTurns     = 64
	turnDecrease = 0.5
	maxTurnWait  = 50 * time.Millisecond
)

// turnsOf holds a *turns for each function that runs as a transaction, by its code. Transactions of
// the same code are likely to conflict.
var turnsOf sync.Map

func turnsFor(fn any) *turns {
	t, _ := turnsOf.LoadOrStore(reflect.ValueOf(fn).Pointer(), &turns{window: 1})
	return t.(*turns)
}

// hasQueue tells whether others wait.
func (t *turns) hasQueue() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.queue) > 0
}

// acquire returns when it is the caller's turn, after maxTurnWait, or with ctx's error. If it is the
// caller's turn, the caller has to release it.
func (t *turns) acquire(ctx context.Context) (ok bool, err error) {
	t.mu.Lock()
	if len(t.queue) == 0 && t.running < int(t.window) {
		t.running++
		t.mu.Unlock()
		return true, nil
	}
	turn := make(chan struct{})
	t.queue = append(t.queue, turn)
	t.mu.Unlock()

	timer := time.NewTimer(maxTurnWait)
	defer timer.Stop()
	select {
	case <-turn:
		return true, nil
	case <-timer.C:
	case <-ctx.Done():
		err = ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for i, waiting := range t.queue {
		if waiting == turn {
			t.queue = append(t.queue[:i], t.queue[i+1:]...)
			return false, err
		}
	}
	// The turn came at the same moment.
	return true, err
}

// release gives a turn back. lost tells whether its transaction met a conflict.
func (t *turns) release(lost bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	if lost {
		t.window = max(t.window*turnDecrease, 1)
	} else {
		t.window = min(t.window+1/t.window, maxTurns)
	}
	for len(t.queue) > 0 && t.running < int(t.window) {
		close(t.queue[0])
		t.queue = t.queue[1:]
		t.running++
	}
}
