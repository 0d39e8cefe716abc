// Package dsql connects Go programs to Amazon Aurora DSQL, with pgx or
// database/sql:
//
//	pool, err := dsql.NewPool(ctx, dsql.Config{Host: "<id>.dsql.us-east-1.on.aws"})
//
// What NewPool returns is an ordinary *pgxpool.Pool; [Connect] returns a
// *pgx.Conn, [OpenDB] a *sql.DB, and sql.Open("dsql", connString) works as well.
//
// # Logging in
//
// DSQL has no passwords. Each connection shows an IAM token, which is signed
// locally with the AWS credentials that the SDK finds, or those in the [Config]. The
// token is kept and replaced ahead of its end, and never leaves this package: the
// ConnConfig and PoolConfig that it makes stay good for ever and hold no secret. Programs that need the
// token itself get it from a [TokenSource].
//
// # Names
//
// The server finds the cluster from the TLS server name (SNI), so the
// name to dial and the name to send are two things. Usually both are the
// cluster's endpoint. Through a VPC endpoint without private DNS they are not:
//
//	dsql.Config{
//		Host:      "vpce-0123456789abcdef0-abcdefgh.dsql-fnh4.us-east-1.vpce.amazonaws.com",
//		ClusterID: "<id>",
//	}
//
// dials the vpce-… name and sends <id>.dsql-fnh4.us-east-1.on.aws, which the certificate
// covers. DialAddress does the same for tunnels and proxies, and [Config.Endpoint]
// says what follows from a Config. Certificates are always verified in full.
//
// # Connections
//
// DSQL ends connections after 60 minutes, so pools replace theirs before, each at
// a time of its own. Refusals that pass by themselves (a quota, a cluster that wakes up) and
// networks that fail are tried again until ConnectTimeout or the context ends.
//
// The PG* environment and files such as .pgpass change nothing. The AWS
// environment and shared files count as they do for every AWS SDK.
//
// # Transactions
//
// DSQL takes no locks: a transaction learns at COMMIT that another one was first. Package dsqltx
// runs it again then. It also retries single statements, writes more rows than one transaction may,
// and waits for jobs.
//
// # Testing
//
// Package dsqltest starts an endpoint that checks names, certificates and
// signatures as the service does, in front of a real PostgreSQL.
package dsql
