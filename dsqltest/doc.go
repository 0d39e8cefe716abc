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
// to 3,000 rows and 10 MiB in all. Refusals have the service's SQLSTATE, and its words
// where those are on record.
//
// Nobody waits for a row. A transaction that meets a row which another one has changed or locked
// goes on: its statements succeed, and show what its snapshot and its own writes make of the
// tables. Its COMMIT fails with 40001 and OC000. Outside of a transaction block, the statement
// itself fails. Who comes to a row second loses, even to a transaction that rolls back in the end;
// at the service the first to commit wins. [Server.ConflictNext] makes a COMMIT fail without
// another transaction.
//
// A schema change waits for nobody either. A transaction that has used what changes fails with
// 40001 and OC001 at its COMMIT. If the change needs a lock that the transaction has, then its next
// statement fails, too, and a statement that runs for longer than some 20 ms is ended. After the
// change, the next statement of every other session that names the table fails once with OC001,
// plain reads too. A session that has run nothing yet begins with the schema as it is.
//
// [Server.SetCommitFaults] and [Server.CutNext] cut connections before a COMMIT arrives or before
// its answer leaves, or have it answered with XX000, server unavailable. [Server.UnavailableNext]
// does the last to statements, and [RefuseUnavailable] to logins. [Server.Transactions] counts what
// really happened.
//
// # How a conflict is carried on
//
// A statement that conflicts is undone and runs again on copies of its tables, and of all that
// foreign keys link with them, which only its transaction sees. The copies are temporary tables, in
// the schema pg_temp. Whoever looks at the catalog sees them, and copying takes its time where
// tables are large. Some conflicts cannot be carried on, and fail the statement with OC000: those
// of a function that writes and is called by SELECT, of a portal that is executed in parts, and of
// a statement that names a table by its schema and by a name with a double quote in it. A function
// with a body of BEGIN ATOMIC goes on to use the tables themselves.
//
// # What DSQL does not have
//
// Statements, clauses, types of columns, forms of ALTER TABLE and settings that DSQL lacks are
// refused, in the service's words where these are recorded. Types, keys and limits are judged by
// the catalog once a statement has run, so that domains, LIKE and functions do not get around them.
// docs/testing.md lists what is recorded, what is a guess and what is missing.
//
// # Jobs
//
// CREATE INDEX is refused without ASYNC, and with it returns a row with a job_id. The index is
// there at once, invalid, and the job makes it valid after 100 ms; a cluster takes seconds. ALTER
// TABLE ASYNC … VALIDATE CONSTRAINT does the same for a constraint. The view sys.jobs tells how far
// a job is, and CALL sys.wait_for_job('…') waits for it and returns whether it succeeded. All this,
// and the columns and states of sys.jobs, are in the AWS guide ("Asynchronous indexes", "System
// tables and commands"). That CALL, outside of a transaction, is the only way to wait_for_job, and
// what is said of duplicate keys, others have recorded from clusters. Guessed are the errors for an
// unknown job_id, and that CREATE INDEX ASYNC IF NOT EXISTS returns a job also when the index is
// there.
//
// A unique index over duplicate keys ends as failed and stays, invalid, until it is dropped. A job
// whose table was dropped meanwhile ends as completed. OC001 meets other sessions when an index is
// submitted, and again when it is valid. A job waits for nobody and holds up nobody; sys.jobs keeps
// all.
//
// A schema change can also meet clients as PostgreSQL has it, with "cached plan must not change
// result type". The text of a single statement goes to PostgreSQL as it is, unless a rule rewrites
// it; that of several goes one by one.
//
// The endpoint listens on loopback only. It is made for tests: its keys and
// its PostgreSQL protect nothing of value.
package dsqltest
