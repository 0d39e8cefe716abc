// Ent creates its tables and indexes, moves money between two accounts, and meets a
// conflict on the way.
//
// It uses the cluster that $DSQL_URL names, else a local endpoint.
package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"

	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
	"github.com/dsqlgo/dsql/examples/ecosystem/ent/ent"
	"github.com/dsqlgo/dsql/examples/ecosystem/ent/ent/account"
)

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
	db, err := dsql.OpenDB(ctx, config)
	if err != nil {
		return err
	}
	defer db.Close()
	for _, table := range []string{"ent_transfers", "ent_accounts"} { // of an earlier run
		err := dsqltx.Retry(ctx, func(ctx context.Context) error {
			_, err := db.ExecContext(ctx, "drop table if exists "+table)
			return err
		})
		if err != nil {
			return err
		}
	}
	client := ent.NewClient(ent.Driver(entsql.OpenDB(dialect.Postgres, db)))
	if err := create(ctx, client, db); err != nil {
		return err
	}
	for owner, balance := range map[string]int64{"ada": 100, "grace": 50} {
		if err := client.Account.Create().SetOwner(owner).SetBalance(balance).Exec(ctx); err != nil {
			return err
		}
	}

	// While the first attempt runs, somebody else changes a row that it needs.
	attempt := 0
	disturb := func(account *ent.Account) error {
		if attempt++; attempt > 1 {
			return nil
		}
		return client.Account.UpdateOneID(account.ID).AddBalance(5).Exec(ctx)
	}
	if err := transfer(ctx, out, db, "ada", "grace", 30, disturb); err != nil {
		return err
	}

	accounts, err := client.Account.Query().Order(account.ByOwner()).All(ctx)
	if err != nil {
		return err
	}
	for _, a := range accounts {
		fmt.Fprintf(out, "%s has %d\n", a.Owner, a.Balance)
	}
	return nil
}

// in is a client for a transaction that ent has not begun.
func in(tx *sql.Tx) *ent.Client {
	return ent.NewClient(ent.Driver(txDriver{entsql.NewDriver(dialect.Postgres, entsql.Conn{ExecQuerier: tx})}))
}

// txDriver gives ent, which wants a transaction for each update, the one that there is.
type txDriver struct{ dialect.Driver }

func (d txDriver) Tx(context.Context) (dialect.Tx, error) { return dialect.NopTx(d.Driver), nil }

// transfer is a transaction that runs again when it loses. disturb is called between
// its reads and its writes.
func transfer(ctx context.Context, out io.Writer, db *sql.DB,
	from, to string, amount int64, disturb func(*ent.Account) error,
) error {
	runner := dsqltx.Runner{OnAttempt: func(a dsqltx.Attempt) {
		if a.Err != nil {
			fmt.Fprintf(out, "attempt %d: %v\n", a.Number, a.Err)
			return
		}
		fmt.Fprintf(out, "attempt %d: committed\n", a.Number)
	}}
	return runner.RunSQL(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
		client := in(tx)
		sender, err := client.Account.Query().Where(account.Owner(from)).Only(ctx)
		if err != nil {
			return err
		}
		receiver, err := client.Account.Query().Where(account.Owner(to)).Only(ctx)
		if err != nil {
			return err
		}
		if err := disturb(sender); err != nil {
			return err
		}
		if sender.Balance < amount {
			return fmt.Errorf("%s has %d, which is not enough for %d", from, sender.Balance, amount)
		}
		if err := client.Account.UpdateOne(sender).AddBalance(-amount).Exec(ctx); err != nil {
			return err
		}
		if err := client.Account.UpdateOne(receiver).AddBalance(amount).Exec(ctx); err != nil {
			return err
		}
		return client.Transfer.Create().SetSender(sender).SetReceiver(receiver).SetAmount(amount).Exec(ctx)
	})
}
