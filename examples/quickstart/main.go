// Quickstart connects to Aurora DSQL, creates a table, writes two rows in a
// transaction, reads them back, and says how it connected.
//
// It uses the cluster that $DSQL_URL names, as in
//
//	DSQL_URL=dsql://admin@<id>.dsql.us-east-1.on.aws go run ./examples/quickstart
//
// and a local endpoint, on PostgreSQL, when that is not set.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

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

	pool, err := dsql.NewPool(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := sayHow(ctx, out, config, pool); err != nil {
		return err
	}

	// DSQL takes one DDL statement a transaction, which is what Exec by itself is.
	if _, err := pool.Exec(ctx, `create table if not exists quickstart (
		id uuid primary key default gen_random_uuid(), name text not null)`); err != nil {
		return err
	}
	fmt.Fprintln(out, "created    table quickstart")
	defer func() { _, _ = pool.Exec(context.WithoutCancel(ctx), "drop table quickstart") }()

	// On a conflict with another transaction, this runs again.
	err = dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		for _, name := range []string{"Ada", "Grace"} {
			if _, err := tx.Exec(ctx, "insert into quickstart (name) values ($1)", name); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "wrote      2 rows in a transaction")

	rows, err := pool.Query(ctx, "select name from quickstart order by name")
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "read back ", names)
	return nil
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

// sayHow prints how the connection was made, and never the token.
func sayHow(ctx context.Context, out io.Writer, config dsql.Config, pool *pgxpool.Pool) error {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	network := conn.Conn().PgConn().Conn()
	state := network.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState()

	tokens, err := dsql.NewTokenSource(ctx, config)
	if err != nil {
		return err
	}
	token, err := tokens.Token(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintln(out, "connected as", conn.Conn().Config().User)
	fmt.Fprintln(out, "  dialled ", network.RemoteAddr())
	fmt.Fprintln(out, "  SNI     ", state.ServerName)
	fmt.Fprintln(out, "  TLS     ", tls.VersionName(state.Version)+", certificate verified in full")
	fmt.Fprintln(out, "  tokens   expire at", token.Expires().Format(time.TimeOnly)+", new ones are signed as needed")
	return nil
}
