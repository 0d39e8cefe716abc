package dsqltx

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

func newTurn(lt *laneTable) *turn { return (&turn{table: lt}).next() }

// conflictIn makes the lane of key a limited one, with a limit below 1: of two turns that run, one
// commits and the other loses.
func conflictIn(t *testing.T, lt *laneTable, key laneKey) {
	winner, loser := newTurn(lt), newTurn(lt)
	require.True(t, winner.enter(key))
	require.True(t, loser.enter(key), "nobody waits before there was a conflict")
	winner.end(applied)
	_, lostToPeer := loser.end(conflict)
	require.True(t, lostToPeer)
}

func TestLaneQueues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := newLaneTable()
		conflictIn(t, lt, 1)
		var mu sync.Mutex
		var order []int
		first := newTurn(lt)
		require.True(t, first.enter(1))
		for i := range 5 {
			go func() {
				turn := newTurn(lt)
				require.NoError(t, turn.take(t.Context(), 1))
				mu.Lock()
				order = append(order, i)
				mu.Unlock()
				turn.end(applied)
			}()
			synctest.Wait() // one after the other
		}
		require.True(t, newTurn(lt).enter(2), "another key is not held up")
		require.True(t, newTurn(lt).enter(0), "no key is not held up")
		readOnly := newTurn(lt)
		readOnly.none = true
		require.True(t, readOnly.enter(1), "a read-only transaction is not held up")
		require.Empty(t, order)
		first.end(applied)
		synctest.Wait()
		require.Equal(t, []int{0, 1, 2, 3, 4}, order)
	})
}

// Who lost goes before those who came later.
func TestLaneKeepsPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := newLaneTable()
		conflictIn(t, lt, 1)
		old := newTurn(lt)
		require.True(t, old.enter(1))
		young := newTurn(lt)
		require.False(t, young.enter(1))
		runs := newTurn(lt)
		require.False(t, runs.enter(1))
		old.end(conflict) // with something outside of the lane
		old = old.next()
		require.False(t, old.enter(1), "young runs")
		young.end(applied)
		synctest.Wait()
		select {
		case <-old.admitted:
		default:
			t.Error("the old one is not next")
		}
	})
}

// A context that ends ends the wait, and leaves the queue to others.
func TestLaneContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := newLaneTable()
		conflictIn(t, lt, 1)
		first := newTurn(lt)
		require.True(t, first.enter(1))
		ctx, cancel := context.WithCancel(t.Context())
		second := newTurn(lt)
		require.False(t, second.enter(1))
		third := newTurn(lt)
		require.False(t, third.enter(1))
		cancel()
		require.ErrorIs(t, second.wait(ctx), context.Canceled)
		second.end(failed)
		first.end(applied)
		require.NoError(t, third.wait(t.Context()))
		third.end(applied)
	})
}

// A long transaction, or one within another, holds nobody up for ever.
func TestLanePatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := newLaneTable()
		conflictIn(t, lt, 1)
		for range 20 { // usually it takes 10 ms
			turn := newTurn(lt)
			require.NoError(t, turn.take(t.Context(), 1))
			time.Sleep(10 * time.Millisecond)
			turn.end(applied)
		}
		long := newTurn(lt)
		require.True(t, long.enter(1))
		began := time.Now()
		within := newTurn(lt)
		require.NoError(t, within.take(t.Context(), 1))
		require.InDelta(t, 80, time.Since(began).Milliseconds(), 20)
		within.end(applied)
		long.end(applied)
	})
}

// The limit finds how many may run: about one where pairs meet, many where few do.
func TestLaneLimit(t *testing.T) {
	l := &lane{}
	l.users = 32
	l.narrow()
	require.EqualValues(t, 31, l.limit, "the others may go on")
	for range 30 {
		l.narrow()
	}
	require.Less(t, l.limit, 2.0)
	require.Equal(t, 1, max(1, int(l.limit)))
	for range 200 {
		l.narrow()
	}
	require.Zero(t, l.limit, "no debt")
	successes := 0
	for l.limit < 2 {
		l.widen()
		successes++
	}
	require.Equal(t, 128, successes, "tries of two at once are rare")
	for l.limited {
		l.widen()
		successes++
	}
	require.Less(t, successes, 400, "a lane where nothing meets opens soon")
}

// The next starts ahead of COMMIT's answer by what the limit says.
func TestLaneStartsEarly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for limit, want := range map[float64]time.Duration{1: 10 * time.Millisecond, 1.25: 7500 * time.Microsecond, 1.75: 2500 * time.Microsecond, 1.999: 0} {
			lt := newLaneTable()
			conflictIn(t, lt, 1)
			l := lt.lanes[1]
			l.limit, l.commitTime, l.holdTime = limit, 10*time.Millisecond, 10*time.Millisecond
			first, second := newTurn(lt), newTurn(lt)
			require.True(t, first.enter(1))
			require.False(t, second.enter(1))
			began := time.Now()
			first.committing()
			go func() { time.Sleep(10 * time.Millisecond); first.end(applied) }()
			require.NoError(t, second.wait(t.Context()))
			require.Equal(t, want, time.Since(began), limit)
			time.Sleep(time.Second)
			second.end(applied)
		}
	})
}

// Lanes end: open ones with their last user, limited ones when they are idle for long, or too many.
func TestLanesEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lt := newLaneTable()
		turn := newTurn(lt)
		require.True(t, turn.enter(1))
		require.Len(t, lt.lanes, 1)
		turn.end(applied)
		require.Empty(t, lt.lanes)

		for key := range laneKey(maxIdleLanes + 500) {
			conflictIn(t, lt, key+1)
		}
		require.Len(t, lt.lanes, maxIdleLanes)
		time.Sleep(laneLifetime / 2)
		turn = newTurn(lt)
		require.True(t, turn.enter(maxIdleLanes))
		turn.end(applied)
		time.Sleep(laneLifetime/2 + time.Millisecond)
		synctest.Wait()
		lt.mu.Lock()
		require.Len(t, lt.lanes, 1, "that which was used")
		lt.mu.Unlock()
		time.Sleep(laneLifetime)
		synctest.Wait()
		require.Empty(t, lt.lanes)
		require.Zero(t, lt.idle.Len())
		require.False(t, lt.sweeping, "no timer is left")
	})
}

func TestStatementKeys(t *testing.T) {
	db, other := new(int), new(int)
	key := func(sql string, args ...any) laneKey { return statementKey(db, sql, args) }
	one := 1
	now := time.Now()
	for i, same := range [][2]laneKey{
		{key("select $1", 1), key("select $1", int64(1))},
		{key("select $1", 1), key("select $1", &one)},
		{key("select $1", "a"), key("select $1", "a")},
		{key("select $1", []byte("a")), key("select $1", []byte("a"))},
		{key("select $1", [2]byte{1, 2}), key("select $1", [2]byte{1, 2})},
		{key("select $1", now), key("select $1", now.UTC())},
		{key("select 1"), key("select 1")},
		{namedKey(db, "k"), namedKey(db, "k")},
	} {
		require.Equal(t, same[0], same[1], i)
		require.NotZero(t, same[0], i)
	}
	seen := map[laneKey]int{}
	for i, key := range []laneKey{
		key("select $1", 1), key("select $1", 2), key("select $1 ", 1), key("select $1", "1"), key("select $1", true), key("select $1", false),
		key("select $1", nil), key("select $1, $2", 1, 2), key("select $1, $2", 2, 1), key("select $1, $2", "a", "bc"), key("select $1, $2", "ab", "c"),
		key("select $1", 1.5), key("select 1"), statementKey(other, "select $1", []any{1}), namedKey(db, "k"), namedKey(other, "k"), namedKey(db, "l"),
	} {
		before, found := seen[key]
		require.False(t, found, fmt.Sprint(before, i))
		seen[key] = i
	}
	require.Zero(t, key(""), "no statement")
	require.Zero(t, key("select $1", []int{1}), "not compared")
	require.Zero(t, key("select $1", map[string]int{}), "not compared")
}
