package dsqlproxy_test

import (
	"context"
	"fmt"
	"log"
	"net"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqlproxy"
	"github.com/dsqlgo/dsql/dsqltest"
)

// A proxy for the clients of this machine, until the program is told to end.
func ExampleProxy() {
	var ctx context.Context // of signal.NotifyContext, for one
	proxy := &dsqlproxy.Proxy{
		Config: dsql.Config{Host: "<id>.dsql.us-east-1.on.aws", User: "app"},
		Spares: 4,
	}
	listener, err := net.Listen("tcp", "127.0.0.1:5432")
	if err != nil {
		log.Fatal(err)
	}
	if err := proxy.Serve(ctx, listener); err != nil {
		log.Fatal(err)
	}
}

// A client that knows nothing of DSQL, through a proxy, at a local endpoint.
func ExampleProxy_Serve() {
	ctx, stop := context.WithCancel(context.Background())
	server, err := dsqltest.Start(ctx)
	if err != nil {
		log.Fatal(err)
	}
	defer server.Close()
	proxy := &dsqlproxy.Proxy{Config: server.Config()}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- proxy.Serve(ctx, listener) }()

	conn, err := pgx.Connect(ctx, "postgres://admin@"+listener.Addr().String()+"/postgres?sslmode=disable")
	if err != nil {
		log.Fatal(err)
	}
	var user string
	if err := conn.QueryRow(ctx, "select current_user").Scan(&user); err != nil {
		log.Fatal(err)
	}
	fmt.Println(user)
	conn.Close(ctx)

	stop()
	fmt.Println(<-served)
	// Output:
	// admin
	// <nil>
}

func ExampleProxy_Stats() {
	var proxy *dsqlproxy.Proxy
	for range time.Tick(time.Minute) {
		stats := proxy.Stats()
		log.Printf("%d clients, %d of them wait for a session", stats.Clients, stats.Clients-stats.Relaying)
	}
}
