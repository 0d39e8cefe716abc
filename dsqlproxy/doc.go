// Package dsqlproxy gives every PostgreSQL client of this machine a host and a port for an Amazon
// Aurora DSQL cluster:
//
//	proxy := &dsqlproxy.Proxy{Config: dsql.Config{Host: "<id>.dsql.us-east-1.on.aws"}}
//	listener, err := net.Listen("tcp", "127.0.0.1:5432")
//	…
//	err = proxy.Serve(ctx, listener)
//
// A client needs neither a token nor TLS nor the right server name: it connects to the listener as
// to a PostgreSQL of its own, and the proxy logs in for it, with the credentials of its
// [dsql.Config]. Each client has one session at the cluster, and what either side says reaches the
// other as it is. It is no pooler: a client keeps its session until it ends.
//
// The command "dsql proxy" is this package with flags.
//
// # Who may connect
//
// Without a Password, whoever reaches the listener uses the cluster as one of the Users. On
// loopback that is every user and program of the machine; a unix socket in a directory of mode 0700
// is for its owner alone. A listener that other machines reach needs a Password and TLS.
//
// # What a client sees
//
// The proxy answers a startup when the cluster has: parameters, process ID, errors and notices are
// the cluster's. What fails before that is a FATAL error whose HINT says what to do. Cancel
// requests go to the cluster by TLS. DSQL ends sessions after 60 minutes, and its words reach the
// client, whose pool should replace connections before that.
package dsqlproxy
