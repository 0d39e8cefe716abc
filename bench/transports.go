package main

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
)

// transports measures what a WebSocket costs on connections that are open, with small answers and with
// large ones.
func transports(ctx context.Context, e *endpoint, t *table) error {
	const goroutines = 8
	pool := func(transport string) (*pgxpool.Pool, error) {
		c := e.config()
		c.Transport = transport
		return dsql.NewPool(ctx, c, func(p *pgxpool.Config) { p.MaxConns = goroutines })
	}
	tcp, err := pool("tcp")
	if err != nil {
		return err
	}
	defer tcp.Close()
	webSocket, err := pool("websocket")
	if err != nil {
		return err
	}
	defer webSocket.Close()
	for _, q := range []struct {
		name, sql string
	}{
		{"a query", "select '1'"},
		{"1 MB", "select string_agg(repeat('x', 1000), '') from generate_series(1, 1000)"},
	} {
		measure := func(p *pgxpool.Pool) func() (float64, error) {
			query := func() error {
				var answer string
				return p.QueryRow(ctx, q.sql).Scan(&answer)
			}
			return func() (float64, error) {
				p.Reset() // see queriesBy
				if _, err := throughput(goroutines, warmUp, query); err != nil {
					return 0, err
				}
				return throughput(goroutines, queryTime, query)
			}
		}
		group := fmt.Sprintf("transport, %s, %d goroutines", q.name, goroutines)
		if err := t.compare(ctx, group, "per second", queryTurns, variant{"TCP", measure(tcp)}, variant{"WebSocket", measure(webSocket)}); err != nil {
			return err
		}
	}
	return nil
}
