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
// has, so tests may run in parallel. Those that share a server can have a schema each, from
// [Server.Schema]; [WithSchema] fills it.
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
// It also takes WebSockets whose frames carry PostgreSQL's protocol, as clusters do on
// port 443: on the same port, where it tells HTTP from PostgreSQL inside TLS, or on one of
// its own by [WithWebSocketAddress]. How a cluster answers what is no such WebSocket is not
// recorded; here the answers are a web server's.
//
// # What is behind it
//
// PostgreSQL is started from the binaries installed on the machine (Linux and
// macOS), listens on a unix socket in a temporary directory, and goes when the server
// does. New has another one started meanwhile, for the next New or Start; it ends with the process
// at the latest. Sessions are relayed to it message by message, unchanged as long as no
// rule of DSQL stands against it; a session gets its backend when it first
// speaks, so an idle one costs little.
//
// # Transactions
//
// Isolation is REPEATABLE READ and cannot be changed. There are no savepoints,
// and one transaction has one statement of DDL (GRANT and REVOKE are some), or DML of up
// to 3,000 rows in all. Refusals have the service's SQLSTATE, and its words
// where those are on record.
//
// A conflict ends as 40001 with OC000 in its message. At the service the loser
// learns of it at COMMIT. Here it is the statement that fails, when it meets a
// row that another transaction has changed, or has locked for 10 ms: to fail at
// COMMIT instead, statements that did not run would have to be answered. So a
// transaction can lose to one that rolls back in the end. Conflicts at COMMIT
// are made by [Server.ConflictNext].
//
// After a schema change is committed, the next statement of every other
// session that may touch a table fails once with 40001 and OC001, plain reads
// too. A session that has run nothing yet begins with the schema as it is. OC001
// also ends a wait of 10 ms for a table that a schema change has locked, or for the
// lock that such a change needs; then the first retry may meet it again.
//
// [Server.SetCommitFaults] and [Server.CutNext] cut connections before a COMMIT
// arrives or before its answer leaves, and [Server.Transactions] counts what
// really happened.
//
// # Index jobs
//
// CREATE INDEX is refused without ASYNC, and with it returns a row with a job_id. When
// its transaction is committed, the index is built in the background; the view sys.jobs
// tells how far the job is, and CALL sys.wait_for_job('…') waits for it and returns
// whether it succeeded. All this, and the columns and states of sys.jobs, are in the
// AWS guide ("Asynchronous indexes", "System tables and commands"). That CALL, outside
// of a transaction, is the only way to wait_for_job, and what is said of duplicate
// keys, others have recorded from clusters. Guessed are the error for an unknown
// job_id, and that CREATE INDEX ASYNC IF NOT EXISTS returns a job also when the index
// is there.
//
// A unique index over duplicate keys ends as failed and stays, invalid, until it is
// dropped. OC001 meets other sessions when an index is submitted, and again when it is
// there. A build waits for the transactions that began before it, as CREATE INDEX
// CONCURRENTLY does in PostgreSQL, so a reader that stays open holds it in processing.
// At the service an index is there from the start, invalid; here from when its job is
// processed. One job runs at a time; DROP INDEX does not cancel it, and sys.jobs keeps
// all.
//
// What is not imitated: the limit of 10 MiB a transaction, conflicts that PostgreSQL
// does not see as such, and refusals of PostgreSQL's features beyond the common ones. A
// schema change can also meet clients as PostgreSQL has it, with "cached plan must not
// change result type". The text of a single statement goes to PostgreSQL as it is, that
// of several goes one by one.
//
// The endpoint listens on loopback only. It is made for tests: its keys and
// its PostgreSQL protect nothing of value.
package dsqltest
