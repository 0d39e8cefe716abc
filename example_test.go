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

func ExampleAfterConnect() {
	ctx := context.Background()
	db, err := dsql.OpenDB(ctx, server.Config(), dsql.AfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
		_, err := conn.Exec(ctx, "set application_name = 'reports'") // or register types
		return err
	}))
	if err != nil {
		log.Fatal(err)
	}
	defer db.Close()

	var name string
	if err := db.QueryRowContext(ctx, "show application_name").Scan(&name); err != nil {
		log.Fatal(err)
	}
	fmt.Println(name)
	// Output: reports
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
	case errors.Is(err, dsql.ErrRateExceeded), errors.Is(err, dsql.ErrTooManyConnections), errors.Is(err, dsql.ErrClusterWaking), errors.Is(err, dsql.ErrUnavailable):
		fmt.Println("a refusal that ends by itself, but lasted until the deadline")
	}
	// Output: IAM or the role mapping: unable to accept connection, access denied
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
