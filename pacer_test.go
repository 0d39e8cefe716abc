package dsql

import (
	"context"
	"crypto/tls"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// quota is a server's token bucket.
type quota struct {
	*rate.Limiter
	refusals int
}

// connects opens n connections at once through p, with the quota q, and returns how long that took.
// Each takes a few milliseconds, as a real one does.
func connects(t *testing.T, p *pacer, q *quota, n int) time.Duration {
	t.Helper()
	start := time.Now()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			for {
				paced, err := p.wait(t.Context())
				require.NoError(t, err)
				time.Sleep(time.Duration(1+i%7) * time.Millisecond)
				mu.Lock()
				refused := !q.Allow()
				if refused {
					q.refusals++
				}
				mu.Unlock()
				p.record(paced, refused)
				if !refused {
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(start)
}

func TestPaceBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, q := newPacer(100, 200), &quota{Limiter: rate.NewLimiter(100, 200)}
		took := connects(t, p, q, 600)
		require.GreaterOrEqual(t, took, 4*time.Second-10*time.Millisecond)
		require.Less(t, took, 4200*time.Millisecond)
		require.Less(t, q.refusals, 10)
	})
}

// The server's burst is smaller than the configured one, which the first refusal shows.
func TestPaceSmallerBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, q := newPacer(100, 1000), &quota{Limiter: rate.NewLimiter(100, 200)}
		took := connects(t, p, q, 600)
		require.Less(t, took, 4500*time.Millisecond)
		require.Less(t, q.refusals, 450)
	})
}

// Other processes use half of the quota: the refusals become few, and when the others stop, the
// rate returns to the full one.
func TestPaceSlowsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, q := newPacer(100, 100), &quota{Limiter: rate.NewLimiter(50, 100)}
		took := connects(t, p, q, 1100)
		require.Less(t, took, 25*time.Second) // 20 s at least
		require.Less(t, q.refusals, 450)      // as many as 1,000 without slowing down
		// A quarter faster while at most a fifth is refused: two steps from 50.
		require.LessOrEqual(t, p.limiter.Limit(), rate.Limit(50*1.25*1.25*1.01))

		q.SetLimit(100)
		connects(t, p, q, 500)
		require.EqualValues(t, 100, p.limiter.Limit())
	})
}

// If the server refuses every connection, one is tried a second.
func TestPaceSlowest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(100, 1)
		for range 300 {
			paced, err := p.wait(t.Context())
			require.NoError(t, err)
			p.record(paced, true)
		}
		require.EqualValues(t, minRate, p.limiter.Limit())
	})
}

func TestPaceDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(1, 1)
		paced, err := p.wait(t.Context())
		require.NoError(t, err)
		require.False(t, paced)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		_, err = p.wait(ctx)
		require.ErrorIs(t, err, errNoSlot)
		failed := newConnectError(phasePacing, "a:1", &tls.Config{ServerName: "b"}, err)
		require.ErrorIs(t, failed, ErrRateExceeded)
		require.False(t, failed.isTransient())

		// A call that is cancelled leaves its slot to others.
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		_, err = p.wait(ctx)
		require.ErrorIs(t, err, context.Canceled)
		start := time.Now()
		_, err = p.wait(t.Context())
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(start), time.Second)
	})
}

func TestPacerPerCluster(t *testing.T) {
	c := Config{ConnectRate: 7, ConnectBurst: 3}
	a, b := pacerFor(c, "pacer-a"), pacerFor(c, "pacer-b")
	require.NotSame(t, a, b)
	require.Same(t, a, pacerFor(Config{}, "pacer-a"))
	require.EqualValues(t, 100, a.limiter.Limit())
	require.Equal(t, 1000, a.limiter.Burst())
	require.Nil(t, pacerFor(Config{ConnectRate: -1}, "pacer-a"))
}
