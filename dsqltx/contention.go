package dsqltx

import (
	"container/list"
	"context"
	"slices"
	"sync"
	"time"
)

// # Contention
//
// DSQL takes no locks. Of the transactions that change a row at the same time, the first to commit
// wins, and the others learn at COMMIT that all their work was for nothing. Running them again at
// once is fast, because the row is never idle, but most attempts lose, and each attempt costs money.
// Waiting for a fixed time wastes the row. Queueing all transactions of one function delays those
// that never meet.
//
// So transactions queue by what they are likely to meet at: those with equal keys, within this
// process, share a lane. The key is what the caller says (Runner.Key), or else the first
// statement's text and arguments. What a lane does depends on its limit:
//
//	open          no conflict was seen: nobody waits, and the lane lives while it is in use
//	limit ≥ 2     after conflicts: so many may run at a time, the others queue, oldest first
//	1 ≤ limit < 2 one runs at a time, but the next starts before the COMMIT of the one before is
//	              answered: by the part (limit - 1) of the time that a COMMIT takes
//	limit < 1     one runs at a time, and the next starts when the one before has ended
//
// A lane becomes limited by the first conflict between two of its own, to the number that ran then.
// A conflict takes 1 from the limit, a success adds a third, so that about a quarter of the attempts
// may lose where few pairs meet: more would be bound to lose, fewer would wait for what they do not
// meet. Below 2 it is known that pairs do meet. There a conflict takes a half, and a success adds
// 1/64, to keep the tries of a closer start rare. Starting early gains up to half of the time,
// since a COMMIT is in effect long before its answer arrives. How early is right depends on the
// network and on the server, so the lane finds out.
//
// Only conflicts with the lane's own transactions count, that is, those during which one of them
// committed. After other conflicts, with another process for example, an attempt waits for a random
// time that follows its own length, and that doubles (see backoff).
//
// A lane ends when its limit is maxLimit, when it was idle for laneLifetime, or when more than
// maxIdleLanes are idle. A place in a lane is no lock: whoever waited while nothing moved for
// several times as long as usual starts all the same, so that a long transaction or one within
// another stops nobody.
const (
	maxLimit      = 64
	wideStep      = 1.0 / 3
	narrowStep    = 1.0 / 64
	wideLoss      = 1.0
	narrowLoss    = 0.5
	laneLifetime  = 5 * time.Second
	maxIdleLanes  = 4096
	minPatience   = 2 * time.Millisecond
	patienceRatio = 8

	// Timers are not much finer. An early start that would wait less than this comes at once.
	minLead = 50 * time.Microsecond
)

// laneKey says which transactions share a lane; 0 is none.
type laneKey uint64

// laneTable holds the lanes of this process.
type laneTable struct {
	mu      sync.Mutex // guards what follows, all lanes, and all turns that have one
	lanes   map[laneKey]*lane
	tickets uint64

	idle     list.List // of limited lanes that nobody uses, the longest idle first
	sweeping bool      // a timer is set for sweep, which is so while idle has lanes
}

var lanes = newLaneTable()

func newLaneTable() *laneTable { return &laneTable{lanes: map[laneKey]*lane{}} }

// lane is the transactions with one key.
type lane struct {
	key        laneKey
	limited    bool
	limit      float64
	users      int           // turns that wait or run
	running    int           // turns that count against the limit
	waiting    []*turn       // by ticket
	commits    int           // since the lane began
	commitTime time.Duration // a moving average, from COMMIT to its answer
	holdTime   time.Duration // a moving average, from a start to the start that it allows
	moved      time.Time     // when a turn last started or ended
	idleSince  time.Time
	element    *list.Element // in laneTable.idle, or nil
}

// turn is the place of one attempt.
//
//	new      --enter-->  running, or waiting
//	waiting  --the lane admits it-->  running
//	running  --committing, when the lane's limit says so-->  released: the next may start
//	any      --end-->  ended
type turn struct {
	table  *laneTable
	key    laneKey
	fixed  bool   // key is Runner.Key's
	none   bool   // the transaction meets no other, because it is read-only
	ticket uint64 // of the first attempt with this key: the oldest goes first

	lane     *lane
	state    turnState
	queued   bool          // it had to wait
	admitted chan struct{} // closed when a waiting turn may start
	started  time.Time
	commits  int       // lane.commits at the start
	sent     time.Time // when COMMIT was sent
	early    *time.Timer
}

type turnState int

const (
	turnNew turnState = iota
	turnWaiting
	turnRunning
	turnReleased
	turnEnded
)

// next returns the turn of the attempt after t's.
func (t *turn) next() *turn {
	return &turn{table: t.table, key: t.key, fixed: t.fixed, none: t.none, ticket: t.ticket, started: time.Now()}
}

// enter takes a place in the lane of key, unless the turn has a fixed key. It returns false if the
// caller has to wait.
func (t *turn) enter(key laneKey) bool {
	if !t.fixed && t.key != key {
		t.key, t.ticket = key, 0
	}
	t.started = time.Now()
	if t.key == 0 || t.none {
		return true
	}
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	if t.ticket == 0 {
		t.table.tickets++
		t.ticket = t.table.tickets
	}
	t.lane = t.table.use(t.key)
	if t.lane.hasRoom() && len(t.lane.waiting) == 0 {
		t.lane.start(t)
		return true
	}
	t.lane.queue(t)
	return false
}

// take enters and waits. It returns ctx's error if ctx is over.
func (t *turn) take(ctx context.Context, key laneKey) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if t.enter(key) {
		return nil
	}
	return t.wait(ctx)
}

// wait returns when a turn that could not enter may start, or with ctx's error.
func (t *turn) wait(ctx context.Context) error {
	timer := time.NewTimer(minPatience)
	defer timer.Stop()
	for {
		select {
		case <-t.admitted:
			return nil
		case <-timer.C:
			timer.Reset(t.insist())
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// insist admits the first of a lane in which nothing has moved for too long, and returns when to
// look again.
func (t *turn) insist() time.Duration {
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	l := t.lane
	patience := max(minPatience, patienceRatio*l.holdTime)
	if left := patience - time.Since(l.moved); left > 0 {
		return left
	}
	if len(l.waiting) > 0 {
		l.admitFirst()
	}
	return patience
}

// committing says that COMMIT is about to be sent.
func (t *turn) committing() {
	if t.lane == nil {
		return
	}
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	l := t.lane
	t.sent = time.Now()
	if !l.limited || l.limit <= 1 || l.limit >= 2 {
		return
	}
	wait := time.Duration((2 - l.limit) * float64(l.commitTime))
	if wait < minLead {
		l.release(t)
		return
	}
	t.early = time.AfterFunc(wait, func() {
		t.table.mu.Lock()
		defer t.table.mu.Unlock()
		l.release(t)
	})
}

// end ends the attempt. It returns how long the attempt took, without its wait, and whether it lost
// to another one of its lane. A second call does nothing.
func (t *turn) end(result outcome) (length time.Duration, lostToPeer bool) {
	l := t.lane
	if l == nil {
		return time.Since(t.started), false
	}
	t.table.mu.Lock()
	defer t.table.mu.Unlock()
	now := time.Now()
	length, t.lane = now.Sub(t.started), nil
	if t.early != nil {
		t.early.Stop()
	}
	if t.state == turnWaiting {
		l.waiting = slices.DeleteFunc(l.waiting, func(w *turn) bool { return w == t })
	} else {
		lostToPeer = l.learn(t, result, now)
		l.release(t)
	}
	t.state = turnEnded
	l.moved = now
	t.table.leave(l, now)
	return length, lostToPeer
}

// hasRoom tells whether one more may run.
func (l *lane) hasRoom() bool { return !l.limited || l.running < max(1, int(l.limit)) }

// queue has t wait among the others, by its ticket.
func (l *lane) queue(t *turn) {
	t.state, t.queued, t.admitted = turnWaiting, true, make(chan struct{})
	at := len(l.waiting)
	for at > 0 && l.waiting[at-1].ticket > t.ticket {
		at--
	}
	l.waiting = slices.Insert(l.waiting, at, t)
}

// start lets t run.
func (l *lane) start(t *turn) {
	t.state, t.started, t.commits = turnRunning, time.Now(), l.commits
	l.running++
	l.moved = t.started
}

// admitFirst starts the first that waits.
func (l *lane) admitFirst() {
	t := l.waiting[0]
	l.waiting = slices.Delete(l.waiting, 0, 1)
	l.start(t)
	close(t.admitted)
}

// release lets others start in t's place.
func (l *lane) release(t *turn) {
	if t.state != turnRunning {
		return
	}
	t.state = turnReleased
	l.running--
	l.holdTime = average(l.holdTime, time.Since(t.started))
	for len(l.waiting) > 0 && l.hasRoom() {
		l.admitFirst()
	}
}

// learn changes the limit by the result of t, and reports whether t lost to another one of the
// lane. A success tells nothing if no other one was near.
func (l *lane) learn(t *turn, result outcome, now time.Time) (lostToPeer bool) {
	met := l.commits > t.commits // another one committed meanwhile
	switch result {
	case applied:
		l.commits++
		if !t.sent.IsZero() {
			l.commitTime = average(l.commitTime, now.Sub(t.sent))
		}
		if l.limited && (met || t.queued) {
			l.widen()
		}
	case conflict:
		if met {
			l.narrow()
		}
		return met
	}
	return false
}

func (l *lane) widen() {
	if l.limit < 2 {
		l.limit += narrowStep
		return
	}
	if l.limit += wideStep; l.limit >= maxLimit {
		l.limited = false
	}
}

func (l *lane) narrow() {
	if !l.limited {
		l.limited, l.limit = true, float64(min(l.users, maxLimit))
	}
	if l.limit < 2 {
		l.limit = max(0, l.limit-narrowLoss)
	} else {
		l.limit -= wideLoss
	}
}

// average is a moving average of about the last eight values.
func average(old, value time.Duration) time.Duration {
	if old == 0 {
		return value
	}
	return old + (value-old)/8
}

// use returns the lane of key for one more turn.
func (lt *laneTable) use(key laneKey) *lane {
	l := lt.lanes[key]
	if l == nil {
		l = &lane{key: key}
		lt.lanes[key] = l
	}
	if l.element != nil {
		lt.idle.Remove(l.element)
		l.element = nil
	}
	l.users++
	return l
}

// leave ends one turn's use of l. Lanes end here too: an open one that nobody uses, and limited
// ones that are idle for long, or too many.
func (lt *laneTable) leave(l *lane, now time.Time) {
	if l.users--; l.users > 0 {
		return
	}
	if !l.limited {
		delete(lt.lanes, l.key)
		return
	}
	l.idleSince = now
	l.element = lt.idle.PushBack(l)
	if lt.idle.Len() > maxIdleLanes {
		lt.drop(lt.idle.Front().Value.(*lane))
	}
	lt.dropExpired()
	if !lt.sweeping {
		lt.sweeping = true
		time.AfterFunc(laneLifetime, lt.sweep)
	}
}

// sweep ends the lanes that are idle for too long, and comes again as long as there are idle ones.
func (lt *laneTable) sweep() {
	lt.mu.Lock()
	defer lt.mu.Unlock()
	if left := lt.dropExpired(); left > 0 {
		time.AfterFunc(left, lt.sweep)
		return
	}
	lt.sweeping = false
}

// dropExpired returns how long the first idle lane has left, 0 if there is none.
func (lt *laneTable) dropExpired() (left time.Duration) {
	for first := lt.idle.Front(); first != nil; first = lt.idle.Front() {
		l := first.Value.(*lane)
		if left := laneLifetime - time.Since(l.idleSince); left > 0 {
			return left
		}
		lt.drop(l)
	}
	return 0
}

func (lt *laneTable) drop(l *lane) {
	lt.idle.Remove(l.element)
	delete(lt.lanes, l.key)
}
