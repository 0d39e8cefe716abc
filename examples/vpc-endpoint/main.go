// Vpc-endpoint connects through a VPC endpoint without private DNS, which
// every usual TLS setting fails at with "unable to accept connection, invalid sni":
// the name to dial (vpce-…) is not the name that the server must hear.
//
// The names are those of a real report. A local endpoint plays the cluster, so the vpce-…
// name is led there by a DialFunc; inside the VPC, DNS does that, and Host,
// ClusterID and User are all there is to set.
package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"

	"github.com/jackc/pgx/v5"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

const (
	vpcEndpoint = "vpce-07acca8bd8980c621-nruuwp08.dsql-fnh4.us-east-1.vpce.amazonaws.com"
	clusterID   = "vftmkydwxvxys6asbsc6ih2the"
	user        = "lambda_dsql_user"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	server, err := dsqltest.Start(ctx, dsqltest.WithClusterID(clusterID), dsqltest.WithRoles(user))
	if err != nil {
		return err
	}
	defer server.Close()

	config := dsql.Config{
		Host:      vpcEndpoint,
		ClusterID: clusterID,
		User:      user,

		// What stands for the VPC and for AWS here.
		DialFunc: func(ctx context.Context, network, address string) (net.Conn, error) {
			fmt.Fprintln(out, "dialled    ", address)
			return new(net.Dialer).DialContext(ctx, network, server.Addr())
		},
		RootCAs:     server.RootCAs(),
		Credentials: server.Config().Credentials,
	}

	if err := asReported(ctx, config); err != nil {
		fmt.Fprintln(out, "plain pgx  ", err)
	} else {
		return errors.New("a vpce-… name was taken as SNI")
	}

	conn, err := dsql.Connect(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	state := conn.PgConn().Conn().(interface{ ConnectionState() tls.ConnectionState }).ConnectionState()
	var who string
	if err := conn.QueryRow(ctx, "select current_user").Scan(&who); err != nil {
		return err
	}
	fmt.Fprintln(out, "SNI        ", state.ServerName)
	fmt.Fprintln(out, "certificate", state.PeerCertificates[0].DNSNames)
	fmt.Fprintln(out, "logged in  ", who)
	return nil
}

// asReported does what the report did: plain pgx with the token as the password.
// With sslmode=verify-full it would fail too, at the certificate.
func asReported(ctx context.Context, config dsql.Config) error {
	tokens, err := dsql.NewTokenSource(ctx, config)
	if err != nil {
		return err
	}
	token, err := tokens.Token(ctx)
	if err != nil {
		return err
	}
	cc, err := pgx.ParseConfig("host=" + vpcEndpoint + " user=" + user + " dbname=postgres sslmode=require")
	if err != nil {
		return err
	}
	cc.DialFunc = config.DialFunc
	cc.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	cc.Password = token.Reveal()
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}
