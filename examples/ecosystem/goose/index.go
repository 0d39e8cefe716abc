package main

import (
	"context"
	"database/sql"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"

	"github.com/dsqlgo/dsql/dsqltx"
)

// booksByAuthor is migration 3: an index. As SQL it would be applied when CREATE INDEX ASYNC has
// returned a job's ID, and the job may fail later; so it is Go, and applied when the index is there.
func booksByAuthor(out io.Writer) *goose.Migration {
	return goose.NewGoMigration(3,
		&goose.GoFunc{RunDB: func(ctx context.Context, db *sql.DB) error {
			return onConn(ctx, db, func(conn *pgx.Conn) error {
				return buildIndex(ctx, conn, "goose_books_by_author", "create index async goose_books_by_author on goose_books (author_id)", out)
			})
		}},
		&goose.GoFunc{RunDB: func(ctx context.Context, db *sql.DB) error {
			_, err := db.ExecContext(ctx, "drop index if exists goose_books_by_author")
			return err
		}})
}

// buildIndex leaves a valid index as it is, and begins anew where an earlier build has failed.
func buildIndex(ctx context.Context, conn *pgx.Conn, name, create string, out io.Writer) error {
	var exists, valid bool
	err := conn.QueryRow(ctx, "select count(*) > 0, coalesce(bool_and(indisvalid), false) from pg_index where indexrelid = to_regclass($1)", name).Scan(&exists, &valid)
	if err != nil || valid {
		return err
	}
	if exists {
		if _, err := conn.Exec(ctx, "drop index "+name); err != nil {
			return err
		}
	}
	var job string
	if err := conn.QueryRow(ctx, create).Scan(&job); err != nil {
		return err
	}
	return dsqltx.WaitForJob(ctx, conn, job, func(j dsqltx.Job) { fmt.Fprintf(out, "index   %s\n", j.Status) })
}

// onConn calls f with the pgx connection beneath one of db's.
func onConn(ctx context.Context, db *sql.DB, f func(*pgx.Conn) error) error {
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	return conn.Raw(func(driverConn any) error { return f(driverConn.(interface{ Conn() *pgx.Conn }).Conn()) })
}
