// Package jobs runs what CREATE INDEX ASYNC and its like submit.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/postgres"
	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgconn"
)

// buildTime is how long a client's job takes. The index is built, and the constraint validated, as
// the job is submitted: so a build holds up nobody, and waits for nobody. The time is for what a
// client must expect of the service, where an index of an empty table takes 5 to 24 s: the
// statement behind CREATE INDEX ASYNC finds the index invalid.
const buildTime = 100 * time.Millisecond

// WaitForBuild waits as long as a client's job takes, or until ctx ends.
func WaitForBuild(ctx context.Context) {
	select {
	case <-time.After(buildTime):
	case <-ctx.Done():
	}
}

// Run runs the eldest job that a backend of PostgreSQL has submitted, and committed. It calls wait
// while the job is processing. It calls built when an index is there, before anybody can know: who
// has seen the end of a job meets no change of it later. It returns early when ctx ends.
func Run(ctx context.Context, server *postgres.Server, backend uint32, wait func(context.Context), built func(table uint32)) {
	session, err := server.Open(ctx)
	if err != nil {
		return // the server ends
	}
	defer session.Close()
	// In READ COMMITTED, the loser of two concurrent changes goes on with what the winner has left.
	session.Exec("SET default_transaction_isolation = 'read committed'")
	// Runs that start at once choose one after the other, or the last one could find none.
	job, err := session.Query(fmt.Sprintf("SELECT pg_advisory_xact_lock(0);"+
		" UPDATE sys.job_log SET status = 'processing', update_time = clock_timestamp() WHERE job_id ="+
		" (SELECT job_id FROM sys.job_log WHERE backend = %d AND status = 'submitted' ORDER BY start_time LIMIT 1)"+
		" RETURNING job_id, failure, table_id", backend))
	if err != nil || len(job) != 3 {
		return
	}
	wait(ctx)
	id, failure := job[0], job[1]
	if table, err := strconv.ParseUint(job[2], 10, 32); err == nil && failure == "" {
		built(uint32(table))
	}
	for ctx.Err() == nil {
		err := session.Exec("CALL sys.finish_job(" + rules.QuoteLiteral(id) + ")")
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "XX000" { // "tuple concurrently updated", by a schema change
			return
		}
	}
}
