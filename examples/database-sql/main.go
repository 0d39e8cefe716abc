// Database-sql uses Aurora DSQL through Go's database/sql: a handle from a
// Config, a transaction, a prepared statement, and the pgx connection beneath.
//
// It uses the cluster that $DSQL_URL names, else a local endpoint. With a URL,
// sql.Open("dsql", url) does as well as the OpenDB used here.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"

	"github.com/jackc/pgx/v5"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	var config dsql.Config
	if url := os.Getenv("DSQL_URL"); url != "" {
		var err error
		if config, err = dsql.ParseConfig(url); err != nil {
			return err
		}
	} else {
		server, err := dsqltest.Start(ctx)
		if err != nil {
			return err
		}
		defer server.Close()
		config = server.Config()
	}

	db, err := dsql.OpenDB(ctx, config)
	if err != nil {
		return err
	}
	defer db.Close()
	if _, err := db.ExecContext(ctx, "create table if not exists accounts (name text primary key, balance bigint not null)"); err != nil {
		return err
	}
	defer func() { _, _ = db.ExecContext(context.WithoutCancel(ctx), "drop table accounts") }()

	if err := fill(ctx, db); err != nil {
		return err
	}
	query, err := db.PrepareContext(ctx, "select balance from accounts where name = $1")
	if err != nil {
		return err
	}
	defer query.Close()
	for _, name := range []string{"ada", "grace"} {
		var balance int64
		if err := query.QueryRowContext(ctx, name).Scan(&balance); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s has %d\n", name, balance)
	}

	// What only pgx can do is one step away.
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(driverConn any) error {
		pgxConn := driverConn.(interface{ Conn() *pgx.Conn }).Conn()
		copied, err := pgxConn.CopyFrom(ctx, pgx.Identifier{"accounts"}, []string{"name", "balance"},
			pgx.CopyFromRows([][]any{{"barbara", int64(7)}, {"frances", int64(8)}}))
		fmt.Fprintf(out, "copied %d more rows with pgx\n", copied)
		return err
	})
}

func fill(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // no effect after Commit
	if _, err := tx.ExecContext(ctx, "insert into accounts values ($1, $2), ($3, $4)", "ada", 100, "grace", 200); err != nil {
		return err
	}
	return tx.Commit()
}
