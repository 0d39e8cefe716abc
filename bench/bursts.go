package main

import (
	"context"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

const (
	burstConns = 600
	burstRate  = 100 // what the service grants a second
	burstFirst = 200 // what it grants at once, here
)

// bursts opens 600 connections at once against a quota, as the first requests of a service do. The
// quota alone makes it take 4 s.
func bursts(ctx context.Context, _ *endpoint, t *table) error {
	quota := variant{"what the quota takes", func() (float64, error) {
		return float64(burstConns-burstFirst) / burstRate, nil
	}}
	pool := variant{"dsql.NewPool", func() (float64, error) {
		return burst(ctx, func(e *endpoint) (func(context.Context, func()) error, func(), error) {
			p, err := dsql.NewPool(ctx, e.Config(), func(c *pgxpool.Config) { c.MaxConns = burstConns })
			if err != nil {
				return nil, nil, err
			}
			return func(ctx context.Context, hold func()) error {
				return p.AcquireFunc(ctx, func(*pgxpool.Conn) error { hold(); return nil })
			}, p.Close, nil
		})
	}}
	db := variant{"dsql.OpenDB", func() (float64, error) {
		return burst(ctx, func(e *endpoint) (func(context.Context, func()) error, func(), error) {
			db, err := dsql.OpenDB(ctx, e.Config())
			if err != nil {
				return nil, nil, err
			}
			return func(ctx context.Context, hold func()) error {
				conn, err := db.Conn(ctx)
				if err != nil {
					return err
				}
				hold()
				return conn.Close()
			}, func() { db.Close() }, nil
		})
	}}
	return t.compare(ctx, "burst of 600 connections", "s", 2, quota, pool, db)
}

// burst returns how long it takes until all connections are held at the same time. Each has a
// cluster of its own, since the limiter of this process remembers what it did on one.
func burst(ctx context.Context, open func(*endpoint) (acquire func(context.Context, func()) error, done func(), err error)) (float64, error) {
	e, err := start(ctx, dsqltest.WithConnectQuota(burstRate, burstFirst))
	if err != nil {
		return 0, err
	}
	defer e.close()
	acquire, done, err := open(e)
	if err != nil {
		return 0, err
	}
	defer done()
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var held, ended sync.WaitGroup
	held.Add(burstConns)
	errs := make(chan error, burstConns)
	began := time.Now()
	for range burstConns {
		ended.Go(func() {
			once := sync.OnceFunc(held.Done)
			defer once() // a failure must not hold up the others
			errs <- acquire(ctx, func() { once(); held.Wait() })
		})
	}
	held.Wait()
	took := time.Since(began).Seconds()
	ended.Wait()
	close(errs)
	for err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return took, nil
}
