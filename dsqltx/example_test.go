package dsqltx_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

func ExampleRun() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	var answer int
	err = dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error { // may run several times
		return tx.QueryRow(ctx, "select 6 * 7").Scan(&answer)
	})
	fmt.Println(answer, err)
	// Output: 42 <nil>
}

func ExampleRunSQL() {
	ctx := context.Background()
	db, err := dsql.OpenDB(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	var answer int
	err = dsqltx.RunSQL(ctx, db, func(ctx context.Context, tx *sql.Tx) error { // may run several times
		return tx.QueryRowContext(ctx, "select 6 * 7").Scan(&answer)
	})
	fmt.Println(answer, err)
	// Output: 42 <nil>
}

func ExampleExec() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	defer createTable(ctx, pool, "settings", "name text primary key, value text not null")()

	// One statement in autocommit, again after a conflict. Setting a value twice is
	// setting it once, so it may also run again when the connection was lost.
	runner := dsqltx.Runner{Idempotent: true}
	tag, err := runner.Exec(ctx, pool,
		"insert into settings values ($1, $2) on conflict (name) do update set value = excluded.value",
		"theme", "dark")
	fmt.Println(tag, err)
	// Output: INSERT 0 1 <nil>
}

func ExampleExecSQL() {
	ctx := context.Background()
	db, err := dsql.OpenDB(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	result, err := dsqltx.ExecSQL(ctx, db, "select 1 union all select $1", 2)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(result.RowsAffected())
	// Output: 2 <nil>
}

func ExampleExecer() {
	// What takes an Execer takes a pool and a connection alike.
	drop := func(ctx context.Context, db dsqltx.Execer, table string) error {
		_, err := dsqltx.Runner{Idempotent: true}.Exec(ctx, db, "drop table if exists "+pgx.Identifier{table}.Sanitize())
		return err
	}

	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println(drop(ctx, conn, "no such table"))
	// Output: <nil>
}

func ExampleRetry() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	var tables int
	reads := dsqltx.Runner{Idempotent: true}
	err = reads.Retry(ctx, func(ctx context.Context) error { // a changed schema fails reads, too, once
		return pool.QueryRow(ctx, "select count(*) from pg_tables where schemaname = 'nowhere'").Scan(&tables)
	})
	fmt.Println(tables, err)
	// Output: 0 <nil>
}

func ExampleRunner_Wrap() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	defer createTable(ctx, pool, "cities", "name text primary key")()

	db := dsqltx.Runner{}.Wrap(pool) // for code that takes anything with Exec and Query
	server.ConflictNext(2)
	var name string
	err = db.QueryRow(ctx, "insert into cities values ($1) returning name", "Dublin").Scan(&name)
	fmt.Println(name, err)
	// Output: Dublin <nil>
}

func ExampleDB() {
	// What takes a DB's methods takes a pool, a transaction and a DB alike.
	type queryer interface {
		Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	}
	numbers := func(ctx context.Context, db queryer) ([]int, error) {
		rows, _ := db.Query(ctx, "select generate_series(1, 3)")
		return pgx.CollectRows(rows, pgx.RowTo[int])
	}

	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	fmt.Println(numbers(ctx, dsqltx.Runner{}.Wrap(pool)))
	// Output: [1 2 3] <nil>
}

func ExampleDB_CopyFrom() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	defer createTable(ctx, pool, "rivers", "name text primary key, km int")()

	db := dsqltx.Runner{}.Wrap(pool)
	server.ConflictNext(2)
	rows := [][]any{{"Nile", 6650}, {"Amazon", 6400}}
	n, err := db.CopyFrom(ctx, pgx.Identifier{"rivers"}, []string{"name", "km"}, pgx.CopyFromRows(rows))
	fmt.Println(n, err)

	b := &pgx.Batch{} // one transaction
	b.Queue("update rivers set km = $1 where name = 'Nile'", 6693)
	b.Queue("update rivers set km = $1 where name = 'Amazon'", 6437)
	server.ConflictNext(1)
	fmt.Println(db.SendBatch(ctx, b).Close())
	// Output:
	// 2 <nil>
	// <nil>
}

func ExampleDB_BeginTx() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	// What is done in tx is not tried again, unlike the fn of Run.
	tx, err := dsqltx.Runner{}.Wrap(pool).BeginTx(ctx, pgx.TxOptions{AccessMode: pgx.ReadOnly})
	if err != nil {
		log.Fatal(err)
	}
	defer tx.Rollback(ctx)
	if _, err := tx.Exec(ctx, "select 1"); err != nil {
		log.Fatal(err)
	}
	if err := tx.Commit(ctx); errors.Is(err, dsqltx.ErrCommitUnknown) {
		fmt.Println("look whether it was applied")
	}
	fmt.Println("committed")
	// Output: committed
}

func ExampleIsConflict() {
	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)

	server.ConflictNext(1) // the local endpoint's next COMMIT loses
	tx, err := conn.Begin(ctx)
	if err != nil {
		log.Fatal(err)
	}
	err = tx.Commit(ctx)
	fmt.Println(dsqltx.IsConflict(err), err)
	// Output: true ERROR: change conflicts with another transaction (OC000) (SQLSTATE 40001)
}

func ExampleBeginner() {
	// What takes a Beginner takes a pool and a connection alike.
	one := func(ctx context.Context, db dsqltx.Beginner) (n int, err error) {
		err = dsqltx.Run(ctx, db, func(ctx context.Context, tx pgx.Tx) error { return tx.QueryRow(ctx, "select 1").Scan(&n) })
		return n, err
	}

	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println(one(ctx, conn))
	// Output: 1 <nil>
}

func ExampleRunner() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	// A Runner is a plain value: keep one for each kind of transaction.
	reports := dsqltx.Runner{
		TxOptions:   pgx.TxOptions{AccessMode: pgx.ReadOnly},
		MaxAttempts: 5,
	}
	var mode string
	err = reports.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		return tx.QueryRow(ctx, "show transaction_read_only").Scan(&mode)
	})
	fmt.Println("read-only:", mode, err)
	// Output: read-only: on <nil>
}

func ExampleRunner_maxAttempts() {
	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)

	server.ConflictNext(3)
	defer server.SetCommitFaults(nil)
	attempts := 0
	runner := dsqltx.Runner{MaxAttempts: 3}
	err = runner.Run(ctx, conn, func(ctx context.Context, tx pgx.Tx) error {
		attempts++
		_, err := tx.Exec(ctx, "select 1")
		return err
	})
	fmt.Println("attempts:", attempts, "still a conflict:", dsqltx.IsConflict(err))
	// Output: attempts: 3 still a conflict: true
}

func ExampleRunner_isolationLevel() {
	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)

	runner := dsqltx.Runner{TxOptions: pgx.TxOptions{IsoLevel: pgx.Serializable}}
	err = runner.Run(ctx, conn, func(ctx context.Context, tx pgx.Tx) error { return nil })
	fmt.Println(err)
	// Output: dsqltx: Runner.TxOptions.IsoLevel is "serializable"; DSQL has repeatable read only, so leave it empty
}

func ExampleRunner_idempotent() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	server.CutNext(1, dsqltest.AfterCommit) // the connection is lost before COMMIT is answered
	attempts := 0
	runner := dsqltx.Runner{Idempotent: true}
	err = runner.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		attempts++
		_, err := tx.Exec(ctx, "select set_config('search_path', 'public', false)")
		return err
	})
	fmt.Println("attempts:", attempts, err)
	// Output: attempts: 2 <nil>
}

func ExampleRunner_checkCommit() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	defer createTable(ctx, pool, "purchases", "id uuid primary key, item text not null")()

	server.CutNext(1, dsqltest.AfterCommit) // the connection is lost before COMMIT is answered
	id, attempts := "7c0a3a4e-3f0b-4f0e-9d6c-0f5b0c5b7a11", 0
	runner := dsqltx.Runner{CheckCommit: func(ctx context.Context) (applied bool, err error) {
		err = pool.QueryRow(ctx, "select exists (select from purchases where id = $1)", id).Scan(&applied)
		return applied, err
	}}
	err = runner.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		attempts++
		_, err := tx.Exec(ctx, "insert into purchases values ($1, 'tea')", id)
		return err
	})
	fmt.Println("attempts:", attempts, err)
	// Output: attempts: 1 <nil>
}

func ExampleRunner_onAttempt() {
	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)

	conflicts := 0
	server.ConflictNext(2)
	runner := dsqltx.Runner{OnAttempt: func(a dsqltx.Attempt) {
		if a.Conflict != "" {
			conflicts++ // a counter of the metrics library at hand
		}
	}}
	err = runner.Run(ctx, conn, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "select 1")
		return err
	})
	fmt.Println("conflicts:", conflicts, err)
	// Output: conflicts: 2 <nil>
}

func ExampleAttempt() {
	log := func(a dsqltx.Attempt) {
		switch {
		case a.Err == nil:
			fmt.Printf("attempt %d: applied\n", a.Number)
		case a.Again:
			fmt.Printf("attempt %d: %s, again in %s\n", a.Number, a.Conflict, a.Wait)
		default:
			fmt.Printf("attempt %d: %v\n", a.Number, a.Err)
		}
	}
	log(dsqltx.Attempt{Number: 1, Err: errors.New("change conflicts"), Conflict: "OC000", Again: true})
	log(dsqltx.Attempt{Number: 2})
	// Output:
	// attempt 1: OC000, again in 0s
	// attempt 2: applied
}

func ExampleWriter_Write() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	defer createTable(ctx, pool, "readings", "id bigint primary key, value text")()

	rows := make([][]any, 3500) // one transaction may change 3,000
	for i := range rows {
		rows[i] = []any{i, "x"}
	}
	writer := dsqltx.Writer{Table: pgx.Identifier{"readings"}, Columns: []string{"id", "value"}}
	report, err := writer.Write(ctx, pool, rows)
	fmt.Println(report.Count(dsqltx.BatchIn), "rows are in,", err)
	// Output: 3500 rows are in, <nil>
}

func ExampleWriter() {
	writer := dsqltx.Writer{
		Table:     pgx.Identifier{"sales", "orders"},
		Columns:   []string{"id", "item"},
		Insert:    true, // INSERT in place of COPY
		BatchRows: 500,
		OnBatch:   func(b dsqltx.Batch) { fmt.Println(b.From, b.To, b.State) },
		Check: func(ctx context.Context, rows [][]any) (in bool, err error) {
			return false, errors.New("look for the key of rows[0]")
		},
	}
	_, err := writer.Write(context.Background(), nil, [][]any{{1}})
	fmt.Println(err)
	// Output: dsqltx: row 0 has 1 values for 2 columns
}

func ExampleReport_Rows() {
	rows := [][]any{{1}, {2}, {3}, {4}, {5}}
	report := dsqltx.Report{Batches: []dsqltx.Batch{ // as Write returned it
		{From: 0, To: 2, State: dsqltx.BatchIn},
		{From: 2, To: 4, State: dsqltx.BatchUnknown},
		{From: 4, To: 5, State: dsqltx.BatchOut},
	}}
	fmt.Println("look for", report.Rows(rows, dsqltx.BatchUnknown))
	fmt.Println("write again", report.Rows(rows, dsqltx.BatchOut))
	// Output:
	// look for [[3] [4]]
	// write again [[5]]
}

func ExampleBatch() {
	onBatch := func(b dsqltx.Batch) { fmt.Printf("rows %d to %d: %s\n", b.From, b.To-1, b.State) }
	onBatch(dsqltx.Batch{From: 0, To: 1000, State: dsqltx.BatchIn})
	// Output: rows 0 to 999: in
}

func ExampleBatchState() {
	for _, state := range []dsqltx.BatchState{dsqltx.BatchOut, dsqltx.BatchIn, dsqltx.BatchUnknown} {
		fmt.Println(state)
	}
	// Output:
	// out
	// in
	// unknown
}

func ExampleJob() {
	progress := func(job dsqltx.Job) { fmt.Println(job.ID, job.Status) } // for WaitForJob
	progress(dsqltx.Job{ID: "3u7rfvpnqzfqvfzjpzmk4xhmaq", Status: "processing"})
	// Output: 3u7rfvpnqzfqvfzjpzmk4xhmaq processing
}

func ExampleWaitForSQLJob() {
	ctx := context.Background()
	db, err := dsql.OpenDB(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()
	statement := func(sql string) { // again when another change of the schema came first
		if _, err := dsqltx.ExecSQL(ctx, db, sql); err != nil {
			log.Fatal(err)
		}
	}
	statement("create table shipments (id uuid primary key, city text)")
	defer statement("drop table shipments")

	var id string
	if err := db.QueryRowContext(ctx, "create index async on shipments (city)").Scan(&id); err != nil {
		log.Fatal(err)
	}
	fmt.Println(dsqltx.WaitForSQLJob(ctx, db, id, nil))
	// Output: <nil>
}

func ExampleQuerier() {
	// What takes a Querier takes a pool and a connection alike.
	wait := func(ctx context.Context, db dsqltx.Querier, id string) error {
		err := dsqltx.WaitForJob(ctx, db, id, nil)
		if errors.Is(err, dsqltx.ErrJobFailed) {
			fmt.Println("the index is there, and invalid")
		}
		return err
	}

	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println(errors.Is(wait(ctx, conn, "no such job"), pgx.ErrNoRows))
	// Output: true
}

func Example_commitUnknown() {
	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	server.CutNext(1, dsqltest.BeforeCommit)
	err = dsqltx.Run(ctx, conn, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "select 1")
		return err
	})
	fmt.Println(errors.Is(err, dsqltx.ErrCommitUnknown))
	// Output: true
}

func createTable(ctx context.Context, pool *pgxpool.Pool, name, columns string) (drop func()) {
	if _, err := dsqltx.Exec(ctx, pool, "create table "+name+" ("+columns+")"); err != nil {
		log.Fatal(err)
	}
	return func() {
		if _, err := dsqltx.Exec(ctx, pool, "drop table "+name); err != nil {
			log.Fatal(err)
		}
	}
}

func ExampleWaitForJob() {
	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, "create table orders (id uuid primary key, customer text)"); err != nil {
		log.Fatal(err)
	}

	var id string
	if err := conn.QueryRow(ctx, "create index async on orders (customer)").Scan(&id); err != nil {
		log.Fatal(err)
	}
	err = dsqltx.WaitForJob(ctx, conn, id, func(job dsqltx.Job) {
		if job.Status == "completed" { // submitted and processing may have come before
			fmt.Println("index", job.Status)
		}
	})
	if err != nil {
		log.Fatal(err)
	}

	if _, err := conn.Exec(ctx, "drop table orders"); err != nil {
		log.Fatal(err)
	}
	// Output: index completed
}
