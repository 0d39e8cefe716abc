package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltx"
	"github.com/dsqlgo/dsql/internal/contend"
	"github.com/dsqlgo/dsql/internal/counters"
)

// contentionCells are the cases of contention: few rows and many, and transfers between accounts.
var contentionCells = []struct {
	name string
	contend.Cell
}{
	{"32 workers on 4 rows", contend.Cell{Workers: 32, Rows: 4}},
	{"32 workers on 1 row", contend.Cell{Workers: 32, Rows: 1}},
	{"64 workers on 64 rows", contend.Cell{Workers: 64, Rows: 64}},
	{"4 workers on 4 rows", contend.Cell{Workers: 4, Rows: 4}},
	{"transfers, 16 workers, 20 accounts", contend.Cell{Workers: 16, Rows: 20, Transfers: true}},
}

const (
	contentionRounds = 3
	contentionTime   = time.Second // of a measurement, by a guess of what the plain loop commits
)

// transactions compares dsqltx.Run with the loops that people write: under contention, on a table of
// counters that costs nothing and on the local endpoint, and alone.
func transactions(ctx context.Context, e *endpoint, t *table) error {
	for _, roundTrip := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond} {
		for _, c := range contentionCells {
			group := fmt.Sprintf("%s, %s round trip, counters in memory", c.name, roundTrip)
			if err := contendInMemory(ctx, t, group, c.Cell, roundTrip); err != nil {
				return err
			}
		}
	}
	for _, roundTrip := range []time.Duration{0, time.Millisecond, 5 * time.Millisecond} {
		for _, c := range contentionCells {
			group := fmt.Sprintf("%s, %s round trip, local endpoint", c.name, roundTrip)
			if err := contendOnEndpoint(ctx, t, e, group, c.Cell, roundTrip); err != nil {
				return err
			}
		}
	}
	return singleWorker(ctx, t, e)
}

func contendInMemory(ctx context.Context, t *table, group string, cell contend.Cell, roundTrip time.Duration) error {
	s := counters.New(cell.Rows)
	s.SetRoundTrip(roundTrip, roundTrip/5)
	config, err := pgxpool.ParseConfig("host=counters user=u dbname=d sslmode=disable")
	if err != nil {
		return err
	}
	config.ConnConfig = s.ConnConfig()
	config.MaxConns, config.MinConns = int32(cell.Workers), int32(cell.Workers)
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return err
	}
	defer func() { pool.Close(); s.Wait() }()
	return compete(ctx, t, group, pool, cell)
}

func contendOnEndpoint(ctx context.Context, t *table, e *endpoint, group string, cell contend.Cell, roundTrip time.Duration) error {
	e.SetRoundTripTime(0)
	pool, err := countersPool(ctx, e, cell.Workers, cell.Rows)
	if err != nil {
		return err
	}
	defer pool.Close()
	e.SetRoundTripTime(roundTrip)
	return compete(ctx, t, group, pool, cell)
}

// countersPool makes a table of counters, and a pool for it.
func countersPool(ctx context.Context, e *endpoint, workers, rows int) (*pgxpool.Pool, error) {
	pool, err := dsql.NewPool(ctx, e.config(), func(c *pgxpool.Config) {
		c.MaxConns, c.MinConns = int32(workers), int32(workers)
	})
	if err != nil {
		return nil, err
	}
	for _, statement := range []string{
		"drop table if exists counters",
		"create table counters (id int primary key, n bigint not null)",
		fmt.Sprintf("insert into counters select id, 0 from generate_series(0, %d) id", rows-1),
	} {
		if _, err := dsqltx.Exec(ctx, pool, statement); err != nil {
			pool.Close()
			return nil, err
		}
	}
	return pool, nil
}

// compete measures each policy in turns, and adds its commits, attempts, times and losses.
func compete(ctx context.Context, t *table, group string, pool *pgxpool.Pool, cell contend.Cell) error {
	policies := slices.Clone(contend.Policies)
	if cell.Transfers {
		policies = append(policies, contend.Keyed)
	}
	// The first run opens the connections, and says how many transactions fill the time.
	cell.Each = 5
	first, err := contend.Measure(ctx, pool, cell, policies[0])
	if err != nil {
		return err
	}
	cell.Each = max(5, int(first.PerSecond*contentionTime.Seconds())/cell.Workers)
	results := make([][]contend.Result, len(policies))
	for range contentionRounds {
		for i, policy := range policies {
			if err := ctx.Err(); err != nil {
				return err
			}
			r, err := contend.Measure(ctx, pool, cell, policy)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", group, policy.Name, err)
			}
			results[i] = append(results[i], r)
		}
	}
	for _, metric := range []struct {
		unit string
		of   func(contend.Result) float64
	}{
		{"commits per second", func(r contend.Result) float64 { return r.PerSecond }},
		{"attempts per commit", func(r contend.Result) float64 { return r.Attempts }},
		{"ms, p99", func(r contend.Result) float64 { return r.P99.Seconds() * 1000 }},
		{"given up", func(r contend.Result) float64 { return float64(r.GivenUp) }},
	} {
		var base float64
		for i, policy := range policies {
			var samples []float64
			for _, r := range results[i] {
				samples = append(samples, metric.of(r))
			}
			base = t.add(group, policy.Name, metric.unit, samples, base)
		}
		if metric.unit == "commits per second" {
			ceiling, err := rowCeiling(ctx, pool, cell.Rows)
			if err != nil {
				return err
			}
			t.add(group, "ceiling: a commit a row and round trip", metric.unit, []float64{ceiling}, base)
		}
	}
	return nil
}

// rowCeiling is one commit a row in each round trip, as long as a round trip takes here.
func rowCeiling(ctx context.Context, pool *pgxpool.Pool, rows int) (float64, error) {
	var trips []float64
	for range 20 {
		began := time.Now()
		if _, err := pool.Exec(ctx, "select 1"); err != nil {
			return 0, err
		}
		trips = append(trips, time.Since(began).Seconds())
	}
	slices.Sort(trips)
	return float64(rows) / quantile(trips, 0.5), nil
}

// singleWorker compares what a transaction costs that nobody disturbs.
func singleWorker(ctx context.Context, t *table, e *endpoint) error {
	e.SetRoundTripTime(0)
	pool, err := countersPool(ctx, e, 1, 1)
	if err != nil {
		return err
	}
	defer pool.Close()
	perSecond := func(do func(func(context.Context, pgx.Tx) error) error) func() (float64, error) {
		return func() (float64, error) {
			const n = 1000
			began := time.Now()
			for range n {
				err := do(func(ctx context.Context, tx pgx.Tx) error {
					_, err := tx.Exec(ctx, "update counters set n = n + $1 where id = $2", 1, 0)
					return err
				})
				if err != nil {
					return 0, err
				}
			}
			return n / time.Since(began).Seconds(), nil
		}
	}
	return t.compare(ctx, "transactions, 1 worker", "commits per second", 7,
		variant{"plain", perSecond(func(fn func(context.Context, pgx.Tx) error) error {
			return pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return fn(ctx, tx) })
		})},
		variant{"dsqltx.Run", perSecond(func(fn func(context.Context, pgx.Tx) error) error { return dsqltx.Run(ctx, pool, fn) })})
}
