// Sqlc moves money with queries that sqlc has compiled to Go, and meets a conflict
// on the way.
//
// It uses the cluster that $DSQL_URL names, else a local endpoint.
package main

import (
	"context"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/signal"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
	"github.com/dsqlgo/dsql/examples/ecosystem/sqlc/bank"
)

//go:generate go run github.com/sqlc-dev/sqlc/cmd/sqlc@v1.31.1 generate

// One statement a file: DSQL takes one DDL statement a transaction. What is in indexes
// sqlc does not see; it cannot read CREATE INDEX ASYNC.
//
//go:embed schema indexes
var files embed.FS

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	if url := os.Getenv("DSQL_URL"); url != "" {
		config, err := dsql.ParseConfig(url)
		if err != nil {
			return err
		}
		return show(ctx, out, config)
	}
	server, err := dsqltest.Start(ctx)
	if err != nil {
		return err
	}
	defer server.Close()
	return show(ctx, out, server.Config())
}

func show(ctx context.Context, out io.Writer, config dsql.Config) error {
	pool, err := dsql.NewPool(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := migrate(ctx, pool); err != nil {
		return err
	}

	// Single queries are tried again too: after a conflict, or when the schema was changed.
	queries := bank.New(dsqltx.Runner{}.Wrap(pool))
	for owner, balance := range map[string]int64{"ada": 100, "grace": 50} {
		if err := queries.OpenAccount(ctx, bank.OpenAccountParams{Owner: owner, Balance: balance}); err != nil {
			return err
		}
	}

	// While the first attempt runs, somebody else changes a row that it needs.
	attempt := 0
	disturb := func(account bank.Account) error {
		if attempt++; attempt > 1 {
			return nil
		}
		return queries.Deposit(ctx, bank.DepositParams{ID: account.ID, Amount: 5})
	}
	if err := transfer(ctx, out, pool, "ada", "grace", 30, disturb); err != nil {
		return err
	}

	accounts, err := queries.Accounts(ctx)
	if err != nil {
		return err
	}
	for _, a := range accounts {
		fmt.Fprintf(out, "%s has %d\n", a.Owner, a.Balance)
	}
	return nil
}

// migrate makes the tables and indexes anew.
func migrate(ctx context.Context, pool *pgxpool.Pool) error {
	tables, err := statements("schema/*.sql")
	if err != nil {
		return err
	}
	indexes, err := statements("indexes/*.sql")
	if err != nil {
		return err
	}

	drop := []string{"DROP TABLE IF EXISTS sqlc_accounts", "DROP TABLE IF EXISTS sqlc_transfers"}
	for _, sql := range append(drop, tables...) {
		// Exec tries again when another schema change came first (OC001).
		if _, err := dsqltx.Exec(ctx, pool, sql); err != nil {
			return err
		}
	}
	for _, sql := range indexes {
		var job string
		err := dsqltx.Retry(ctx, func(ctx context.Context) error { return pool.QueryRow(ctx, sql).Scan(&job) })
		if err != nil {
			return err
		}
		if err := dsqltx.WaitForJob(ctx, pool, job, nil); err != nil {
			return err
		}
	}
	return nil
}

func statements(pattern string) ([]string, error) {
	names, err := fs.Glob(files, pattern)
	if err != nil {
		return nil, err
	}
	var statements []string
	for _, name := range names {
		sql, err := files.ReadFile(name)
		if err != nil {
			return nil, err
		}
		statements = append(statements, string(sql))
	}
	return statements, nil
}

// transfer is a transaction that runs again when it loses. disturb is called between
// its reads and its writes.
func transfer(ctx context.Context, out io.Writer, pool *pgxpool.Pool,
	from, to string, amount int64, disturb func(bank.Account) error,
) error {
	runner := dsqltx.Runner{OnAttempt: func(a dsqltx.Attempt) {
		if a.Err != nil {
			fmt.Fprintf(out, "attempt %d: %v\n", a.Number, a.Err)
			return
		}
		fmt.Fprintf(out, "attempt %d: committed\n", a.Number)
	}}
	return runner.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		queries := bank.New(tx)
		sender, err := queries.AccountOf(ctx, from)
		if err != nil {
			return err
		}
		receiver, err := queries.AccountOf(ctx, to)
		if err != nil {
			return err
		}
		if err := disturb(sender); err != nil {
			return err
		}
		if sender.Balance < amount {
			return fmt.Errorf("%s has %d, which is not enough for %d", from, sender.Balance, amount)
		}
		if err := queries.Deposit(ctx, bank.DepositParams{ID: sender.ID, Amount: -amount}); err != nil {
			return err
		}
		if err := queries.Deposit(ctx, bank.DepositParams{ID: receiver.ID, Amount: amount}); err != nil {
			return err
		}
		return queries.NoteTransfer(ctx, bank.NoteTransferParams{
			Sender: sender.ID, Receiver: receiver.ID, Amount: amount,
		})
	})
}
