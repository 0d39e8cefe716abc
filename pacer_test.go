package dsql

import (
	"context"
	"crypto/tls"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/time/rate"
)

// quota is a cluster's token bucket.
type quota struct {
	mu sync.Mutex
	*rate.Limiter
	accepted, refused int
}

func (q *quota) take() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.Allow() {
		q.accepted++
		return true
	}
	q.refused++
	return false
}

// opener opens connections to a cluster.
type opener func(ctx context.Context, q *quota)

// answerTime is how long the server takes to answer, as within a Region.
func answerTime() time.Duration { return 10*time.Millisecond + rand.N(20*time.Millisecond) }

// paced opens connections through p.
func paced(t *testing.T, p *pacer) opener {
	return func(ctx context.Context, q *quota) {
		for {
			s, err := p.wait(ctx)
			require.NoError(t, err)
			latency := answerTime()
			time.Sleep(latency / 2)
			accepted := q.take()
			time.Sleep(latency / 2)
			if accepted {
				p.release(s, answerAccepted)
				return
			}
			p.release(s, answerRefused)
		}
	}
}

// backoff opens connections with exponential backoff and full jitter, from 50 ms to 5 s, and no pacing.
func backoff(_ context.Context, q *quota) {
	for limit := minBackoff; ; limit = min(2*limit, maxBackoff) {
		latency := answerTime()
		time.Sleep(latency / 2)
		accepted := q.take()
		time.Sleep(latency / 2)
		if accepted {
			return
		}
		time.Sleep(rand.N(limit))
	}
}

// openAll opens n connections at once with each opener, and returns how long each opener took.
func openAll(t *testing.T, q *quota, openers []opener, n int) []time.Duration {
	start := time.Now()
	took := make([]time.Duration, len(openers))
	var all sync.WaitGroup
	for i, open := range openers {
		all.Go(func() {
			var wg sync.WaitGroup
			for range n {
				wg.Go(func() { open(t.Context(), q) })
			}
			wg.Wait()
			took[i] = time.Since(start)
		})
	}
	all.Wait()
	return took
}

func newQuota(perSecond rate.Limit, burst int) *quota {
	return &quota{Limiter: rate.NewLimiter(perSecond, burst)}
}

func TestPacerBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuota(100, 200)
		took := openAll(t, q, []opener{paced(t, newPacer(100, 200))}, 600)[0]
		require.GreaterOrEqual(t, took, 4*time.Second-10*time.Millisecond)
		require.Less(t, took, 4500*time.Millisecond)
		require.Less(t, q.refused, 10)
	})
}

// A few connections at once, as of a pool that starts, are hardly delayed; also if the server is far.
func TestPacerFewConnections(t *testing.T) {
	for latency, limit := range map[time.Duration]time.Duration{15 * time.Millisecond: 120 * time.Millisecond, time.Second: 1500 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			p := newPacer(100, 1000)
			start := time.Now()
			var wg sync.WaitGroup
			for range 10 {
				wg.Go(func() {
					s, err := p.wait(t.Context())
					require.NoError(t, err)
					time.Sleep(latency)
					p.release(s, answerAccepted)
				})
			}
			wg.Wait()
			require.LessOrEqual(t, time.Since(start), limit)
		})
	}
}

// The server's burst is smaller than the configured one, which the first refusal shows.
func TestPacerSmallerBurst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQuota(100, 200)
		took := openAll(t, q, []opener{paced(t, newPacer(100, 1000))}, 600)[0]
		require.Less(t, took, 5200*time.Millisecond) // 4 s at least
		require.Less(t, q.refused, 150)
	})
}

// Other processes use half of the quota: few connections are refused, and when the others stop, the
// process uses all of it again.
func TestPacerSlowsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, q := newPacer(100, 100), newQuota(50, 100)
		took := openAll(t, q, []opener{paced(t, p)}, 1100)[0]
		require.Less(t, took, 25*time.Second) // 20 s at least
		require.Less(t, q.refused, 220)

		q.SetLimit(100)
		took = openAll(t, q, []opener{paced(t, p)}, 500)[0]
		require.Less(t, took, 6500*time.Millisecond) // 5 s at least
	})
}

// If the server refuses every connection, the process tries one in 5 to 10 s.
func TestPacerSlowest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(100, 1000)
		start := time.Now()
		for range 100 {
			s, err := p.wait(t.Context())
			require.NoError(t, err)
			p.release(s, answerRefused)
		}
		require.InDelta(t, 500, time.Since(start).Seconds(), 30)
	})
}

func TestPacerDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(1, 1)
		s, err := p.wait(t.Context())
		require.NoError(t, err)
		p.release(s, answerAccepted)

		ctx, cancel := context.WithTimeout(t.Context(), time.Second/2)
		defer cancel()
		start := time.Now()
		_, err = p.wait(ctx)
		require.ErrorIs(t, err, errNoSlot)
		require.Equal(t, start, time.Now(), "fails at once")
		failed := newConnectError(phasePacing, "a:1", &tls.Config{ServerName: "b"}, err)
		require.ErrorIs(t, failed, ErrRateExceeded)
		require.False(t, failed.isTransient())

		// A call that is cancelled leaves its slot to others.
		ctx, cancel = context.WithCancel(t.Context())
		cancel()
		_, err = p.wait(ctx)
		require.ErrorIs(t, err, context.Canceled)
		_, err = p.wait(t.Context())
		require.NoError(t, err)
		require.LessOrEqual(t, time.Since(start), time.Second)
	})
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(100, 1000)
		s, err := p.wait(t.Context())
		require.NoError(t, err)
		p.release(s, answerRefused)
		s, err = p.wait(t.Context())
		require.NoError(t, err)
		p.release(s, answerRefused)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err = p.wait(ctx)
		require.ErrorIs(t, err, errNoSlot)
		require.ErrorContains(t, err, "this one opens 0.1 a second")
	})
}

// A process that wants one connection only does not wait for its share of the quota at the first refusal.
func TestPacerOneConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(100, 1000)
		start := time.Now()
		for range 2 {
			s, err := p.wait(t.Context())
			require.NoError(t, err)
			p.release(s, answerRefused)
		}
		require.Less(t, time.Since(start), 100*time.Millisecond)
		_, err := p.wait(t.Context())
		require.NoError(t, err)
		require.Greater(t, time.Since(start), 4*time.Second)
	})
}

// After a time without connections a process starts anew, since nothing is known of the others.
func TestPacerForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPacer(100, 1000)
		s, err := p.wait(t.Context())
		require.NoError(t, err)
		p.release(s, answerRefused)
		time.Sleep(11 * time.Second)
		start := time.Now()
		s, err = p.wait(t.Context())
		require.NoError(t, err)
		require.Equal(t, start, time.Now())
		p.release(s, answerAccepted)
	})
}

// 0 has no opinion, and of the others the slowest counts, whatever their order.
func TestPacerPerCluster(t *testing.T) {
	for i, configs := range [][]Config{
		{{}, {ConnectRate: 7, ConnectBurst: 3}, {}},
		{{ConnectRate: 7, ConnectBurst: 3}, {ConnectRate: 500}, {ConnectRate: -1}},
		{{ConnectRate: 8}, {ConnectBurst: 3}, {ConnectRate: 7, ConnectBurst: 4}},
	} {
		id := fmt.Sprint("pacer-", i)
		for _, c := range configs {
			pacerFor(c, id)
		}
		p := pacerFor(Config{}, id)
		require.EqualValues(t, 7, p.fullRate, i)
		require.EqualValues(t, 3, p.burst, i)
	}
	p := pacerFor(Config{ConnectRate: 500, ConnectBurst: 5000}, "pacer-faster")
	require.EqualValues(t, 500, p.fullRate, "a quota that AWS raised")
	require.EqualValues(t, 5000, p.burst)
	require.EqualValues(t, 5000, p.tokens)
	require.NotSame(t, p, pacerFor(Config{}, "pacer-0"))
	require.Nil(t, pacerFor(Config{ConnectRate: -1}, "pacer-faster"))
}

// fleetResult describes how a fleet opened its connections.
type fleetResult struct {
	ratio    float64 // of the time until all were connected to that which the quota needs
	refusals float64 // share of the attempts
	last     time.Duration
}

// runFleet opens n connections with each opener.
func runFleet(t *testing.T, q *quota, openers []opener, n int) fleetResult {
	free := q.Tokens()
	q.accepted, q.refused = 0, 0
	last := time.Duration(0)
	for _, took := range openAll(t, q, openers, n) {
		last = max(last, took)
	}
	needed := (float64(len(openers)*n) - free) / float64(q.Limit())
	return fleetResult{
		ratio: last.Seconds() / needed, last: last,
		refusals: float64(q.refused) / float64(q.refused+q.accepted),
	}
}

// A fleet of processes shares a cluster's quota without knowing of each other.
func TestFleet(t *testing.T) {
	processes := func(n int, make func() opener) []opener {
		openers := []opener{}
		for range n {
			openers = append(openers, make())
		}
		return openers
	}
	for name, c := range map[string]struct {
		processes, connections int
		limit                  float64 // of the ratio
	}{
		"500 processes with 10 connections": {500, 10, 1.3},
		"250 processes with 20 connections": {250, 20, 1.5},
		"50 processes with 100 connections": {50, 100, 1.5},
		"10 processes with 500 connections": {10, 500, 1.5},
		"1 process with 5,000 connections":  {1, 5000, 1.1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				q := newQuota(defaultConnectRate, defaultConnectBurst)
				newProcess := func() opener { return paced(t, newPacer(defaultConnectRate, defaultConnectBurst)) }
				start := runFleet(t, q, processes(c.processes, newProcess), c.connections)
				restart := runFleet(t, q, processes(c.processes, newProcess), c.connections)
				t.Logf("%-34s start: %.2f of the quota's time (%s), %.0f %% refused; restart: %.2f (%s), %.0f %%", name,
					start.ratio, start.last.Round(time.Second), 100*start.refusals, restart.ratio, restart.last.Round(time.Second), 100*restart.refusals)

				q = newQuota(defaultConnectRate, defaultConnectBurst)
				plain := runFleet(t, q, processes(c.processes, func() opener { return backoff }), c.connections)
				t.Logf("plain backoff: %.2f (%s), %.0f %% refused", plain.ratio, plain.last.Round(time.Second), 100*plain.refusals)
				for _, r := range []fleetResult{start, restart} {
					require.LessOrEqual(t, r.ratio, c.limit)
					require.Less(t, r.refusals, 0.2)
				}
				require.Greater(t, plain.refusals, 0.5)
			})
		})
	}
	t.Run("1 busy process beside 499 idle ones", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			q := newQuota(defaultConnectRate, defaultConnectBurst)
			ctx, stop := context.WithCancel(t.Context())
			var idle sync.WaitGroup
			slowest := make(chan time.Duration, 1)
			slowest <- 0
			for range 499 {
				idle.Go(func() {
					open := paced(t, newPacer(defaultConnectRate, defaultConnectBurst))
					for { // 10 connections that live for 54 minutes
						select {
						case <-ctx.Done():
							return
						case <-time.After(rand.N(2 * 54 * time.Minute / 10)):
						}
						start := time.Now()
						open(t.Context(), q)
						slowest <- max(<-slowest, time.Since(start))
					}
				})
			}
			r := runFleet(t, q, []opener{paced(t, newPacer(defaultConnectRate, defaultConnectBurst))}, 5000)
			stop()
			idle.Wait()
			t.Logf("%.2f of the quota's time (%s), %.0f %% refused; the idle ones waited %s at most", r.ratio, r.last.Round(time.Second), 100*r.refusals, (<-slowest).Round(time.Millisecond))
			require.LessOrEqual(t, r.ratio, 1.3)
			require.Less(t, r.refusals, 0.2)
		})
	})
}
