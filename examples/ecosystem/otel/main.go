// Otel traces and measures what a program does with Aurora DSQL: spans of connects, queries and
// transactions (with an event for each attempt), metrics of retries, tokens and the pool.
//
// It uses the cluster that $DSQL_URL names, and a local endpoint when that is not set. Spans and
// metrics are printed; a real program gives the two providers its exporters instead.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	config, done, err := cluster(ctx, out)
	if err != nil {
		return err
	}
	defer done()

	reader := sdkmetric.NewManualReader()
	metrics := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	traces := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spanPrinter{out}))
	if err := count(ctx, config, traces, metrics, reader, out); err != nil {
		return err
	}
	if err := traces.Shutdown(ctx); err != nil {
		return err
	}
	return metrics.Shutdown(ctx)
}

// count adds to a counter in a transaction that loses once against another, in one span.
func count(ctx context.Context, config dsql.Config, traces *sdktrace.TracerProvider, metrics *sdkmetric.MeterProvider,
	reader sdkmetric.Reader, out io.Writer) error {
	t, err := newTelemetry(traces, metrics)
	if err != nil {
		return err
	}
	pool, err := t.newPool(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()

	// Pgx's spans are made inside of another span only, so that a ping of the pool makes none.
	ctx, span := t.tracer.Start(ctx, "count")
	defer span.End()
	if err := setUp(ctx, pool); err != nil {
		return err
	}
	defer func() { _, _ = pool.Exec(context.WithoutCancel(ctx), "drop table otel_counter") }()

	rival := true
	err = t.runTx(ctx, pool, "add to counter", func(ctx context.Context, tx pgx.Tx) error {
		var n int
		if err := tx.QueryRow(ctx, "select n from otel_counter").Scan(&n); err != nil {
			return err
		}
		if rival { // What another program might do at this moment, once.
			rival = false
			if _, err := pool.Exec(ctx, "update otel_counter set n = n + 10"); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, "update otel_counter set n = $1", n+1)
		return err
	})
	if err != nil {
		return err
	}
	var n int
	if err := pool.QueryRow(ctx, "select n from otel_counter").Scan(&n); err != nil {
		return err
	}
	fmt.Fprintln(out, "counter is", n)
	return printMetrics(ctx, out, reader)
}

func setUp(ctx context.Context, pool *pgxpool.Pool) error {
	if _, err := pool.Exec(ctx, "create table if not exists otel_counter (id int primary key, n int not null)"); err != nil {
		return err
	}
	// The table's creation meets other sessions as a conflict (OC001): Exec runs again then.
	_, err := dsqltx.Runner{Idempotent: true}.Exec(ctx, pool, "insert into otel_counter values (1, 0) on conflict (id) do update set n = 0")
	return err
}

// cluster is the one that $DSQL_URL names, else a local one.
func cluster(ctx context.Context, out io.Writer) (dsql.Config, func(), error) {
	if url := os.Getenv("DSQL_URL"); url != "" {
		config, err := dsql.ParseConfig(url)
		return config, func() {}, err
	}
	fmt.Fprintln(out, "DSQL_URL is not set: starting a local endpoint on PostgreSQL")
	server, err := dsqltest.Start(ctx)
	if err != nil {
		return dsql.Config{}, nil, err
	}
	return server.Config(), func() { _ = server.Close() }, nil
}
