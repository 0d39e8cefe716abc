package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
)

// The connections are spread over two endpoints, since a local one takes not quite a thousand.
const (
	idleConns     = 1000
	idleEndpoints = 2
)

// idleConnections measures, in a process of its own, what 1,000 idle connections hold.
func idleConnections(ctx context.Context, e *endpoint, t *table) error {
	second, err := start(ctx)
	if err != nil {
		return err
	}
	defer second.close()
	urls := make([]string, idleEndpoints)
	var environment []string
	for i, e := range []*endpoint{e, second} {
		e.AllowKey("AKIDIDLE", "idle", "") // one environment for both
		environment = e.environment()
		urls[i] = "dsql://" + e.Endpoint() + "?dial_address=" + e.Addr() + "&sslrootcert=" + e.caFile
	}
	environment = append(environment, "AWS_ACCESS_KEY_ID=AKIDIDLE", "AWS_SECRET_ACCESS_KEY=idle", "AWS_SESSION_TOKEN=", "DSQL_URLS="+strings.Join(urls, " "))
	var bytes, goroutines [2]float64
	for i, kind := range []string{"pgxpool", "dsql.NewPool"} {
		program, err := os.Executable()
		if err != nil {
			return err
		}
		holder := exec.CommandContext(ctx, program, "-hold", kind)
		holder.Env = environment
		holder.Stderr = os.Stderr
		out, err := holder.Output()
		if err != nil {
			return err
		}
		if _, err := fmt.Sscan(string(out), &bytes[i], &goroutines[i]); err != nil {
			return err
		}
	}
	known := func(f float64) func() (float64, error) { return func() (float64, error) { return f, nil } }
	if err := t.compare(ctx, "1,000 idle connections, heap and stacks", "KiB each", 1,
		variant{"pgxpool", known(bytes[0] / idleConns / 1024)}, variant{"dsql.NewPool", known(bytes[1] / idleConns / 1024)}); err != nil {
		return err
	}
	return t.compare(ctx, "1,000 idle connections, goroutines", "in all", 1,
		variant{"pgxpool", known(goroutines[0])}, variant{"dsql.NewPool", known(goroutines[1])})
}

// hold opens the connections and prints the memory and goroutines that came with them.
func hold(ctx context.Context, kind string) error {
	var pools []*pgxpool.Pool
	memory, goroutines := held()
	for _, url := range strings.Fields(os.Getenv("DSQL_URLS")) {
		c, err := dsql.ParseConfig(url)
		if err != nil {
			return err
		}
		c.ConnectRate = -1
		config, err := c.PoolConfig(ctx)
		if err != nil {
			return err
		}
		if kind == "pgxpool" {
			source, err := dsql.NewTokenSource(ctx, c)
			if err != nil {
				return err
			}
			token, err := source.Token(ctx)
			if err != nil {
				return err
			}
			plain, err := pgxpool.ParseConfig("sslmode=verify-full sslnegotiation=direct user=admin dbname=postgres host=" + c.Host)
			if err != nil {
				return err
			}
			plain.ConnConfig.Password = token.Reveal()
			plain.ConnConfig.TLSConfig = config.ConnConfig.TLSConfig.Clone()
			plain.ConnConfig.LookupFunc = func(context.Context, string) ([]string, error) { return []string{c.Host}, nil }
			plain.ConnConfig.DialFunc = func(ctx context.Context, network, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, c.DialAddress)
			}
			plain.ConnConfig.Fallbacks = nil
			config = plain
		}
		config.MaxConns = idleConns / idleEndpoints
		pool, err := pgxpool.NewWithConfig(ctx, config)
		if err != nil {
			return err
		}
		defer pool.Close()
		pools = append(pools, pool)
	}
	var conns []*pgxpool.Conn
	for _, pool := range pools {
		for range idleConns / idleEndpoints {
			conn, err := pool.Acquire(ctx)
			if err != nil {
				return err
			}
			conns = append(conns, conn)
		}
	}
	for _, conn := range conns {
		conn.Release()
	}
	clear(conns)
	more, started := held()
	fmt.Println(more-memory, started-goroutines)
	return nil
}

func held() (bytes, goroutines float64) {
	runtime.GC()
	runtime.GC() // the first moves what sync.Pool holds to its victims
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse), float64(runtime.NumGoroutine())
}
