// Package dsqltest is an Aurora DSQL endpoint on this machine, for tests and
// for trying things out: TLS with its own certificate authority, routing by
// server name, logins with IAM tokens whose signatures it verifies, and a real
// PostgreSQL behind it.
//
//	func TestOrders(t *testing.T) {
//		server := dsqltest.New(t)
//		pool, err := dsql.NewPool(t.Context(), server.Config())
//		…
//	}
//
// New ends with its test. Programs call [Start] and [Server.Close]. Each server
// is a cluster of its own, with an ID, a key pair and a database that no other
// has, so tests may run in parallel.
//
// # What it checks
//
// A client meets what it would meet at the service: no connection without TLS
// 1.2, certificates for the cluster's public and PrivateLink names only, the
// cluster found by the client's server name (or by the startup option
// amzn-cluster-id), and a token as the password. Signature, expiry, region,
// service, host, action and role are all checked, and a refusal reads as the
// service's does. The reason for one, which a client is never told, is in
// [Server.Attempts], together with what every connection showed on its way in.
//
// # What is behind it
//
// PostgreSQL is started from the binaries installed on the machine (Linux and
// macOS), listens on a unix socket in a temporary directory, and goes when the server
// does. Sessions are relayed to it message by message, unchanged; a session
// gets its backend when it first speaks, so an idle one costs little.
//
// The endpoint listens on loopback only. It is made for tests: its keys and
// its PostgreSQL protect nothing of value.
package dsqltest
