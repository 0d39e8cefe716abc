package dsql

import (
	"context"
	"reflect"
	"sync"
	"time"
)

// turns lets as many transactions of this process run again at a time as get through. What lost a
// conflict mostly lost it to another of this process; were all the losers to run again at once,
// all but one would lose again, and to let each wait for long would leave the row idle. So losers
// queue, and the number that may run at once follows what comes of it, as TCP's congestion window
// does (RFC 5681): a success adds a little, a conflict takes a part away.
//
// A turn is a courtesy, not a lock: who has waited for its patience runs without one, so that a
// long transaction holds nobody up.
type turns struct {
	mu      sync.Mutex // guards what follows
	window  float64    // how many may run, 1 or more
	running int
	queue   []chan struct{} // closed when it is the waiter's turn
}

const (
	mostTurns    = 64
	turnDecrease = 0.5
	turnPatience = 50 * time.Millisecond
)

// turnsOf holds a *turns for each function that runs as a transaction, by its code:
// transactions of the same code are those that meet.
var turnsOf sync.Map

func turnsFor(fn any) *turns {
	t, _ := turnsOf.LoadOrStore(reflect.ValueOf(fn).Pointer(), &turns{window: 1})
	return t.(*turns)
}

// crowded tells whether others wait already.
func (t *turns) crowded() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.queue) > 0
}

// wait returns when it is the caller's turn, or patience or ctx is over. A
// turn is to be given back with done, if there is one.
func (t *turns) wait(ctx context.Context) (mine bool, err error) {
	t.mu.Lock()
	if len(t.queue) == 0 && t.running < int(t.window) {
		t.running++
		t.mu.Unlock()
		return true, nil
	}
	turn := make(chan struct{})
	t.queue = append(t.queue, turn)
	t.mu.Unlock()

	timer := time.NewTimer(turnPatience)
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
	// It came at the same moment.
	return true, err
}

// done gives a turn back, and hears what came of it.
func (t *turns) done(lost bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	if lost {
		t.window = max(t.window*turnDecrease, 1)
	} else {
		t.window = min(t.window+1/t.window, mostTurns)
	}
	for len(t.queue) > 0 && t.running < int(t.window) {
		close(t.queue[0])
		t.queue = t.queue[1:]
		t.running++
	}
}
