package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/feature/dsql/auth"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

// endpoint is a local cluster, and what another process needs to reach it.
type endpoint struct {
	*dsqltest.Server
	caFile string
}

func start(ctx context.Context, options ...dsqltest.Option) (*endpoint, error) {
	server, err := dsqltest.Start(ctx, append([]dsqltest.Option{dsqltest.WithConnectQuota(-1, 0)}, options...)...)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "bench")
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "ca.pem"), server.CAPEM(), 0o600)
	}
	if err != nil {
		server.Close()
		return nil, err
	}
	return &endpoint{server, filepath.Join(dir, "ca.pem")}, nil
}

func (e *endpoint) close() {
	e.Close()
	os.RemoveAll(filepath.Dir(e.caFile))
}

// config is without pacing, which would be all that a benchmark measures.
func (e *endpoint) config() dsql.Config {
	c := e.Config()
	c.ConnectRate = -1
	return c
}

// environment is what dsql and hand-written programs read.
func (e *endpoint) environment() []string {
	credentials := e.Credentials()
	return append(os.Environ(),
		"DSQL_URL=dsql://"+e.Endpoint()+"?"+url.Values{"dial_address": {e.Addr()}, "sslrootcert": {e.caFile}}.Encode(),
		"DSQL_HOST="+e.Endpoint(), "DSQL_ADDRESS="+e.Addr(), "DSQL_CA_FILE="+e.caFile,
		"AWS_REGION="+e.Region(), "AWS_ACCESS_KEY_ID="+credentials.AccessKeyID, "AWS_SECRET_ACCESS_KEY="+credentials.SecretAccessKey,
		"AWS_SESSION_TOKEN="+credentials.SessionToken, "AWS_EC2_METADATA_DISABLED=true", "AWS_CA_BUNDLE=",
		"AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull)
}

// plain is a pool of pgx alone, with a token as its password: what one writes by hand.
func (e *endpoint) plain(ctx context.Context) (*pgxpool.Config, error) {
	config, err := pgxpool.ParseConfig("")
	if err != nil {
		return nil, err
	}
	config.ConnConfig, err = e.plainConn(ctx)
	return config, err
}

func (e *endpoint) plainConn(ctx context.Context) (*pgx.ConnConfig, error) {
	token, err := auth.GenerateDBConnectAdminAuthToken(ctx, e.Endpoint()+"/", e.Region(), e.Config().Credentials)
	if err != nil {
		return nil, err
	}
	_, port, err := net.SplitHostPort(e.Addr())
	if err != nil {
		return nil, err
	}
	number, err := strconv.ParseUint(port, 10, 16)
	if err != nil {
		return nil, err
	}
	c, err := pgx.ParseConfig(fmt.Sprintf("host=%s port=%d user=admin dbname=postgres sslmode=verify-full sslnegotiation=direct", e.Endpoint(), number))
	if err != nil {
		return nil, err
	}
	c.Password = token
	c.TLSConfig = &tls.Config{RootCAs: e.RootCAs(), ServerName: e.Endpoint(), NextProtos: []string{"postgresql"}}
	c.Fallbacks = nil
	c.LookupFunc = func(context.Context, string) ([]string, error) { return []string{"127.0.0.1"}, nil }
	return c, nil
}
