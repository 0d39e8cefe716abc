package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltx"
)

const (
	loadRows   = 200_000 // a round; five rounds are a million
	loadRounds = 5
	loadBatch  = 1000
)

// payload makes a row about 100 bytes long.
var payload = strings.Repeat("x", 92)

// loading compares dsqltx.Writer with plain pgx COPY, by as many workers, a transaction each batch.
func loading(ctx context.Context, e *endpoint, t *table) error {
	for _, rtt := range []time.Duration{0, 5 * time.Millisecond} {
		for _, workers := range []int{1, 4, 16} {
			if err := loadBy(ctx, e, t, workers, rtt); err != nil {
				return err
			}
		}
	}
	return nil
}

func loadBy(ctx context.Context, e *endpoint, t *table, workers int, rtt time.Duration) error {
	e.SetRoundTripTime(0)
	pool, err := dsql.NewPool(ctx, e.config(), func(c *pgxpool.Config) {
		c.MaxConns, c.MinConns = int32(workers), int32(workers)
	})
	if err != nil {
		return err
	}
	defer pool.Close()
	measured := func(load func() error) func() (float64, error) {
		return func() (float64, error) {
			e.SetRoundTripTime(0)
			for _, statement := range []string{"drop table if exists loaded", "create table loaded (id bigint, text text)"} {
				if _, err := dsqltx.Exec(ctx, pool, statement); err != nil {
					return 0, err
				}
			}
			e.SetRoundTripTime(rtt)
			began := time.Now()
			if err := load(); err != nil {
				return 0, err
			}
			perSecond := loadRows / time.Since(began).Seconds()
			e.SetRoundTripTime(0)
			var n int
			if err := pool.QueryRow(ctx, "select count(*) from loaded").Scan(&n); err != nil {
				return 0, err
			}
			if n != loadRows {
				return 0, fmt.Errorf("%d rows are in, not %d", n, loadRows)
			}
			return perSecond, nil
		}
	}
	writer := dsqltx.Writer{Table: pgx.Identifier{"loaded"}, Columns: []string{"id", "text"}, BatchRows: loadBatch, Workers: workers}
	text := writer
	text.Text = true
	return t.compare(ctx, fmt.Sprintf("loading, %d workers, %v round trip", workers, rtt), "rows per second", loadRounds,
		variant{"pgx COPY", measured(func() error { return copyPlain(ctx, pool, workers) })},
		variant{"Writer", measured(func() error {
			_, err := writer.WriteSeq(ctx, pool, func(yield func([]any, error) bool) {
				for id := range loadRows {
					if !yield([]any{int64(id), payload}, nil) {
						return
					}
				}
			})
			return err
		})},
		variant{"Writer, text", measured(func() error {
			_, err := text.WriteSeq(ctx, pool, func(yield func([]any, error) bool) {
				for id := range loadRows {
					if !yield([]any{strconv.Itoa(id), payload}, nil) {
						return
					}
				}
			})
			return err
		})})
}

// copyPlain is what one writes by hand.
func copyPlain(ctx context.Context, pool *pgxpool.Pool, workers int) error {
	var next atomic.Int64
	var once sync.Once
	var failed error
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				first := next.Add(loadBatch) - loadBatch
				if first >= loadRows {
					return
				}
				rows := make([][]any, loadBatch)
				for i := range rows {
					rows[i] = []any{first + int64(i), payload}
				}
				write := func(tx pgx.Tx) error {
					_, err := tx.CopyFrom(ctx, pgx.Identifier{"loaded"}, []string{"id", "text"}, pgx.CopyFromRows(rows))
					return err
				}
				err := pgx.BeginFunc(ctx, pool, write)
				for dsqltx.IsConflict(err) { // the new table's OC001
					err = pgx.BeginFunc(ctx, pool, write)
				}
				if err != nil {
					once.Do(func() { failed = err })
					return
				}
			}
		})
	}
	wg.Wait()
	return failed
}
