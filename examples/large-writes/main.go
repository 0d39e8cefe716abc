// Large-writes writes more rows than one transaction may (3,000), in batches of a
// transaction each. The connection is lost while the third one is committed; the
// report says which rows are in, and the writing goes on from there.
//
// A local endpoint plays the cluster: only there can a connection be cut at will.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	server, err := dsqltest.Start(ctx)
	if err != nil {
		return err
	}
	defer server.Close()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		return err
	}
	defer pool.Close()
	if _, err := pool.Exec(ctx, "create table readings (id bigint primary key, value text not null)"); err != nil {
		return err
	}

	rows := make([][]any, 5000)
	for i := range rows {
		rows[i] = []any{int64(i), fmt.Sprint("reading ", i)}
	}
	writer := dsqltx.Writer{
		Table:   pgx.Identifier{"readings"},
		Columns: []string{"id", "value"},
		OnBatch: func(b dsqltx.Batch) {
			fmt.Fprintf(out, "rows %d to %d: %s\n", b.From, b.To-1, b.State)
			if b.From == 1000 && b.State == dsqltx.BatchIn {
				server.CutNext(1, dsqltest.AfterCommit) // what stands for a bad day
			}
		},
	}
	report, err := writer.Write(ctx, pool, rows)
	if err == nil {
		return errors.New("the connection was not lost")
	}
	fmt.Fprintln(out, "stopped:", err)

	// With a key to look by, Writer.Check does this without stopping.
	left, err := missing(ctx, pool, report.Rows(rows, dsqltx.BatchUnknown))
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "in: %d rows; unknown: %d, of which %d are missing; out: %d\n",
		len(report.Rows(rows, dsqltx.BatchIn)), len(report.Rows(rows, dsqltx.BatchUnknown)), len(left), len(report.Rows(rows, dsqltx.BatchOut)))
	left = append(left, report.Rows(rows, dsqltx.BatchOut)...)
	writer.OnBatch = nil
	if _, err := writer.Write(ctx, pool, left); err != nil {
		return err
	}

	var count, distinct int
	if err := pool.QueryRow(ctx, "select count(*), count(distinct id) from readings").Scan(&count, &distinct); err != nil {
		return err
	}
	fmt.Fprintf(out, "the table has %d rows, %d of them different\n", count, distinct)
	return nil
}

// missing returns the rows that the table does not have, by their key.
func missing(ctx context.Context, pool *pgxpool.Pool, rows [][]any) ([][]any, error) {
	ids := make([]int64, len(rows))
	for i, row := range rows {
		ids[i] = row[0].(int64)
	}
	found, err := pool.Query(ctx, "select id from readings where id = any($1)", ids)
	if err != nil {
		return nil, err
	}
	in := map[int64]bool{}
	var id int64
	if _, err := pgx.ForEachRow(found, []any{&id}, func() error { in[id] = true; return nil }); err != nil {
		return nil, err
	}
	var absent [][]any
	for i, row := range rows {
		if !in[ids[i]] {
			absent = append(absent, row)
		}
	}
	return absent, nil
}
