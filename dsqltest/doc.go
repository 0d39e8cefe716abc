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
// # What DSQL does not have
//
// Statements, clauses, types of columns, forms of ALTER TABLE and settings that DSQL lacks are refused,
// in the service's words where these are recorded. Types, keys and limits are judged by the catalog
// once a statement has run, so that domains, LIKE and functions do not get around them. docs/testing.md
// lists what is recorded, what is a guess and what is missing.
//
// # Jobs
//
// CREATE INDEX is refused without ASYNC, and with it returns a row with a job_id. The index is there at
// once, invalid, and the job makes it valid after 100 ms; a cluster takes seconds. ALTER TABLE ASYNC …
// VALIDATE CONSTRAINT does the same for a constraint. The view sys.jobs tells how far a job is, and CALL
// sys.wait_for_job('…') waits for it and returns whether it succeeded. All this, and the columns and
// states of sys.jobs, are in the AWS guide ("Asynchronous indexes", "System tables and commands"). That
// CALL, outside of a transaction, is the only way to wait_for_job, and what is said of duplicate keys,
// others have recorded from clusters. Guessed are the errors for an unknown job_id, and that CREATE
// INDEX ASYNC IF NOT EXISTS returns a job also when the index is there.
//
// A unique index over duplicate keys ends as failed and stays, invalid, until it is dropped. A job whose
// table was dropped meanwhile ends as completed. OC001 meets other sessions when an index is submitted,
// and again when it is valid. A job waits for nobody and holds up nobody; sys.jobs keeps all.
//
// A schema change can also meet clients as PostgreSQL has it, with "cached plan must not change result
// type". The text of a single statement goes to PostgreSQL as it is, unless a rule rewrites it; that of
// several goes one by one.
//
// The endpoint listens on loopback only. It is made for tests: its keys and
// its PostgreSQL protect nothing of value.
package dsqltest
