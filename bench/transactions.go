package main

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltx"
)

const (
	contenders = 32
	contended  = 4 // rows
	txEach     = 100
)

// transactions compares dsqltx.Run with the loop that people write, with and without contention.
func transactions(ctx context.Context, e *endpoint, t *table) error {
	for _, c := range []struct {
		group   string
		workers int
		rtt     time.Duration
	}{
		{"transactions, 32 workers on 4 rows", contenders, 0},
		{"transactions, 32 workers on 4 rows, 1 ms round trip", contenders, time.Millisecond},
		{"transactions, 1 worker", 1, 0},
	} {
		if err := contend(ctx, t, e, c.group, c.workers, c.rtt); err != nil {
			return err
		}
	}
	return nil
}

func contend(ctx context.Context, t *table, e *endpoint, group string, workers int, rtt time.Duration) error {
	e.SetRoundTripTime(0)
	pool, err := dsql.NewPool(ctx, e.config(), func(c *pgxpool.Config) {
		c.MaxConns, c.MinConns = int32(workers), int32(workers)
	})
	if err != nil {
		return err
	}
	defer pool.Close()
	for _, statement := range []string{
		"drop table if exists counters",
		"create table counters (id int primary key, n int not null)",
		"insert into counters select id, 0 from generate_series(0, 3) id",
	} {
		if _, err := dsqltx.Exec(ctx, pool, statement); err != nil {
			return err
		}
	}
	e.SetRoundTripTime(rtt)
	var givenUp [2]int
	run := func(i int, tx func(ctx context.Context, pool *pgxpool.Pool, id int) error) func() (float64, error) {
		return func() (float64, error) {
			perSecond, lost, err := commits(workers, func(id int) error { return tx(ctx, pool, id) })
			givenUp[i] += lost
			return perSecond, err
		}
	}
	const rounds = 7
	if err := t.compare(ctx, group, "commits per second", rounds, variant{"plain loop", run(0, plainLoop)}, variant{"dsqltx.Run", run(1, runTx)}); err != nil {
		return err
	}
	for i, name := range []string{"plain loop", "dsqltx.Run"} {
		lost := float64(givenUp[i])
		t.Rows = append(t.Rows, row{Group: group + ", given up", Name: name, Unit: "in all", Median: lost, Low: lost, High: lost, Rounds: rounds + 1})
	}
	return nil
}

func increment(ctx context.Context, tx pgx.Tx, id int) error {
	_, err := tx.Exec(ctx, "update counters set n = n + 1 where id = $1", id)
	return err
}

func runTx(ctx context.Context, pool *pgxpool.Pool, id int) error {
	return dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error { return increment(ctx, tx, id) })
}

// plainLoop is what people write: 3 retries, 100 ms first, doubling, a quarter of jitter.
func plainLoop(ctx context.Context, pool *pgxpool.Pool, id int) (err error) {
	wait := 100 * time.Millisecond
	for attempt := 0; ; attempt++ {
		err = pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return increment(ctx, tx, id) })
		if !dsqltx.IsConflict(err) || attempt == 3 {
			return err
		}
		time.Sleep(wait + time.Duration((rand.Float64()*2-1)*float64(wait)/4))
		wait *= 2
	}
}

// commits has workers run transactions on random rows, and returns how many a second were
// committed and how many were given up. A worker that is starved makes the others wait in the
// end, as it does in a program.
func commits(workers int, tx func(id int) error) (perSecond float64, givenUp int, err error) {
	var committed, lost atomic.Int64
	var failed atomic.Value
	var wg sync.WaitGroup
	began := time.Now()
	for range workers {
		wg.Go(func() {
			for range max(txEach, 1000/workers) {
				switch err := tx(rand.IntN(contended)); {
				case err == nil:
					committed.Add(1)
				case dsqltx.IsConflict(err):
					lost.Add(1)
				default:
					failed.Store(err)
				}
			}
		})
	}
	wg.Wait()
	if err, ok := failed.Load().(error); ok {
		return 0, 0, err
	}
	return float64(committed.Load()) / time.Since(began).Seconds(), int(lost.Load()), nil
}
