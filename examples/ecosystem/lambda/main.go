// Lambda is an AWS Lambda function with a pool outside of its handler: the pool, its connection and
// its token outlast an invocation, for as long as Lambda keeps the execution environment.
//
// The function reaches the cluster that $DSQL_URL names. Outside of Lambda, the handler is called
// twice and what it returned is printed; then a local endpoint is used when $DSQL_URL is not set.
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/aws/aws-lambda-go/lambda"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

func main() {
	if os.Getenv("AWS_LAMBDA_RUNTIME_API") != "" {
		log.Fatal(serve(context.Background()))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

// serve runs once in an execution environment, during its init phase, and returns
// only if that fails.
func serve(ctx context.Context) error {
	config, err := dsql.ParseConfig(os.Getenv("DSQL_URL"))
	if err != nil {
		return err
	}
	pool, err := newPool(ctx, config)
	if err != nil {
		return err
	}
	lambda.StartWithOptions(function{pool}.handle, lambda.WithEnableSIGTERM(func() {
		// Lambda asks an environment that it will not use again, and waits for 500 ms. One that ends
		// without a goodbye may leave a session for the service to find out about, and to count.
		pool.Close()
		log.Print("pool closed")
		os.Exit(0)
	}))
	return nil
}

// newPool opens no connection: the first invocation does, when it needs one.
func newPool(ctx context.Context, config dsql.Config, tune ...func(*pgxpool.Config)) (*pgxpool.Pool, error) {
	return dsql.NewPool(ctx, config, append([]func(*pgxpool.Config){func(c *pgxpool.Config) {
		// An environment has one invocation at a time, so one connection is what it uses. With
		// thousands of environments, what they hold adds up to the cluster's 10,000. The second
		// place is for when the first has died: pgxpool keeps the dead one's for up to 15 s.
		c.MaxConns = 2

		// A connection may have died while the environment was frozen, and a NAT or VPC endpoint
		// says nothing when it drops one (after 350 s). The pool pings a connection that
		// was idle for over a second; without this bound the ping waits as long as TCP does.
		c.PingTimeout = time.Second
	}}, tune...)...)
}

type visit struct {
	Name string `json:"name"`
}

type visits struct {
	Name  string `json:"name"`
	Count int    `json:"count"`
}

// function is what invocations share.
type function struct{ pool *pgxpool.Pool }

// handle counts a visit. ctx ends when the function's time is up.
func (f function) handle(ctx context.Context, v visit) (visits, error) {
	result := visits{Name: v.Name}
	err := dsqltx.Run(ctx, f.pool, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, `insert into lambda_visits (name, count) values ($1, 1)
			on conflict (name) do update set count = lambda_visits.count + 1 returning count`, v.Name).Scan(&result.Count)
	})
	return result, err
}

// run does what two invocations in one environment do.
func run(ctx context.Context, out io.Writer) error {
	config, done, err := cluster(ctx, out)
	if err != nil {
		return err
	}
	defer done()
	pool, err := newPool(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := setUp(ctx, pool); err != nil {
		return err
	}
	defer func() { _, _ = pool.Exec(context.WithoutCancel(ctx), "drop table lambda_visits") }()

	for range 2 {
		result, err := function{pool}.handle(ctx, visit{Name: "Ada"})
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "visit %d of %s, connections opened so far: %d\n", result.Count, result.Name, pool.Stat().NewConnsCount())
	}
	return nil
}

// setUp is no work for a handler: in a deployment, migrations come before the function.
func setUp(ctx context.Context, pool *pgxpool.Pool) error {
	_, err := pool.Exec(ctx, "create table if not exists lambda_visits (name text primary key, count int not null)")
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
