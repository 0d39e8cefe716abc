// Httpservice takes orders over HTTP and keeps them in Aurora DSQL. It says when it lives and when it
// is ready, and stops as a service should: no new requests, those in flight finished, then the pool.
//
// It uses the cluster that $DSQL_URL names, else a local endpoint, and listens on $ADDRESS,
// else on 127.0.0.1:8080.
//
//	curl -X PUT -d '{"item":"tea","quantity":2}' http://127.0.0.1:8080/orders/o-1
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

// shutdownTimeout is what requests in flight get: more than requestTimeout, less than the 30 s that
// Kubernetes and ECS wait before they kill.
const shutdownTimeout = 20 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
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
	pool, err := dsql.NewPool(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close() // when nobody uses it any more: it waits for connections that are in use
	if err := setUp(ctx, pool); err != nil {
		return err
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "tcp", cmp.Or(os.Getenv("ADDRESS"), "127.0.0.1:8080"))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "listening on http://%s\n", listener.Addr())
	return serve(ctx, listener, newService(pool), out)
}

// serve handles requests until ctx ends, and then until the last of them has its answer.
func serve(ctx context.Context, listener net.Listener, handler http.Handler, out io.Writer) error {
	// No BaseContext: requests that are in flight when ctx ends go on.
	server := &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	fmt.Fprintln(out, "shutting down: finishing requests in flight")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), shutdownTimeout)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return errors.Join(err, server.Close()) // ends the contexts of the requests that are left
	}
	fmt.Fprintln(out, "stopped")
	return nil
}

// setUp is here to have the example in one place; a deployment migrates before it starts services.
func setUp(ctx context.Context, pool *pgxpool.Pool) error {
	for _, ddl := range []string{ // each in a transaction of its own
		"create table if not exists stock (item text primary key, quantity int not null)",
		"create table if not exists orders (id text primary key, item text not null, quantity int not null)",
	} {
		if _, err := pool.Exec(ctx, ddl); err != nil {
			return err
		}
	}
	_, err := dsqltx.Runner{Idempotent: true}.Exec(ctx, pool, "insert into stock values ('tea', 100) on conflict do nothing")
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
