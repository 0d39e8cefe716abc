// Package contend has workers compete for counters, and measures the ways to try again side by
// side: dsqltx.Run, a loop that tries again at once, and what AWS recommends.
package contend

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql/dsqltx"
)

// Cell is one case that is measured.
type Cell struct {
	Workers   int
	Rows      int
	Transfers bool // two rows a transaction, by random amounts: first statements are never the same
	Each      int  // transactions a worker
}

// Policy is a way to try again. run is one attempt.
type Policy struct {
	Name string
	Do   func(ctx context.Context, pool *pgxpool.Pool, key string, attempt func(ctx context.Context, tx pgx.Tx) error) error
}

// Policies are those that are compared. The first is the base.
var Policies = []Policy{
	{"plain loop, at once", plainLoop},
	{"AWS's policy", awsPolicy},
	{"dsqltx.Run", func(ctx context.Context, pool *pgxpool.Pool, _ string, attempt func(context.Context, pgx.Tx) error) error {
		return dsqltx.Run(ctx, pool, attempt)
	}},
}

// Keyed is dsqltx.Run with a Key, for transfers.
var Keyed = Policy{"dsqltx.Run with a Key", func(ctx context.Context, pool *pgxpool.Pool, key string, attempt func(context.Context, pgx.Tx) error) error {
	return dsqltx.Runner{Key: key}.Run(ctx, pool, attempt)
}}

// plainLoop is what people write first.
func plainLoop(ctx context.Context, pool *pgxpool.Pool, _ string, attempt func(context.Context, pgx.Tx) error) error {
	for {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return attempt(ctx, tx) })
		if !dsqltx.IsConflict(err) {
			return err
		}
	}
}

// awsPolicy is what AWS's samples do: 3 retries, after 100 ms, doubling, with a quarter of jitter.
func awsPolicy(ctx context.Context, pool *pgxpool.Pool, _ string, attempt func(context.Context, pgx.Tx) error) error {
	wait := 100 * time.Millisecond
	for retries := 0; ; retries++ {
		err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return attempt(ctx, tx) })
		if !dsqltx.IsConflict(err) || retries == 3 {
			return err
		}
		time.Sleep(wait + time.Duration((rand.Float64()*2-1)*float64(wait)/4))
		wait *= 2
	}
}

// Result is what a policy does in a cell.
type Result struct {
	PerSecond float64 // commits
	Attempts  float64 // per commit
	P50, P99  time.Duration
	GivenUp   int
}

// Measure runs a cell with a policy on a pool that has a connection for each worker.
func Measure(ctx context.Context, pool *pgxpool.Pool, cell Cell, policy Policy) (Result, error) {
	var (
		mu       sync.Mutex // guards what follows
		times    []time.Duration
		attempts int
		givenUp  int
		failure  error
		wg       sync.WaitGroup
	)
	began := time.Now()
	for range cell.Workers {
		wg.Go(func() {
			for range cell.Each {
				tried := 0
				key, attempt := cell.transaction(&tried)
				start := time.Now()
				err := policy.Do(ctx, pool, key, attempt)
				took := time.Since(start)
				mu.Lock()
				attempts += tried
				switch {
				case err == nil:
					times = append(times, took)
				case dsqltx.IsConflict(err):
					givenUp++
				default:
					failure = err
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if failure != nil {
		return Result{}, failure
	}
	slices.Sort(times)
	return Result{
		PerSecond: float64(len(times)) / time.Since(began).Seconds(),
		Attempts:  float64(attempts) / float64(len(times)),
		P50:       times[len(times)/2],
		P99:       times[len(times)*99/100],
		GivenUp:   givenUp,
	}, nil
}

// transaction returns a transaction on random rows, and the key of its first row.
func (c Cell) transaction(tried *int) (key string, attempt func(context.Context, pgx.Tx) error) {
	const add = "update counters set n = n + $1 where id = $2"
	from := rand.IntN(c.Rows)
	if !c.Transfers {
		return "", func(ctx context.Context, tx pgx.Tx) error {
			*tried++
			_, err := tx.Exec(ctx, add, 1, from)
			return err
		}
	}
	to := (from + 1 + rand.IntN(c.Rows-1)) % c.Rows
	amount := 1 + rand.IntN(1_000_000)
	return string(rune('A' + min(from, to))), func(ctx context.Context, tx pgx.Tx) error {
		*tried++
		if _, err := tx.Exec(ctx, add, -amount, from); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, add, amount, to)
		return err
	}
}
