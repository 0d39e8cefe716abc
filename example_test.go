package dsql_test

import (
	"context"
	"database/sql"
	"fmt"
	"log"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
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
	// dsql: invalid configuration: serach_path: is not a parameter known here; did you mean search_path? If not, set it in Config.Params if the server knows it, or remove it
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
