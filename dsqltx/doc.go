// Package dsqltx runs transactions and statements on Amazon Aurora DSQL, and runs them again when
// that is right:
//
//	err := dsqltx.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
//		_, err := tx.Exec(ctx, "update counters set n = n + 1 where id = $1", id)
//		return err
//	})
//
// DSQL takes no locks. A transaction that meets another one succeeds in all its statements, and
// learns at COMMIT that it lost (SQLSTATE 40001, OC000). A changed schema ends transactions and
// plain reads in the same way (OC001). [Run] and [RunSQL] then run the whole transaction again.
// [Exec], [ExecSQL] and [Retry] do the same for single statements in autocommit. A [Runner] holds
// the settings of all five.
//
// When the connection is lost between COMMIT and its answer, nobody knows whether the transaction
// was applied. The error is then [ErrCommitUnknown], and nothing runs again, unless the Runner is
// Idempotent or has a CheckCommit.
//
// A [Writer] writes more rows than one transaction may. [WaitForJob] waits for work that the
// cluster does in the background, such as CREATE INDEX ASYNC.
//
// The package works with connections of any origin: pgx, pgxpool and database/sql. It does not
// need package dsql.
package dsqltx
