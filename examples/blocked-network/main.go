// Blocked-network connects on a network that lets TCP to port 5432 through and resets every TLS
// handshake there, as one of a real report did. TCP fails; with Transport "auto" the same connect
// goes on by WebSocket, over port 443, which is HTTPS to such a network. The process remembers that.
//
// A local endpoint plays the cluster and the network.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"strings"
	"time"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqldoctor"
	"github.com/dsqlgo/dsql/dsqltest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	server, err := dsqltest.Start(ctx, dsqltest.WithWebSocketAddress("127.0.0.1:0"))
	if err != nil {
		return err
	}
	defer server.Close()
	server.SetFaults(dsqltest.Always(dsqltest.Fault{Phase: dsqltest.OnClientHello, Effect: dsqltest.Reset}))

	config := server.Config() // on a cluster: dsql.Config{Host: "<id>.dsql.us-east-1.on.aws"}
	if err := byTCP(ctx, config); err == nil {
		return errors.New("connected over TCP, which this network stops")
	} else {
		fmt.Fprintln(out, "tcp fails:", reason(err))
	}

	report := dsqldoctor.Diagnose(ctx, config, nil)
	fmt.Fprintf(out, "the doctor says %s: %s\n", report.Verdict, report.Remedies[0])

	config.Transport = "auto"
	config.OnRetry = func(e dsql.RetryEvent) {
		fmt.Fprintf(out, "%s fails, the next attempt is at once\n", e.Transport)
	}
	for range 3 {
		began := time.Now()
		conn, err := dsql.Connect(ctx, config)
		if err != nil {
			return err
		}
		took := time.Since(began)
		var who string
		err = conn.QueryRow(ctx, "select current_user").Scan(&who)
		transport := conn.PgConn().Conn().RemoteAddr().Network()
		conn.Close(ctx)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "logged in as %s by %s in %s\n", who, transport, took.Round(time.Millisecond))
	}
	return nil
}

func byTCP(ctx context.Context, config dsql.Config) error {
	config.ConnectTimeout = time.Second // it would be tried again for 30 s
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

// reason is the part of an error that this package words.
func reason(err error) string {
	text := err.Error()
	return text[max(strings.Index(text, "dsql: "), 0):]
}
