package main

import (
	"context"
	"database/sql"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/dsqlgo/dsql"
)

const (
	queryConns = 16 // a pool's, where that many goroutines use it
	queryTime  = 100 * time.Millisecond
	warmUp     = 20 * time.Millisecond
	queryTurns = 81
)

// queries measures a steady state: what a query costs on connections that are open.
func queries(ctx context.Context, e *endpoint, t *table) error {
	for _, goroutines := range []int{1, 8, 64} {
		if err := queriesBy(ctx, t, e, goroutines); err != nil {
			return err
		}
	}
	return nil
}

func queriesBy(ctx context.Context, t *table, e *endpoint, goroutines int) error {
	conns := min(goroutines, queryConns)
	plainConfig, err := e.plain(ctx)
	if err != nil {
		return err
	}
	plainConfig.MaxConns = int32(conns)
	plain, err := pgxpool.NewWithConfig(ctx, plainConfig)
	if err != nil {
		return err
	}
	defer plain.Close()
	ours, err := dsql.NewPool(ctx, e.config(), func(c *pgxpool.Config) { c.MaxConns = int32(conns) })
	if err != nil {
		return err
	}
	defer ours.Close()
	plainConn, err := e.plainConn(ctx)
	if err != nil {
		return err
	}
	plainDB := stdlib.OpenDB(*plainConn)
	defer plainDB.Close()
	ourDB, err := dsql.OpenDB(ctx, e.config())
	if err != nil {
		return err
	}
	defer ourDB.Close()
	for _, db := range []*sql.DB{plainDB, ourDB} {
		db.SetMaxOpenConns(conns)
		db.SetMaxIdleConns(conns)
	}

	// Each turn has new connections, and there are many: one may be a tenth faster than another for all its life.
	measure := func(query func() error) (float64, error) {
		if _, err := throughput(goroutines, warmUp, query); err != nil {
			return 0, err
		}
		return throughput(goroutines, queryTime, query)
	}
	pool := func(p *pgxpool.Pool) func() (float64, error) {
		return func() (float64, error) {
			p.Reset()
			return measure(func() error {
				var one int
				return p.QueryRow(ctx, "select 1").Scan(&one)
			})
		}
	}
	db := func(db *sql.DB) func() (float64, error) {
		return func() (float64, error) {
			db.SetMaxIdleConns(0)
			db.SetMaxIdleConns(conns)
			return measure(func() error {
				var one int
				return db.QueryRowContext(ctx, "select 1").Scan(&one)
			})
		}
	}
	group := fmt.Sprintf("queries, %d goroutines", goroutines)
	if err := t.compare(ctx, group, "per second", queryTurns, variant{"pgxpool", pool(plain)}, variant{"dsql.NewPool", pool(ours)}); err != nil {
		return err
	}
	return t.compare(ctx, group+", database/sql", "per second", queryTurns, variant{"pgx/stdlib", db(plainDB)}, variant{"dsql.OpenDB", db(ourDB)})
}

// throughput runs f in goroutines for a while and returns how often a second it ran.
func throughput(goroutines int, d time.Duration, f func() error) (float64, error) {
	var done atomic.Int64
	var failed atomic.Value
	var wg sync.WaitGroup
	began := time.Now()
	for range goroutines {
		wg.Go(func() {
			for time.Since(began) < d && failed.Load() == nil {
				if err := f(); err != nil {
					failed.Store(err)
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	if err, ok := failed.Load().(error); ok {
		return 0, err
	}
	return float64(done.Load()) / time.Since(began).Seconds(), nil
}
