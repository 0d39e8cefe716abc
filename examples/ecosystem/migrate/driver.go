package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/golang-migrate/migrate/v4/database"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql/dsqltx"
)

// Names of this example's own, so that it stays out of the way of real migrations, which
// have schema_migrations as a rule.
const (
	versionTable = "migrate_example_version"
	lockTable    = "migrate_example_lock"
)

// idempotent runs statements that may be applied twice.
var idempotent = dsqltx.Runner{Idempotent: true}

// driver is a database.Driver for DSQL. Conflicts with other transactions and changes of the
// schema are met by running a statement again: they leave nothing behind.
type driver struct {
	ctx   context.Context // of all calls: database.Driver passes none
	pool  *pgxpool.Pool
	owner string
}

// newDriver makes the tables that it needs. The pool stays the caller's.
func newDriver(ctx context.Context, pool *pgxpool.Pool) (database.Driver, error) {
	for _, ddl := range []string{ // each in a transaction of its own
		"create table if not exists " + versionTable + " (version bigint primary key, dirty boolean not null)",
		"create table if not exists " + lockTable + " (id int primary key, owner text not null)",
	} {
		if _, err := idempotent.Exec(ctx, pool, ddl); err != nil {
			return nil, err
		}
	}
	host, _ := os.Hostname()
	return &driver{ctx: ctx, pool: pool, owner: fmt.Sprintf("%s, process %d", host, os.Getpid())}, nil
}

// Open is what migrate.New calls. A URL is no place for what dsql.Config holds.
func (d *driver) Open(string) (database.Driver, error) {
	return nil, errors.New("this driver opens no URL: use migrate.NewWithInstance")
}

func (d *driver) Close() error { return nil }

// Lock does not wait. A row needs somebody to delete it, so that of a process which was killed
// stays, as its dirty version does.
func (d *driver) Lock() error {
	tag, err := dsqltx.Exec(d.ctx, d.pool, "insert into "+lockTable+" values (1, $1) on conflict do nothing", d.owner)
	if err == nil && tag.RowsAffected() == 0 {
		var owner string
		_ = d.pool.QueryRow(d.ctx, "select owner from "+lockTable).Scan(&owner) // for the text only
		err = fmt.Errorf("%w: it is held by %q; if that has ended, delete the row in %s", database.ErrLocked, owner, lockTable)
	}
	return err
}

func (d *driver) Unlock() error {
	_, err := idempotent.Exec(context.WithoutCancel(d.ctx), d.pool, "delete from "+lockTable)
	return err
}

// Run sends a file as it is, which makes it one transaction: one DDL statement, or any number of
// others. Of CREATE INDEX ASYNC it waits for the job.
func (d *driver) Run(migration io.Reader) error {
	sql, err := io.ReadAll(migration)
	if err != nil {
		return err
	}
	var results []*pgconn.Result
	err = dsqltx.Retry(d.ctx, func(ctx context.Context) error {
		conn, err := d.pool.Acquire(ctx)
		if err != nil {
			return err
		}
		defer conn.Release()
		results, err = conn.Conn().PgConn().Exec(ctx, string(sql)).ReadAll()
		return err
	})
	if err != nil {
		return err
	}
	for _, r := range results {
		if len(r.FieldDescriptions) == 1 && r.FieldDescriptions[0].Name == "job_id" && len(r.Rows) == 1 {
			if err := dsqltx.WaitForJob(d.ctx, d.pool, string(r.Rows[0][0]), nil); err != nil {
				return err
			}
		}
	}
	return nil
}

func (d *driver) SetVersion(version int, dirty bool) error {
	return idempotent.Run(d.ctx, d.pool, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(d.ctx, "delete from "+versionTable); err != nil {
			return err
		}
		if version == database.NilVersion && !dirty {
			return nil
		}
		_, err := tx.Exec(d.ctx, "insert into "+versionTable+" values ($1, $2)", version, dirty)
		return err
	})
}

func (d *driver) Version() (version int, dirty bool, err error) {
	err = idempotent.Retry(d.ctx, func(ctx context.Context) error {
		return d.pool.QueryRow(ctx, "select version, dirty from "+versionTable).Scan(&version, &dirty)
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return database.NilVersion, false, nil
	}
	return version, dirty, err
}

func (d *driver) Drop() error {
	return errors.New("dropping everything is not for this driver: migrate down instead")
}
