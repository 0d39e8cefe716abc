// Migrate runs golang-migrate's migrations on Aurora DSQL. None of its own drivers works there, so
// this has one (driver.go): a row instead of an advisory lock, DELETE instead of TRUNCATE.
//
// It uses the cluster that $DSQL_URL names, and a local endpoint when that is not set, and
// removes in the end what it made.
package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/signal"

	migrate "github.com/golang-migrate/migrate/v4"
	"github.com/golang-migrate/migrate/v4/source/iofs"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
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
	pool, err := dsql.NewPool(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()

	m, err := newMigrate(ctx, pool, embedded)
	if err != nil {
		return err
	}
	if err := m.Up(); err != nil {
		return err
	}
	version, dirty, err := m.Version()
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "up: version %d, dirty %t\n", version, dirty)
	if err := m.Down(); err != nil {
		return err
	}
	if _, _, err := m.Version(); !errors.Is(err, migrate.ErrNilVersion) {
		return fmt.Errorf("after down: %v", err)
	}
	fmt.Fprintln(out, "down: no version")
	if err := errors.Join(m.Close()); err != nil {
		return err
	}
	for _, table := range []string{versionTable, lockTable} {
		if _, err := pool.Exec(ctx, "drop table "+table); err != nil {
			return err
		}
	}
	return nil
}

// newMigrate runs the migrations in the directory migrations of files. ctx bounds everything.
func newMigrate(ctx context.Context, pool *pgxpool.Pool, files fs.FS) (*migrate.Migrate, error) {
	source, err := iofs.New(files, "migrations")
	if err != nil {
		return nil, err
	}
	d, err := newDriver(ctx, pool)
	if err != nil {
		return nil, err
	}
	return migrate.NewWithInstance("iofs", source, "dsql", d)
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
