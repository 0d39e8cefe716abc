package dsqltest_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/fstest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/jackc/pgx/v5"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

func Example() {
	// In a file of tests.
	testOrders := func(t *testing.T) {
		server := dsqltest.New(t) // ends with the test
		conn, err := dsql.Connect(t.Context(), server.Config())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
		var n int
		if err := conn.QueryRow(t.Context(), "select 6 * 7").Scan(&n); err != nil || n != 42 {
			t.Fatal(n, err)
		}
	}
	_ = testOrders
}

func ExampleNew() {
	testReports := func(t *testing.T) {
		server := dsqltest.New(t, dsqltest.WithRoles("reports"))
		config := server.Config()
		config.User = "reports"
		conn, err := dsql.Connect(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(context.Background())
	}
	_ = testReports
}

func ExampleStart() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	var version string
	if err := conn.QueryRow(ctx, "show server_encoding").Scan(&version); err != nil {
		log.Fatal(err)
	}
	fmt.Println(version)
	// Output: UTF8
}

func ExampleServer() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	config := dsql.Config{ // what server.Config() says
		Host:        server.Endpoint(),
		DialAddress: server.Addr(), // the name does not resolve to this machine
		RootCAs:     server.RootCAs(),
		Credentials: server.Config().Credentials,
	}
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println(server.Sessions(), "session; the server listens on loopback:", netip.MustParseAddrPort(server.Addr()).Addr().IsLoopback())
	// Output: 1 session; the server listens on loopback: true
}

func ExampleServer_Config() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	config := server.Config()
	config.User = "app" // or any other field
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println(conn.Config().User)
	// Output: app
}

func ExampleServer_Schema() {
	testInvoices := func(t *testing.T, server *dsqltest.Server) { // one server for many tests
		t.Parallel()
		pool, err := dsql.NewPool(t.Context(), server.Schema(t)) // a schema that no other test sees
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
	}
	_ = testInvoices
}

func ExampleServer_CAPEM() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	file := filepath.Join(dir, "ca.pem") // for sslrootcert, of this library and of others
	if err := os.WriteFile(file, server.CAPEM(), 0o600); err != nil {
		log.Fatal(err)
	}
	config, err := dsql.ParseConfig("dsql://app@" + server.Endpoint() + "?dial_address=" + server.Addr() + "&sslrootcert=" + file)
	if err != nil {
		log.Fatal(err)
	}
	config.Credentials = server.Config().Credentials
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println(conn.Config().User)
	// Output: app
}

func ExampleServer_AllowKey() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	server.AllowKey("AKIAEXAMPLE", "a secret", "") // such as a test's AWS environment has
	config := server.Config()
	config.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: "a secret"}, nil
	})
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println(server.Credentials().AccessKeyID != "AKIAEXAMPLE", server.Attempts()[0].Outcome)
	// Output: true ok
}

func ExampleServer_RefuseNext() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	server.RefuseNext(1, dsqltest.RefuseRate)
	config := server.Config()
	config.OnRetry = func(e dsql.RetryEvent) { fmt.Println("over the quota:", errors.Is(e.Err, dsql.ErrRateExceeded)) }
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	// Output: over the quota: true
}

func ExampleServer_ConflictNext() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	server.ConflictNext(2)
	attempts := 0
	err = dsqltx.Run(ctx, conn, func(ctx context.Context, tx pgx.Tx) error {
		attempts++
		_, err := tx.Exec(ctx, "select 1")
		return err
	})
	fmt.Println("attempts:", attempts, err)
	// Output: attempts: 3 <nil>
}

func ExampleServer_CutNext() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	server.CutNext(1, dsqltest.AfterCommit)
	err = dsqltx.Run(ctx, conn, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "select 1")
		return err
	})
	fmt.Println("unknown:", errors.Is(err, dsqltx.ErrCommitUnknown), "applied:", server.Transactions().Applied)
	// Output: unknown: true applied: 1
}

func ExampleServer_UnavailableNext() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	server.UnavailableNext(1)
	_, err = conn.Exec(ctx, "select 1")
	fmt.Println(err)
	// Output: ERROR: server unavailable (SQLSTATE XX000)
}

func ExampleServer_SetCommitFaults() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	commits := 0
	server.SetCommitFaults(func() dsqltest.CommitFault { // with one session there is one call at a time
		if commits++; commits%2 == 1 {
			return dsqltest.Conflict
		}
		return dsqltest.NoFault
	})
	for range 2 {
		_, err := dsqltx.Exec(ctx, conn, "create table if not exists t (id int)")
		fmt.Println(err)
	}
	fmt.Println("commits:", commits)
	// Output:
	// <nil>
	// <nil>
	// commits: 4
}

func ExampleServer_SetFaults() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	server.SetFaults(dsqltest.Always(dsqltest.Fault{Phase: dsqltest.OnPassword, Effect: dsqltest.HangUp}))
	config := server.Config()
	config.ConnectTimeout = 200 * time.Millisecond
	_, err = dsql.Connect(ctx, config)
	fmt.Println("a new connection:", err != nil)

	server.SetFaults(nil) // the network is well again
	second, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer second.Close(ctx)
	fmt.Println("sessions:", server.Sessions())
	// Output:
	// a new connection: true
	// sessions: 2
}

// A network that resets PostgreSQL on 5432 and lets 443 through.
func ExampleWithWebSocketAddress() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithWebSocketAddress("127.0.0.1:0"))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	server.SetFaults(dsqltest.Always(dsqltest.Fault{Phase: dsqltest.OnClientHello, Effect: dsqltest.Reset}))
	server.SetWebSocketFaults(nil) // as it is anyway

	config := server.Config()
	config.Transport = "auto"
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, attempt := range server.Attempts() {
		fmt.Println(attempt.WebSocket, attempt.Address == server.WebSocketAddr(), attempt.Outcome)
	}
	// Output:
	// false false reset on ClientHello
	// true true ok
}

func ExampleAlways() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithFaults(dsqltest.Always(dsqltest.Fault{Phase: dsqltest.OnClientHello, Effect: dsqltest.Reset})))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	config := server.Config()
	config.ConnectTimeout = 2 * time.Second
	_, err = dsql.Connect(ctx, config)
	fmt.Println(err != nil, server.Attempts()[0].Outcome)
	// Output: true reset on ClientHello
}

func ExampleFault() {
	fmt.Println(dsqltest.Fault{Phase: dsqltest.OnQuery, Effect: dsqltest.Reset, After: 12})
	fmt.Println(dsqltest.Fault{Phase: dsqltest.OnSSLRequest, Effect: dsqltest.Garbage})
	// Output:
	// reset on query after 12 bytes
	// garbage on SSLRequest
}

func ExamplePhase() {
	for phase := dsqltest.OnAccept; phase <= dsqltest.OnQuery; phase++ {
		fmt.Println(phase)
	}
	// Output:
	// accept
	// SSLRequest
	// ClientHello
	// upgrade
	// startup message
	// password
	// query
}

func ExampleEffect() {
	for effect := dsqltest.Reset; effect <= dsqltest.SkipPassword; effect++ {
		fmt.Println(effect)
	}
	// Output:
	// reset
	// hang-up
	// silence
	// garbage
	// skipped password
}

func ExampleCommitFault() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, fault := range []dsqltest.CommitFault{dsqltest.NoFault, dsqltest.Conflict} {
		server.SetCommitFaults(func() dsqltest.CommitFault { return fault })
		_, err := conn.Exec(ctx, "create table if not exists t (id int)")
		fmt.Println(dsqltx.IsConflict(err))
	}
	// Output:
	// false
	// true
}

func ExampleRefusal() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	server.RefuseNext(1, dsqltest.Refusal{Code: "08006", Message: "unable to accept connection, access denied",
		Hint: "Wrong user to action mapping. user: admin, action: DbConnect"})
	_, err = dsql.Connect(ctx, server.Config())
	fmt.Println(errors.Is(err, dsql.ErrAccessDenied))

	for _, refusal := range []dsqltest.Refusal{dsqltest.RefuseWaking, dsqltest.RefuseRate, dsqltest.RefuseConnections,
		dsqltest.RefuseUnavailable, dsqltest.RefuseExpired, dsqltest.RefuseAccess} {
		fmt.Println(refusal.Code, refusal.Message)
	}
	// Output:
	// true
	// 57P03 unable to accept connection, waking up cluster, please retry later
	// 53400 Unable to accept connection, rate exceeded.
	// 53300 Unable to accept connection, too many open connections.
	// XX000 server unavailable
	// 08006 unable to accept connection, access denied
	// 08006 unable to accept connection, access denied
}

func ExampleAttempt() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	config := server.Config()
	config.User = "nobody" // is no role of the server's
	_, err = dsql.Connect(ctx, config)
	fmt.Println(errors.Is(err, dsql.ErrAccessDenied))
	attempt := server.Attempts()[0]
	fmt.Println(attempt.ServerName == server.Endpoint(), attempt.TokenAction, attempt.Outcome)
	fmt.Println(attempt.Reason) // which the client is not told
	// Output:
	// true
	// true DbConnect unable to accept connection, access denied
	// the role does not exist; add it with WithRoles
}

func ExampleTransactionCounts() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	server.ConflictNext(1)
	if _, err := dsqltx.Exec(ctx, conn, "create table t (id int)"); err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%+v\n", server.Transactions())
	// Output: {Applied:1 Conflicts:1 SchemaConflicts:0 Cuts:0}
}

func ExampleOption() {
	eu := []dsqltest.Option{dsqltest.WithRegion("eu-west-1"), dsqltest.WithRoles("app", "reports")}
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, eu...)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	fmt.Println(server.Region())
}

func ExampleWithAddress() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithAddress("127.0.0.1:5432"))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	fmt.Println("listening on", server.Addr())
}

func ExampleWithAuthorityFile() {
	dir, err := os.MkdirTemp("", "")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	authority := dsqltest.WithAuthorityFile(filepath.Join(dir, "authority.pem"))
	ctx := context.Background()
	var pem [2]string
	for i := range pem {
		server, err := dsqltest.Start(ctx, authority)
		if err != nil {
			log.Fatal(err)
		}
		pem[i] = string(server.CAPEM())
		server.Close()
	}
	fmt.Println("the same authority:", pem[0] == pem[1])
	// Output: the same authority: true
}

func ExampleWithClock() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithClock(func() time.Time { return time.Now().Add(time.Hour) }))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	_, err = dsql.Connect(ctx, server.Config())
	fmt.Println(errors.Is(err, dsql.ErrTokenExpired))
	// Output: true
}

func ExampleWithCancel() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithCancel(false))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	time.AfterFunc(100*time.Millisecond, func() { conn.PgConn().CancelRequest(ctx) })
	_, err = conn.Exec(ctx, "select pg_sleep(0.5)")
	fmt.Println(err)
	// Output: <nil>
}

func ExampleWithClusterID() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithClusterID("vftmkydwxvxys6asbsc6ih2the"))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	fmt.Println(server.ClusterID())
	fmt.Println(server.Endpoint())
	// Output:
	// vftmkydwxvxys6asbsc6ih2the
	// vftmkydwxvxys6asbsc6ih2the.dsql.us-east-1.on.aws
}

func ExampleWithConnectQuota() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithConnectQuota(0.01, 1))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	config := server.Config()
	config.ConnectTimeout = 200 * time.Millisecond
	_, err = dsql.Connect(ctx, config)
	fmt.Println("over the quota:", errors.Is(err, dsql.ErrRateExceeded))

	server.SetConnectQuota(-1, 0) // from now on there is none
	second, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer second.Close(ctx)
	// Output: over the quota: true
}

func ExampleWithDataDir() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithDataDir("/var/tmp/orders")) // as it was left the last time
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
}

func ExampleWithFaults() {
	connections := 0
	firstCut := func() dsqltest.Fault { // never called twice at once
		if connections++; connections == 1 {
			return dsqltest.Fault{Phase: dsqltest.OnStartup, Effect: dsqltest.HangUp}
		}
		return dsqltest.Fault{}
	}
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithFaults(firstCut))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	for _, attempt := range server.Attempts() {
		fmt.Println(attempt.Outcome)
	}
	// Output:
	// hang-up on startup message
	// ok
}

func ExampleWithMaxConnections() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithMaxConnections(1))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	config := server.Config()
	config.ConnectTimeout = 200 * time.Millisecond
	_, err = dsql.Connect(ctx, config)
	fmt.Println(errors.Is(err, dsql.ErrTooManyConnections))

	server.SetMaxConnections(2)
	second, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer second.Close(ctx)
	fmt.Println(server.Sessions())
	// Output:
	// true
	// 2
}

func ExampleWithPrivateLinkSuffix() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithClusterID("vftmkydwxvxys6asbsc6ih2the"), dsqltest.WithPrivateLinkSuffix("ab12"))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	fmt.Println(server.PrivateEndpoint()) // vftmkydwxvxys6asbsc6ih2the.dsql-ab12.us-east-1.on.aws
}

func ExampleWithRegion() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithClusterID("vftmkydwxvxys6asbsc6ih2the"), dsqltest.WithRegion("eu-central-1"))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	fmt.Println(server.Endpoint()) // vftmkydwxvxys6asbsc6ih2the.dsql.eu-central-1.on.aws
}

func ExampleWithRoles() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithRoles("reports"))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	config := server.Config()
	for _, config.User = range []string{"admin", "reports", "app"} {
		conn, err := dsql.Connect(ctx, config)
		fmt.Println(config.User, err == nil)
		if err == nil {
			conn.Close(ctx)
		}
	}
	// Output:
	// admin true
	// reports true
	// app false
}

func ExampleWithRoundTripTime() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithRoundTripTime(20*time.Millisecond))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	began := time.Now()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println("four round trips:", time.Since(began) >= 80*time.Millisecond)
	server.SetRoundTripTime(0) // for connections from now on
	// Output: four round trips: true
}

func ExampleWithSchema() {
	files := fstest.MapFS{"schema/001_accounts.sql": {Data: []byte( // in a project: os.DirFS("."), or an embed.FS
		`create table accounts (name text primary key, balance bigint not null);
		 insert into accounts values ('ada', 100);`)}}
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithSchema(files, "schema/*.sql"))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	var balance int
	if err := conn.QueryRow(ctx, "select balance from accounts").Scan(&balance); err != nil {
		log.Fatal(err)
	}
	fmt.Println(balance)
	// Output: 100
}

func ExampleWithSessionLifetime() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithSessionLifetime(50*time.Millisecond))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	_, err = conn.Exec(ctx, "select pg_sleep(1)")
	fmt.Println("ended:", err != nil)
	server.SetSessionLifetime(time.Hour) // of sessions from now on
	// Output: ended: true
}

func ExampleWithTransactionAge() {
	var later atomic.Bool
	clock := dsqltest.WithClock(func() time.Time {
		if later.Load() {
			return time.Now().Add(time.Minute + time.Second)
		}
		return time.Now()
	})
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, clock, dsqltest.WithTransactionAge(time.Minute))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	conn, err := dsql.Connect(ctx, server.Config())
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	tx, err := conn.Begin(ctx)
	if err != nil {
		log.Fatal(err)
	}
	later.Store(true)
	_, err = tx.Exec(ctx, "select 1")
	fmt.Println(err)
	server.SetTransactionAge(5 * time.Minute) // for every statement from now on
	// Output: ERROR: transaction age limit of 60s exceeded (SQLSTATE 54000)
}

func ExampleWithVPCEndpoint() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx,
		dsqltest.WithVPCEndpoint("vpce-07acca8bd8980c621-nruuwp08.dsql-fnh4.us-east-1.vpce.amazonaws.com"))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	config := server.Config()
	config.Host, config.ClusterID = server.VPCEndpoint(), server.ClusterID()
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	fmt.Println(server.Attempts()[0].ServerName == server.PrivateEndpoint())
	// Output: true
}

func ExampleWithWaking() {
	ctx := context.Background()
	server, err := dsqltest.Start(ctx, dsqltest.WithWaking(2))
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	config := server.Config()
	config.OnRetry = func(e dsql.RetryEvent) { fmt.Println("waking:", errors.Is(e.Err, dsql.ErrClusterWaking)) }
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	// Output:
	// waking: true
	// waking: true
}
