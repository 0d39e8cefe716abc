// Package dsql connects Go programs to Amazon Aurora DSQL, with pgx or database/sql:
//
//	pool, err := dsql.NewPool(ctx, dsql.Config{Host: "<id>.dsql.us-east-1.on.aws"})
//
// NewPool returns an ordinary *pgxpool.Pool. [Connect] returns a *pgx.Conn and [OpenDB] a *sql.DB;
// sql.Open("dsql", connString) works as well.
//
// This package is about connecting. Package dsqltx runs transactions and retries them when DSQL
// reports a conflict, package dsqldoctor finds out why a connection fails, and package dsqltest
// starts a local endpoint for tests.
//
// # Logging in
//
// DSQL has no passwords. Each new connection sends an IAM token, which this package signs locally
// with the AWS credentials of the [Config], or else with those that the AWS SDK finds. The package
// keeps the token, replaces it before it expires, and never puts it into a ConnConfig or
// PoolConfig: these hold no secret and stay valid for the life of the program. Programs that need
// the token itself get it from a [TokenSource].
//
// # Names
//
// The server finds the cluster by the TLS server name (SNI), so the name to dial and the name to
// send can differ. Usually both are the cluster's endpoint. Through a VPC endpoint without private
// DNS they are not:
//
//	dsql.Config{
//		Host:      "vpce-0123456789abcdef0-abcdefgh.dsql-fnh4.us-east-1.vpce.amazonaws.com",
//		ClusterID: "<id>",
//	}
//
// dials the vpce-… name and sends <id>.dsql-fnh4.us-east-1.on.aws, which the server's certificate
// covers. DialAddress does the same for tunnels and proxies. [Config.Endpoint] returns the names
// that follow from a Config. Certificates are always verified in full.
//
// # Connections
//
// DSQL ends each connection after 60 minutes. Pools replace their connections earlier, each at a
// time of its own. While connecting, temporary refusals (a quota, a cluster that is waking up) and
// network failures are retried until ConnectTimeout or the context ends.
//
// The PG* environment and files such as .pgpass have no effect. The AWS environment and the shared
// AWS files are read as by every AWS SDK.
package dsql
