// Bun makes its tables from structs, moves money between two accounts, and meets a conflict
// on the way.
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

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

// Account has a random key: bun's autoincrement means a serial column, which DSQL does not have.
type Account struct {
	bun.BaseModel `bun:"table:bun_accounts"`

	ID      string `bun:"type:uuid,pk,default:gen_random_uuid()"`
	Owner   string `bun:",notnull,unique"`
	Balance int64  `bun:",notnull"`
}

// Transfer is money that went from one account to another.
type Transfer struct {
	bun.BaseModel `bun:"table:bun_transfers"`

	ID       string `bun:"type:uuid,pk,default:gen_random_uuid()"`
	Sender   string `bun:"type:uuid,notnull"`
	Receiver string `bun:"type:uuid,notnull"`
	Amount   int64  `bun:",notnull"`
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
	db := bun.NewDB(handle, pgdialect.New())

	for _, model := range []any{(*Account)(nil), (*Transfer)(nil)} {
		// DROP TABLE IF EXISTS and CREATE TABLE, a transaction each. It may run again when
		// another schema change came first (OC001).
		err := dsqltx.Runner{Idempotent: true}.Retry(ctx, func(ctx context.Context) error {
			return db.ResetModel(ctx, model)
		})
		if err != nil {
			return err
		}
	}
	// Bun has no form for this: DSQL makes indexes in the background.
	var job string
	err = dsqltx.Retry(ctx, func(ctx context.Context) error {
		return db.NewRaw("CREATE INDEX ASYNC bun_transfers_by_sender ON bun_transfers (sender)").Scan(ctx, &job)
	})
	if err != nil {
		return err
	}
	if err := dsqltx.WaitForSQLJob(ctx, handle, job, nil); err != nil {
		return err
	}

	accounts := []Account{{Owner: "ada", Balance: 100}, {Owner: "grace", Balance: 50}}
	if _, err := db.NewInsert().Model(&accounts).Exec(ctx); err != nil {
		return err
	}

	// While the first attempt runs, somebody else changes a row that it needs.
	attempt := 0
	disturb := func(account Account) error {
		if attempt++; attempt > 1 {
			return nil
		}
		return deposit(ctx, db, handle, account, 5)
	}
	if err := transfer(ctx, out, db, "ada", "grace", 30, disturb); err != nil {
		return err
	}

	if err := db.NewSelect().Model(&accounts).Order("owner").Scan(ctx); err != nil {
		return err
	}
	for _, a := range accounts {
		fmt.Fprintf(out, "%s has %d\n", a.Owner, a.Balance)
	}
	return nil
}

// transfer is a transaction that runs again when it loses. disturb is called between
// its reads and its writes.
func transfer(ctx context.Context, out io.Writer, db *bun.DB,
	from, to string, amount int64, disturb func(Account) error,
) error {
	runner := dsqltx.Runner{OnAttempt: func(a dsqltx.Attempt) {
		if a.Err != nil {
			fmt.Fprintf(out, "attempt %d: %v\n", a.Number, a.Err)
			return
		}
		fmt.Fprintf(out, "attempt %d: committed\n", a.Number)
	}}
	return runner.RunSQL(ctx, db.DB, func(ctx context.Context, tx *sql.Tx) error { // Conn(tx) puts a query into it
		var sender, receiver Account
		if err := db.NewSelect().Model(&sender).Where("owner = ?", from).Conn(tx).Scan(ctx); err != nil {
			return err
		}
		if err := db.NewSelect().Model(&receiver).Where("owner = ?", to).Conn(tx).Scan(ctx); err != nil {
			return err
		}
		if err := disturb(sender); err != nil {
			return err
		}
		if sender.Balance < amount {
			return fmt.Errorf("%s has %d, which is not enough for %d", from, sender.Balance, amount)
		}
		if err := deposit(ctx, db, tx, sender, -amount); err != nil {
			return err
		}
		if err := deposit(ctx, db, tx, receiver, amount); err != nil {
			return err
		}
		note := &Transfer{Sender: sender.ID, Receiver: receiver.ID, Amount: amount}
		_, err := db.NewInsert().Model(note).Conn(tx).Exec(ctx)
		return err
	})
}

func deposit(ctx context.Context, db *bun.DB, conn bun.IConn, account Account, amount int64) error {
	_, err := db.NewUpdate().Model(&account).Set("balance = balance + ?", amount).WherePK().Conn(conn).Exec(ctx)
	return err
}
