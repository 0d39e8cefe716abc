// Cold/pgx is a first query as one writes it by hand: the SDK's configuration, one token, pgx.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net"
	"os"

	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/dsql/auth"
	"github.com/jackc/pgx/v5"
)

func main() {
	ctx := context.Background()
	host := os.Getenv("DSQL_HOST")
	aws, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		log.Fatal(err)
	}
	token, err := auth.GenerateDBConnectAdminAuthToken(ctx, host+"/", aws.Region, aws.Credentials)
	if err != nil {
		log.Fatal(err)
	}
	c, err := pgx.ParseConfig("user=admin dbname=postgres sslmode=verify-full sslnegotiation=direct host=" + host)
	if err != nil {
		log.Fatal(err)
	}
	pem, err := os.ReadFile(os.Getenv("DSQL_CA_FILE"))
	if err != nil {
		log.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c.TLSConfig = &tls.Config{ServerName: host, RootCAs: roots, NextProtos: []string{"postgresql"}}
	c.LookupFunc = func(context.Context, string) ([]string, error) { return []string{host}, nil }
	c.DialFunc = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, os.Getenv("DSQL_ADDRESS"))
	}
	c.Password = token
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		log.Fatal(err)
	}
	defer conn.Close(ctx)
	var one int
	if err := conn.QueryRow(ctx, "select 1").Scan(&one); err != nil {
		log.Fatal(err)
	}
	fmt.Println(one)
}
