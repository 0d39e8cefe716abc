// Tunnel connects through a TCP forwarder, as these open one:
//
//	ssh -N -L 15432:<id>.dsql.us-east-1.on.aws:5432 user@jump-host
//	aws ssm start-session --target i-… --document-name AWS-StartPortForwardingSessionToRemoteHost \
//		--parameters host=<id>.dsql.us-east-1.on.aws,portNumber=5432,localPortNumber=15432
//
// DialAddress is the tunnel's near end, and all that changes: the server hears the
// cluster's own name, the token is signed for it, and the certificate is verified in full.
//
// Here the forwarder is a real one on loopback, in front of a local endpoint.
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"sync"

	"github.com/dsqlgo/dsql"
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
	server, err := dsqltest.Start(ctx)
	if err != nil {
		return err
	}
	defer server.Close()
	near, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	tunnel := forward(near, server.Addr())
	defer tunnel.Wait() // last, since connections must have ended
	defer near.Close()

	config := dsql.Config{
		Host:        server.Endpoint(),
		DialAddress: near.Addr().String(), // "localhost:15432"

		// What stands for AWS here.
		RootCAs:     server.RootCAs(),
		Credentials: server.Config().Credentials,
	}
	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	network := conn.PgConn().Conn()
	state := network.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState()
	attempts := server.Attempts()
	seen := attempts[len(attempts)-1]

	fmt.Fprintln(out, "dialled     ", network.RemoteAddr())
	fmt.Fprintln(out, "arrived at  ", seen.Address)
	fmt.Fprintln(out, "SNI         ", seen.ServerName)
	fmt.Fprintln(out, "token for   ", seen.TokenHost)
	fmt.Fprintln(out, "certificate ", state.PeerCertificates[0].DNSNames[0])
	var user string
	if err := conn.QueryRow(ctx, "select current_user").Scan(&user); err != nil {
		return err
	}
	fmt.Fprintln(out, "logged in as", user)
	return nil
}

// forward carries what connects to near on to far, until near is closed.
func forward(near net.Listener, far string) *sync.WaitGroup {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := near.Accept()
			if err != nil {
				return // closed
			}
			server, err := net.Dial("tcp", far)
			if err != nil {
				client.Close()
				continue
			}
			for _, way := range [][2]net.Conn{{client, server}, {server, client}} {
				wg.Go(func() {
					_, _ = io.Copy(way[1], way[0])
					way[0].Close()
					way[1].Close()
				})
			}
		}
	})
	return &wg
}
