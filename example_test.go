package dsql_test

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

func Example() {
	ctx := context.Background()
	config := server.Config() // in a service: dsql.Config{Host: "<id>.dsql.us-east-1.on.aws"}

	pool, err := dsql.NewPool(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	var user string
	if err := pool.QueryRow(ctx, "select current_user").Scan(&user); err != nil {
		log.Fatal(err)
	}
	fmt.Println("connected as", user)
	// Output: connected as admin
}

func ExampleNewPool() {
	ctx := context.Background()
	config := server.Config() // in a service: dsql.Config{Host: "<id>.dsql.us-east-1.on.aws"}

	pool, err := dsql.NewPool(ctx, config, func(p *pgxpool.Config) {
		p.MaxConns = 20
		p.AfterConnect = func(ctx context.Context, conn *pgx.Conn) error {
			_, err := conn.Prepare(ctx, "answer", "select 6 * $1::int")
			return err
		}
	})
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	var answer int
	if err := pool.QueryRow(ctx, "answer", 7).Scan(&answer); err != nil {
		log.Fatal(err)
	}
	fmt.Println(answer)
	// Output: 42
}

func ExampleConnect() {
	ctx := context.Background()
	config := server.Config()
	config.User = "app" // any other role than admin needs dsql:DbConnect

	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)

	var user string
	if err := conn.QueryRow(ctx, "select current_user").Scan(&user); err != nil {
		log.Fatal(err)
	}
	fmt.Println("connected as", user)
	// Output: connected as app
}

func ExampleOpenDB() {
	ctx := context.Background()
	db, err := dsql.OpenDB(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	var sum int
	if err := db.QueryRowContext(ctx, "select $1::int + $2::int", 40, 2).Scan(&sum); err != nil {
		log.Fatal(err)
	}
	fmt.Println(sum)
	// Output: 42
}

func ExampleNewConnector() {
	ctx := context.Background()
	connector, err := dsql.NewConnector(ctx, server.Config(), func(cc *pgx.ConnConfig) {
		cc.StatementCacheCapacity = 100
	})
	if err != nil {
		log.Fatal(err)
	}
	db := sql.OpenDB(connector) // or a tracing library's OpenDB
	defer db.Close()

	conn, err := db.Conn(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close()
	err = conn.Raw(func(driverConn any) error {
		pgxConn := driverConn.(interface{ Conn() *pgx.Conn }).Conn()
		fmt.Println(pgxConn.Config().StatementCacheCapacity)
		return nil
	})
	if err != nil {
		log.Fatal(err)
	}
	// Output: 100
}

func ExampleParseConfig() {
	config, err := dsql.ParseConfig("dsql://app@vftmkydwxvxys6asbsc6ih2the.dsql.us-east-1.on.aws?search_path=orders&pool_max_conns=20")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(config.User, config.Params["search_path"])

	_, err = dsql.ParseConfig("host=vftmkydwxvxys6asbsc6ih2the.dsql.us-east-1.on.aws serach_path=orders")
	fmt.Println(err)
	// Output:
	// app orders
	// dsql: invalid configuration: serach_path: is not a known parameter; did you mean search_path? If not, set it in Config.Params if the server knows it, or remove it
}

func ExampleConfig_Endpoint() {
	config := dsql.Config{
		Host:      "vpce-07acca8bd8980c621-nruuwp08.dsql-fnh4.us-east-1.vpce.amazonaws.com",
		ClusterID: "vftmkydwxvxys6asbsc6ih2the",
	}
	endpoint, err := config.Endpoint(context.Background())
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("dial", endpoint.DialAddress)
	fmt.Println("SNI ", endpoint.ServerName)
	// Output:
	// dial vpce-07acca8bd8980c621-nruuwp08.dsql-fnh4.us-east-1.vpce.amazonaws.com:5432
	// SNI  vftmkydwxvxys6asbsc6ih2the.dsql-fnh4.us-east-1.on.aws
}

func ExampleConfig_ConnConfig() {
	ctx := context.Background()
	cc, err := server.Config().ConnConfig(ctx) // good for ever, and without a secret
	if err != nil {
		log.Fatal(err)
	}
	cc.RuntimeParams["application_name"] = "reports"

	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println(conn.PgConn().ParameterStatus("application_name"))
	// Output: reports
}

func ExampleConfig_PoolConfig() {
	ctx := context.Background()
	pc, err := server.Config().PoolConfig(ctx)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println("connections end after", pc.MaxConnLifetime, "to", pc.MaxConnLifetime+pc.MaxConnLifetimeJitter)

	pool, err := pgxpool.NewWithConfig(ctx, pc)
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	fmt.Println(pool.Ping(ctx))
	// Output:
	// connections end after 50m0s to 58m0s
	// <nil>
}

func ExampleNewTokenSource() {
	ctx := context.Background()
	config := server.Config()
	config.TokenLifetime = time.Hour
	tokens, err := dsql.NewTokenSource(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	token, err := tokens.Token(ctx)
	if err != nil {
		log.Fatal(err)
	}
	password := token.Reveal() // for another client; printing token itself shows nothing secret
	fmt.Println(password != "", time.Until(token.Expires()).Round(time.Hour))
	// Output: true 1h0m0s
}

func ExampleRunTx() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	var answer int
	err = dsql.RunTx(ctx, pool, func(tx pgx.Tx) error { // may run several times
		return tx.QueryRow(ctx, "select 6 * 7").Scan(&answer)
	})
	fmt.Println(answer, err)
	// Output: 42 <nil>
}

func ExampleRunSQLTx() {
	ctx := context.Background()
	db, err := dsql.OpenDB(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	var answer int
	err = dsql.RunSQLTx(ctx, db, func(tx *sql.Tx) error { // may run several times
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
	tag, err := dsql.Exec(ctx, pool,
		"insert into settings values ($1, $2) on conflict (name) do update set value = excluded.value",
		[]any{"theme", "dark"}, dsql.Idempotent())
	fmt.Println(tag, err)
	// Output: INSERT 0 1 <nil>
}

func ExampleExecer() {
	// What takes an Execer takes a pool and a connection alike.
	drop := func(ctx context.Context, db dsql.Execer, table string) error {
		_, err := dsql.Exec(ctx, db, "drop table if exists "+pgx.Identifier{table}.Sanitize(), nil, dsql.Idempotent())
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
	err = dsql.Retry(ctx, func(ctx context.Context) error { // a changed schema fails reads, too, once
		return pool.QueryRow(ctx, "select count(*) from pg_tables where schemaname = 'nowhere'").Scan(&tables)
	}, dsql.Idempotent())
	fmt.Println(tables, err)
	// Output: 0 <nil>
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
	fmt.Println(dsql.IsConflict(err), err)
	// Output: true ERROR: change conflicts with another transaction (OC000) (SQLSTATE 40001)
}

func ExampleTxBeginner() {
	// What takes a TxBeginner takes a pool and a connection alike.
	one := func(ctx context.Context, db dsql.TxBeginner) (n int, err error) {
		err = dsql.RunTx(ctx, db, func(tx pgx.Tx) error { return tx.QueryRow(ctx, "select 1").Scan(&n) })
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

func ExampleRetryOption() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	// Options that go together can be kept.
	report := []dsql.RetryOption{
		dsql.WithTxOptions(pgx.TxOptions{AccessMode: pgx.ReadOnly}),
		dsql.MaxAttempts(5),
	}
	var mode string
	err = dsql.RunTx(ctx, pool, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "show transaction_read_only").Scan(&mode)
	}, report...)
	fmt.Println("read-only:", mode, err)
	// Output: read-only: on <nil>
}

func ExampleMaxAttempts() {
	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)

	server.ConflictNext(3)
	defer server.SetCommitFaults(nil)
	attempts := 0
	err = dsql.RunTx(ctx, conn, func(tx pgx.Tx) error {
		attempts++
		_, err := tx.Exec(ctx, "select 1")
		return err
	}, dsql.MaxAttempts(3))
	fmt.Println("attempts:", attempts, "still a conflict:", dsql.IsConflict(err))
	// Output: attempts: 3 still a conflict: true
}

func ExampleWithTxOptions() {
	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)

	err = dsql.RunTx(ctx, conn, func(tx pgx.Tx) error { return nil },
		dsql.WithTxOptions(pgx.TxOptions{IsoLevel: pgx.Serializable}))
	fmt.Println(err)
	// Output: dsql: invalid configuration: WithTxOptions: asks for isolation level "serializable"; DSQL has repeatable read only, so leave IsoLevel empty
}

func ExampleIdempotent() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()

	server.CutNext(1, dsqltest.AfterCommit) // the connection is lost before COMMIT is answered
	attempts := 0
	err = dsql.RunTx(ctx, pool, func(tx pgx.Tx) error {
		attempts++
		_, err := tx.Exec(ctx, "select set_config('search_path', 'public', false)")
		return err
	}, dsql.Idempotent())
	fmt.Println("attempts:", attempts, err)
	// Output: attempts: 2 <nil>
}

func ExampleCheckCommit() {
	ctx := context.Background()
	pool, err := dsql.NewPool(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer pool.Close()
	defer createTable(ctx, pool, "purchases", "id uuid primary key, item text not null")()

	server.CutNext(1, dsqltest.AfterCommit) // the connection is lost before COMMIT is answered
	id, attempts := "7c0a3a4e-3f0b-4f0e-9d6c-0f5b0c5b7a11", 0
	err = dsql.RunTx(ctx, pool, func(tx pgx.Tx) error {
		attempts++
		_, err := tx.Exec(ctx, "insert into purchases values ($1, 'tea')", id)
		return err
	}, dsql.CheckCommit(func(ctx context.Context) (applied bool, err error) {
		err = pool.QueryRow(ctx, "select exists (select from purchases where id = $1)", id).Scan(&applied)
		return applied, err
	}))
	fmt.Println("attempts:", attempts, err)
	// Output: attempts: 1 <nil>
}

func ExampleOnAttempt() {
	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)

	conflicts := 0
	server.ConflictNext(2)
	err = dsql.RunTx(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "select 1")
		return err
	}, dsql.OnAttempt(func(e dsql.AttemptEvent) {
		if e.Conflict != "" {
			conflicts++ // a counter of the metrics library at hand
		}
	}))
	fmt.Println("conflicts:", conflicts, err)
	// Output: conflicts: 2 <nil>
}

func ExampleAttemptEvent() {
	log := func(e dsql.AttemptEvent) {
		switch {
		case e.Err == nil:
			fmt.Printf("attempt %d: applied\n", e.Attempt)
		case e.Again:
			fmt.Printf("attempt %d: %s, again in %s\n", e.Attempt, e.Conflict, e.Wait)
		default:
			fmt.Printf("attempt %d: %v\n", e.Attempt, e.Err)
		}
	}
	log(dsql.AttemptEvent{Attempt: 1, Err: errors.New("change conflicts"), Conflict: "OC000", Again: true})
	log(dsql.AttemptEvent{Attempt: 2})
	// Output:
	// attempt 1: OC000, again in 0s
	// attempt 2: applied
}

func ExampleRowWriter_Write() {
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
	writer := dsql.RowWriter{Table: pgx.Identifier{"readings"}, Columns: []string{"id", "value"}}
	report, err := writer.Write(ctx, pool, rows)
	fmt.Println(len(report.Batches), "batches,", len(report.Rows(rows, dsql.BatchIn)), "rows are in,", err)
	// Output: 4 batches, 3500 rows are in, <nil>
}

func ExampleRowWriter() {
	writer := dsql.RowWriter{
		Table:     pgx.Identifier{"sales", "orders"},
		Columns:   []string{"id", "item"},
		Insert:    true, // INSERT in place of COPY
		BatchRows: 500,
		OnBatch:   func(b dsql.Batch) { fmt.Println(b.From, b.To, b.State) },
		Check: func(ctx context.Context, rows [][]any) (in bool, err error) {
			return false, errors.New("look for the key of rows[0]")
		},
	}
	_, err := writer.Write(context.Background(), nil, [][]any{{1}})
	fmt.Println(err)
	// Output: dsql: invalid configuration: rows: row 0 has 1 values for 2 columns
}

func ExampleWriteReport_Rows() {
	rows := [][]any{{1}, {2}, {3}, {4}, {5}}
	report := dsql.WriteReport{Batches: []dsql.Batch{ // as Write returned it
		{From: 0, To: 2, State: dsql.BatchIn},
		{From: 2, To: 4, State: dsql.BatchUnknown},
		{From: 4, To: 5, State: dsql.BatchOut},
	}}
	fmt.Println("look for", report.Rows(rows, dsql.BatchUnknown))
	fmt.Println("write again", report.Rows(rows, dsql.BatchOut))
	// Output:
	// look for [[3] [4]]
	// write again [[5]]
}

func ExampleBatch() {
	onBatch := func(b dsql.Batch) { fmt.Printf("rows %d to %d: %s\n", b.From, b.To-1, b.State) }
	onBatch(dsql.Batch{From: 0, To: 1000, State: dsql.BatchIn})
	// Output: rows 0 to 999: in
}

func ExampleBatchState() {
	for _, state := range []dsql.BatchState{dsql.BatchOut, dsql.BatchIn, dsql.BatchUnknown} {
		fmt.Println(state)
	}
	// Output:
	// out
	// in
	// unknown
}

func ExampleConfig() {
	config := dsql.Config{
		Host:        "vpce-07acca8bd8980c621-nruuwp08.dsql-fnh4.us-east-1.vpce.amazonaws.com",
		ClusterID:   "vftmkydwxvxys6asbsc6ih2the",
		User:        "lambda_dsql_user",
		ExternalID:  "a shared secret",
		Params:      map[string]string{"pool_max_conns": "20"},
		ConnectRate: 10,
	}
	fmt.Println(config) // nothing secret, at whatever verb
	// Output: dsql.Config{Host: vpce-07acca8bd8980c621-nruuwp08.dsql-fnh4.us-east-1.vpce.amazonaws.com, ClusterID: vftmkydwxvxys6asbsc6ih2the, User: lambda_dsql_user, ExternalID: set, ConnectRate: 10, Params: map[pool_max_conns:20]}
}

func ExampleConfig_String() {
	fmt.Println(dsql.Config{Host: "vftmkydwxvxys6asbsc6ih2the", Region: "us-east-1"}.String())
	// Output: dsql.Config{Host: vftmkydwxvxys6asbsc6ih2the, Region: us-east-1}
}

func ExampleConfig_Format() {
	fmt.Printf("%+v\n", dsql.Config{Host: "vftmkydwxvxys6asbsc6ih2the", Credentials: server.Config().Credentials})
	// Output: dsql.Config{Host: vftmkydwxvxys6asbsc6ih2the, Credentials: aws.CredentialsProviderFunc}
}

func ExampleConfig_LogValue() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	logger.Info("connecting", "to", dsql.Config{Host: "vftmkydwxvxys6asbsc6ih2the", Region: "us-east-1"})
	// Output: level=INFO msg=connecting to.Host=vftmkydwxvxys6asbsc6ih2the to.Region=us-east-1
}

func ExampleConfig_MarshalJSON() {
	text, err := json.Marshal(dsql.Config{Host: "vftmkydwxvxys6asbsc6ih2the", Credentials: server.Config().Credentials})
	fmt.Println(string(text), err)
	// Output: {"Credentials":"aws.CredentialsProviderFunc","Host":"vftmkydwxvxys6asbsc6ih2the"} <nil>
}

// An Endpoint says what a Config's names come to, here for a tunnel.
func ExampleEndpoint() {
	endpoint, err := dsql.Config{
		Host:        "vftmkydwxvxys6asbsc6ih2the.dsql.us-east-1.on.aws",
		DialAddress: "localhost:15432",
	}.Endpoint(context.Background())
	fmt.Printf("%+v %v\n", endpoint, err)
	// Output: {DialAddress:localhost:15432 ServerName:vftmkydwxvxys6asbsc6ih2the.dsql.us-east-1.on.aws Region:us-east-1 ClusterID:vftmkydwxvxys6asbsc6ih2the} <nil>
}

func ExampleToken() {
	token := sign()
	text, err := json.Marshal(token)
	if err != nil {
		log.Fatal(err)
	}
	secret := token.Reveal()
	for _, shown := range []string{fmt.Sprint(token), fmt.Sprintf("%#v", token), string(text), token.LogValue().String()} {
		fmt.Println(strings.Contains(shown, "expires"), strings.Contains(shown, secret))
	}
	// Output:
	// true false
	// true false
	// true false
	// true false
}

func ExampleToken_Reveal() {
	password := sign().Reveal() // for another client, by an environment variable or a pipe
	fmt.Println(strings.HasPrefix(password, server.Endpoint()+"/?Action=DbConnectAdmin&"))
	// Output: true
}

func ExampleToken_Expires() {
	fmt.Println(time.Until(sign().Expires()).Round(time.Minute))
	// Output: 15m0s
}

func ExampleToken_String() {
	fmt.Println(dsql.Token{})
	// Output: no DSQL token
}

func ExampleToken_Format() {
	fmt.Printf("%#v\n", dsql.Token{})
	// Output: no DSQL token
}

func ExampleToken_LogValue() {
	logger := slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{ReplaceAttr: withoutTime}))
	logger.Info("signed", "token", dsql.Token{})
	// Output: level=INFO msg=signed token="no DSQL token"
}

func ExampleToken_MarshalText() {
	text, err := json.Marshal(map[string]any{"token": dsql.Token{}})
	fmt.Println(string(text), err)
	// Output: {"token":"no DSQL token"} <nil>
}

func ExampleTokenSource_Token() {
	ctx := context.Background()
	tokens, err := dsql.NewTokenSource(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	first, err := tokens.Token(ctx)
	if err != nil {
		log.Fatal(err)
	}
	second, err := tokens.Token(ctx) // kept, until most of its life is gone
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(first.Reveal() == second.Reveal())
	// Output: true
}

func ExampleTokenEvent() {
	ctx := context.Background()
	config := server.Config()
	events := make(chan dsql.TokenEvent, 1)
	config.OnToken = func(e dsql.TokenEvent) { events <- e }
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	e := <-events
	fmt.Println("signed:", e.Err == nil, "in the background:", e.Background, "valid for:", time.Until(e.Expires).Round(time.Minute))
	// Output: signed: true in the background: false valid for: 15m0s
}

func ExampleRetryEvent() {
	ctx := context.Background()
	server.RefuseNext(1, dsqltest.RefuseWaking)
	config := server.Config()
	config.OnRetry = func(e dsql.RetryEvent) {
		fmt.Println("attempt", e.Attempt, "failed; waking up:", errors.Is(e.Err, dsql.ErrClusterWaking))
	}
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	// Output: attempt 1 failed; waking up: true
}

func ExampleJob() {
	progress := func(job dsql.Job) { fmt.Println(job.ID, job.Status) } // for WaitForJob
	progress(dsql.Job{ID: "3u7rfvpnqzfqvfzjpzmk4xhmaq", Status: "processing"})
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
		err := dsql.Retry(ctx, func(ctx context.Context) error {
			_, err := db.ExecContext(ctx, sql)
			return err
		})
		if err != nil {
			log.Fatal(err)
		}
	}
	statement("create table shipments (id uuid primary key, city text)")
	defer statement("drop table shipments")

	var id string
	if err := db.QueryRowContext(ctx, "create index async on shipments (city)").Scan(&id); err != nil {
		log.Fatal(err)
	}
	fmt.Println(dsql.WaitForSQLJob(ctx, db, id, nil))
	// Output: <nil>
}

func ExampleQuerier() {
	// What takes a Querier takes a pool and a connection alike.
	wait := func(ctx context.Context, db dsql.Querier, id string) error {
		err := dsql.WaitForJob(ctx, db, id, nil)
		if errors.Is(err, dsql.ErrJobFailed) {
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

// Errors of this package are for errors.Is; what the server said stays
// reachable with errors.As.
func Example_errors() {
	ctx := context.Background()
	server.RefuseNext(1, dsqltest.RefuseAccess)
	_, err := dsql.Connect(ctx, server.Config())

	var refused *pgconn.PgError
	switch {
	case errors.Is(err, dsql.ErrConfig):
		fmt.Println("a field of the Config is wrong")
	case errors.Is(err, dsql.ErrCredentials):
		fmt.Println("there are no AWS credentials")
	case errors.Is(err, dsql.ErrTokenExpired):
		fmt.Println("the clock is off")
	case errors.Is(err, dsql.ErrAccessDenied) && errors.As(err, &refused):
		fmt.Println("IAM or the role mapping:", refused.Message)
	case errors.Is(err, dsql.ErrInvalidSNI):
		fmt.Println("no cluster has that name")
	case errors.Is(err, dsql.ErrRateExceeded), errors.Is(err, dsql.ErrTooManyConnections), errors.Is(err, dsql.ErrClusterWaking):
		fmt.Println("a busy cluster, until the deadline")
	}
	// Output: IAM or the role mapping: unable to accept connection, access denied
}

// Nobody knows whether the transaction was applied: ErrCommitUnknown.
func Example_commitUnknown() {
	ctx := context.Background()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	server.CutNext(1, dsqltest.BeforeCommit)
	err = dsql.RunTx(ctx, conn, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "select 1")
		return err
	})
	fmt.Println(errors.Is(err, dsql.ErrCommitUnknown))
	// Output: true
}

// createTable makes a table for an example, which what it returns drops.
func createTable(ctx context.Context, pool *pgxpool.Pool, name, columns string) (drop func()) {
	if _, err := dsql.Exec(ctx, pool, "create table "+name+" ("+columns+")", nil); err != nil {
		log.Fatal(err)
	}
	return func() {
		if _, err := dsql.Exec(ctx, pool, "drop table "+name, nil); err != nil {
			log.Fatal(err)
		}
	}
}

// sign makes a token for the examples.
func sign() dsql.Token {
	ctx := context.Background()
	tokens, err := dsql.NewTokenSource(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	token, err := tokens.Token(ctx)
	if err != nil {
		log.Fatal(err)
	}
	return token
}

// withoutTime makes log lines the same at each run.
func withoutTime(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
