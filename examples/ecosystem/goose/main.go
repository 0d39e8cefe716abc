// Goose migrates an Aurora DSQL cluster with pressly/goose: one DDL statement a migration, an index
// that is built in the background and waited for, one deployment at a time, and every
// migration such that it may run again.
//
// It uses the cluster that $DSQL_URL names, and a local endpoint when that is not set, and
// removes in the end what it made.
package main

import (
	"context"
	"database/sql"
	"embed"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/signal"
	"time"

	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

// Names of this example's own, so that it stays out of the way of real migrations.
const (
	versionTable = "goose_example_version"
	lockTable    = "goose_example_lock"
)

//go:embed migrations/*.sql
var embedded embed.FS

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
	db, err := dsql.OpenDB(ctx, config)
	if err != nil {
		return err
	}
	defer db.Close()
	files, err := fs.Sub(embedded, "migrations")
	if err != nil {
		return err
	}
	provider, err := newProvider(db, files, goose.WithGoMigrations(booksByAuthor(out)))
	if err != nil {
		return err
	}

	if err := up(ctx, provider); err != nil {
		return err
	}
	if err := status(ctx, provider, out); err != nil {
		return err
	}
	if err := downAll(ctx, provider); err != nil {
		return err
	}
	if err := status(ctx, provider, out); err != nil {
		return err
	}
	for _, table := range []string{versionTable, lockTable} {
		if _, err := db.ExecContext(ctx, "drop table "+table); err != nil {
			return err
		}
	}
	return nil
}

func newProvider(db *sql.DB, files fs.FS, opts ...goose.ProviderOption) (*goose.Provider, error) {
	// The session locker, goose's usual one, needs advisory locks, which DSQL has not. This one
	// is a row with a lease, which it renews from another connection.
	locker, err := lock.NewPostgresTableLocker(lock.WithTableName(lockTable),
		lock.WithTableLockTimeout(200*time.Millisecond, 1500), lock.WithTableUnlockTimeout(200*time.Millisecond, 50))
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectAuroraDSQL, db, files, append(opts,
		goose.WithTableName(versionTable),
		// By default a migration and the row that records it are one transaction, and DSQL takes
		// no DDL and DML in one.
		goose.WithIsolateDDL(true),
		goose.WithLocker(locker),
	)...)
}

// up applies what is pending.
func up(ctx context.Context, provider *goose.Provider) error {
	return again(ctx, provider.Up)
}

func downAll(ctx context.Context, provider *goose.Provider) error {
	return again(ctx, func(ctx context.Context) ([]*goose.MigrationResult, error) { return provider.DownTo(ctx, 0) })
}

// again runs migrations until no conflict ends them. Every change of the schema that was made on
// another connection is one, for goose's own connection as for anybody's. It goes on where it was,
// and a migration of which nobody noted that it was applied runs again: each is written for that.
// The results are of the last run only, so Status is what tells.
func again(ctx context.Context, migrate func(context.Context) ([]*goose.MigrationResult, error)) error {
	return dsqltx.Runner{Idempotent: true}.Retry(ctx, func(ctx context.Context) error {
		_, err := migrate(ctx)
		return err
	})
}

func status(ctx context.Context, provider *goose.Provider, out io.Writer) error {
	var all []*goose.MigrationStatus
	err := dsqltx.Runner{Idempotent: true}.Retry(ctx, func(ctx context.Context) (err error) {
		all, err = provider.Status(ctx)
		return err
	})
	for _, s := range all {
		fmt.Fprintf(out, "status  %d %s\n", s.Source.Version, s.State)
	}
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
