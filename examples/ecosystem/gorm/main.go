// Gorm migrates two tables and an index, moves money between two accounts, and meets a
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
	"time"

	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

// Account has a random key: a serial one is refused, and one from a sequence would have all
// writers meet at the same end of the table.
type Account struct {
	ID      string `gorm:"type:uuid;default:gen_random_uuid()"`
	Owner   string `gorm:"not null;unique"` // part of CREATE TABLE; uniqueIndex is an index
	Balance int64  `gorm:"not null;check:balance >= 0"`
}

func (Account) TableName() string { return "gorm_accounts" }

// Transfer is money that went from one account to another.
type Transfer struct {
	ID       string    `gorm:"type:uuid;default:gen_random_uuid()"`
	Sender   string    `gorm:"type:uuid;not null;index:gorm_transfers_by_sender"`
	Receiver string    `gorm:"type:uuid;not null"`
	Amount   int64     `gorm:"not null"`
	At       time.Time `gorm:"autoCreateTime;not null"`
}

func (Transfer) TableName() string { return "gorm_transfers" }

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

// open lays gorm over a handle, with the settings that it needs on DSQL.
func open(db *sql.DB) (*gorm.DB, error) {
	return gorm.Open(dialector{postgres.New(postgres.Config{Conn: db}).(*postgres.Dialector)}, &gorm.Config{
		// A transaction within a transaction would be a savepoint.
		DisableNestedTransaction: true,
		// A single statement is a transaction by itself.
		SkipDefaultTransaction: true,
		// RunSQL retries after conflicts, so they are not worth a log line.
		Logger: logger.Discard,
	})
}

func show(ctx context.Context, out io.Writer, config dsql.Config) error {
	handle, err := dsql.OpenDB(ctx, config)
	if err != nil {
		return err
	}
	defer handle.Close()
	db, err := open(handle)
	if err != nil {
		return err
	}
	db = db.WithContext(ctx)

	// Each statement of a migration commits by itself, and gorm looks at what is there
	// before each. So it may run again when another schema change came first.
	err = dsqltx.Runner{Idempotent: true}.Retry(ctx, func(context.Context) error {
		if err := db.Migrator().DropTable(&Account{}, &Transfer{}); err != nil {
			return err
		}
		return db.AutoMigrate(&Account{}, &Transfer{})
	})
	if err != nil {
		return err
	}

	opened := []*Account{{Owner: "ada", Balance: 100}, {Owner: "grace", Balance: 50}}
	if err := db.Create(opened).Error; err != nil {
		return err
	}

	// While the first attempt runs, somebody else changes a row that it needs.
	attempt := 0
	disturb := func(account Account) error {
		if attempt++; attempt > 1 {
			return nil
		}
		return deposit(db, account, 5)
	}
	if err := transfer(ctx, out, handle, db, "ada", "grace", 30, disturb); err != nil {
		return err
	}

	var accounts []Account
	if err := db.Order("owner").Find(&accounts).Error; err != nil {
		return err
	}
	for _, a := range accounts {
		fmt.Fprintf(out, "%s has %d\n", a.Owner, a.Balance)
	}
	return nil
}

// in is db within tx, as gorm's own Begin does it.
func in(ctx context.Context, db *gorm.DB, tx *sql.Tx) *gorm.DB {
	session := db.Session(&gorm.Session{NewDB: true, Context: ctx})
	session.Statement.ConnPool = tx
	return session
}

// transfer is a transaction that runs again when it loses. disturb is called between
// its reads and its writes.
func transfer(ctx context.Context, out io.Writer, handle *sql.DB, db *gorm.DB,
	from, to string, amount int64, disturb func(Account) error,
) error {
	runner := dsqltx.Runner{OnAttempt: func(a dsqltx.Attempt) {
		if a.Err != nil {
			fmt.Fprintf(out, "attempt %d: %v\n", a.Number, a.Err)
			return
		}
		fmt.Fprintf(out, "attempt %d: committed\n", a.Number)
	}}
	return runner.RunSQL(ctx, handle, func(ctx context.Context, tx *sql.Tx) error {
		db := in(ctx, db, tx)
		var sender, receiver Account
		if err := db.Take(&sender, "owner = ?", from).Error; err != nil {
			return err
		}
		if err := db.Take(&receiver, "owner = ?", to).Error; err != nil {
			return err
		}
		if err := disturb(sender); err != nil {
			return err
		}
		if sender.Balance < amount {
			return fmt.Errorf("%s has %d, which is not enough for %d", from, sender.Balance, amount)
		}
		// Transaction is part of the one that there is.
		return db.Transaction(func(db *gorm.DB) error {
			if err := deposit(db, sender, -amount); err != nil {
				return err
			}
			if err := deposit(db, receiver, amount); err != nil {
				return err
			}
			return db.Create(&Transfer{Sender: sender.ID, Receiver: receiver.ID, Amount: amount}).Error
		})
	})
}

func deposit(db *gorm.DB, account Account, amount int64) error {
	return db.Model(&account).Update("balance", gorm.Expr("balance + ?", amount)).Error
}
