package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dsqlgo/dsql"
)

// connects measures from nothing to ready, over several round-trip times.
func connects(ctx context.Context, e *endpoint, t *table) error {
	for _, rtt := range []time.Duration{0, 5 * time.Millisecond, 20 * time.Millisecond, 80 * time.Millisecond} {
		e.SetRoundTripTime(rtt)
		var variants []variant
		for _, resumed := range []bool{false, true} {
			for _, way := range []struct {
				name string
				set  func(*dsql.Config)
			}{
				{"SSLRequest", func(c *dsql.Config) { c.SSLNegotiation = "postgres" }},
				{"direct", func(*dsql.Config) {}},
				{"direct, EarlyAuth", func(c *dsql.Config) { c.EarlyAuth = true }},
				{"WebSocket", func(c *dsql.Config) { c.Transport = "websocket" }},
			} {
				c := e.config()
				way.set(&c)
				config, err := c.ConnConfig(ctx)
				if err != nil {
					return err
				}
				name := way.name
				if resumed && config.TLSConfig == nil {
					continue // there is none to tune with a WebSocket
				}
				if resumed {
					name += ", TLS resumed"
					config.TLSConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
				}
				variants = append(variants, variant{name, func() (float64, error) { return connect(ctx, config) }})
			}
		}
		rounds := 25
		if rtt > 0 {
			rounds = 11
		}
		if err := t.compare(ctx, fmt.Sprintf("connect, %d ms round trip", rtt.Milliseconds()), "ms", rounds, variants...); err != nil {
			return err
		}
	}
	return nil
}

func connect(ctx context.Context, config *pgx.ConnConfig) (float64, error) {
	began := time.Now()
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return 0, err
	}
	return milliseconds(time.Since(began)), conn.Close(ctx)
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
