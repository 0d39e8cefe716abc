package transport

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

const (
	patience = 3 * time.Second
	name     = "cluster"
)

// network is one of which attempts show how it is.
type network map[Transport]Result

// connect makes attempts as one connect does, and returns by what it got through and how long it
// took. Silence lasts for patience.
func (n network) connect(t *testing.T, m *Memory) (by Transport, took time.Duration) {
	began := time.Now()
	var stopped Transport
	for range 10 {
		a, err := m.Next(t.Context(), name, stopped, patience)
		require.NoError(t, err)
		if n[a.Transport] == Stopped {
			time.Sleep(patience)
		}
		a.Done(n[a.Transport])
		if n[a.Transport] == Open {
			return a.Transport, time.Since(began)
		}
		stopped = a.Transport
	}
	return "", time.Since(began)
}

func TestMemory(t *testing.T) {
	open, blocked := network{TCP: Open, WebSocket: Open}, network{TCP: Stopped, WebSocket: Open}
	check := func(t *testing.T, m *Memory, n network, by Transport, took time.Duration) {
		t.Helper()
		gotBy, gotTook := n.connect(t, m)
		require.Equal(t, by, gotBy)
		require.Equal(t, took, gotTook)
	}
	t.Run("TCP as long as it works", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var m Memory
			for range 10 {
				check(t, &m, open, TCP, 0)
				time.Sleep(time.Hour)
			}
		})
	})
	t.Run("a network that stops TCP costs its time once in a while", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var m Memory
			var paid []time.Time
			for began := time.Now(); time.Since(began) < 3*time.Hour; time.Sleep(10 * time.Second) {
				by, took := blocked.connect(t, &m)
				require.Equal(t, WebSocket, by)
				if took > 0 {
					require.Equal(t, patience, took)
					paid = append(paid, time.Now())
				}
			}
			want := []time.Duration{1, 2, 4, 8, 16, 32, 32, 32, 32} // minutes
			require.Len(t, paid, 1+len(want))
			for i := range want {
				require.InDelta(t, want[i]*time.Minute, paid[i+1].Sub(paid[i]), float64(15*time.Second))
			}
		})
	})
	t.Run("TCP is used again when it works again", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var m Memory
			check(t, &m, blocked, WebSocket, patience)
			check(t, &m, open, WebSocket, 0)
			time.Sleep(firstLook)
			check(t, &m, open, TCP, 0)
			check(t, &m, open, TCP, 0)
		})
	})
	t.Run("a network that changes", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var m Memory
			check(t, &m, open, TCP, 0)
			check(t, &m, blocked, WebSocket, patience)
			check(t, &m, network{TCP: Open, WebSocket: Stopped}, TCP, patience)
			check(t, &m, open, TCP, 0)
			check(t, &m, network{TCP: Stopped, WebSocket: Stopped}, "", 10*patience)
			check(t, &m, blocked, WebSocket, patience)
		})
	})
	t.Run("endpoints are apart", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var m Memory
			check(t, &m, blocked, WebSocket, patience)
			a, err := m.Next(t.Context(), "another", "", patience)
			require.NoError(t, err)
			require.Equal(t, TCP, a.Transport)
		})
	})
}

// A hundred connects at once pay for a network that stops TCP together, not each by itself: one
// looks, the others wait, and all get through at the same time.
func TestManyAtOnce(t *testing.T) {
	for later, began := range map[time.Duration]string{0: "first", firstLook: "later"} {
		t.Run(began, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var m Memory
				n := network{TCP: Stopped, WebSocket: Open}
				if later > 0 {
					n.connect(t, &m)
					time.Sleep(later)
				}
				took := make(chan time.Duration, 100)
				var looks int
				for range cap(took) {
					go func() {
						by, d := n.connect(t, &m)
						require.Equal(t, WebSocket, by)
						took <- d
					}()
				}
				synctest.Wait()
				for range cap(took) {
					d := <-took
					if later == 0 {
						require.Equal(t, patience, d)
					} else if d > 0 {
						require.Equal(t, patience, d)
						looks++
					}
				}
				if later > 0 {
					require.Equal(t, 1, looks)
				}
			})
		})
	}
	t.Run("open", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var m Memory
			first, err := m.Next(t.Context(), name, "", patience)
			require.NoError(t, err)
			began := time.Now()
			took := make(chan time.Duration, 10)
			for range cap(took) {
				go func() {
					a, err := m.Next(t.Context(), name, "", patience)
					require.NoError(t, err)
					require.Equal(t, TCP, a.Transport)
					took <- time.Since(began)
				}()
			}
			time.Sleep(time.Second)
			first.Done(Open)
			for range cap(took) {
				require.Equal(t, time.Second, <-took)
			}
		})
	})
}

func TestWaiting(t *testing.T) {
	t.Run("the one that looks gives up", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var m Memory
			first, err := m.Next(t.Context(), name, "", patience)
			require.NoError(t, err)
			next := make(chan *Attempt)
			go func() {
				a, _ := m.Next(t.Context(), name, "", patience)
				next <- a
			}()
			synctest.Wait()
			first.Done(Unknown)
			first.Done(Stopped) // counts for nothing
			a := <-next
			require.Equal(t, TCP, a.Transport)
			require.True(t, a.look)
		})
	})
	t.Run("no longer than allowed", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var m Memory
			_, err := m.Next(t.Context(), name, "", patience)
			require.NoError(t, err)
			began := time.Now()
			a, err := m.Next(t.Context(), name, "", time.Second)
			require.NoError(t, err)
			require.Equal(t, WebSocket, a.Transport)
			require.Equal(t, time.Second, time.Since(began))
		})
	})
	t.Run("no longer than the context", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			var m Memory
			_, err := m.Next(t.Context(), name, "", patience)
			require.NoError(t, err)
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			_, err = m.Next(ctx, name, "", patience)
			require.ErrorIs(t, err, context.DeadlineExceeded)
		})
	})
}
