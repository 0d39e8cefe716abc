// Sqlx moves money with named queries and structs, and meets a conflict on the way.
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

	"github.com/jmoiron/sqlx"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

// Account is a row of sqlx_accounts.
type Account struct {
	ID      string `db:"id"`
	Owner   string `db:"owner"`
	Balance int64  `db:"balance"`
}

// Transfer is a row of sqlx_transfers.
type Transfer struct {
	Sender   string `db:"sender"`
	Receiver string `db:"receiver"`
	Amount   int64  `db:"amount"`
}

// One statement each: DSQL takes one DDL statement a transaction.
var schema = []string{
	"drop table if exists sqlx_accounts",
	"drop table if exists sqlx_transfers",
	`create table sqlx_accounts (
		id uuid primary key default gen_random_uuid(),
		owner text not null unique,
		balance bigint not null check (balance >= 0))`,
	`create table sqlx_transfers (
		id uuid primary key default gen_random_uuid(),
		sender uuid not null,
		receiver uuid not null,
		amount bigint not null)`,
}

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
	handle, err := dsql.OpenDB(ctx, config)
	if err != nil {
		return err
	}
	defer handle.Close()
	db := sqlx.NewDb(handle, "pgx") // the name says that placeholders are $1, $2, …

	for _, statement := range schema {
		// Again when another schema change came first (OC001).
		err := dsqltx.Retry(ctx, func(ctx context.Context) error {
			_, err := db.ExecContext(ctx, statement)
			return err
		})
		if err != nil {
			return err
		}
	}
	_, err = db.NamedExecContext(ctx, "insert into sqlx_accounts (owner, balance) values (:owner, :balance)",
		[]Account{{Owner: "ada", Balance: 100}, {Owner: "grace", Balance: 50}})
	if err != nil {
		return err
	}

	// While the first attempt runs, somebody else changes a row that it needs.
	attempt := 0
	disturb := func(account Account) error {
		if attempt++; attempt > 1 {
			return nil
		}
		return deposit(ctx, db, account, 5)
	}
	if err := transfer(ctx, out, db, "ada", "grace", 30, disturb); err != nil {
		return err
	}

	var accounts []Account
	if err := db.SelectContext(ctx, &accounts, "select * from sqlx_accounts order by owner"); err != nil {
		return err
	}
	for _, a := range accounts {
		fmt.Fprintf(out, "%s has %d\n", a.Owner, a.Balance)
	}
	return nil
}

// A transaction that sqlx has not begun has no driver's name, by which sqlx would know
// which placeholders to write.
func init() { sqlx.BindDriver("", sqlx.DOLLAR) }

// in is tx with sqlx's methods, and with the mapping of db.
func in(db *sqlx.DB, tx *sql.Tx) *sqlx.Tx { return &sqlx.Tx{Tx: tx, Mapper: db.Mapper} }

// transfer is a transaction that runs again when it loses. disturb is called between
// its reads and its writes.
func transfer(ctx context.Context, out io.Writer, db *sqlx.DB,
	from, to string, amount int64, disturb func(Account) error,
) error {
	runner := dsqltx.Runner{OnAttempt: func(a dsqltx.Attempt) {
		if a.Err != nil {
			fmt.Fprintf(out, "attempt %d: %v\n", a.Number, a.Err)
			return
		}
		fmt.Fprintf(out, "attempt %d: committed\n", a.Number)
	}}
	return runner.RunSQL(ctx, db.DB, func(ctx context.Context, sqlTx *sql.Tx) error {
		tx := in(db, sqlTx)
		var sender, receiver Account
		if err := tx.GetContext(ctx, &sender, "select * from sqlx_accounts where owner = $1", from); err != nil {
			return err
		}
		if err := tx.GetContext(ctx, &receiver, "select * from sqlx_accounts where owner = $1", to); err != nil {
			return err
		}
		if err := disturb(sender); err != nil {
			return err
		}
		if sender.Balance < amount {
			return fmt.Errorf("%s has %d, which is not enough for %d", from, sender.Balance, amount)
		}
		if err := deposit(ctx, tx, sender, -amount); err != nil {
			return err
		}
		if err := deposit(ctx, tx, receiver, amount); err != nil {
			return err
		}
		_, err := tx.NamedExecContext(ctx,
			"insert into sqlx_transfers (sender, receiver, amount) values (:sender, :receiver, :amount)",
			Transfer{Sender: sender.ID, Receiver: receiver.ID, Amount: amount})
		return err
	})
}

func deposit(ctx context.Context, db sqlx.ExecerContext, account Account, amount int64) error {
	_, err := db.ExecContext(ctx, "update sqlx_accounts set balance = balance + $1 where id = $2", amount, account.ID)
	return err
}
