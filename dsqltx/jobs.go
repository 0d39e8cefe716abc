package dsqltx

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"
)

// The time between two reads of a job's state, at first and at most. Builds of indexes on empty
// tables took 5 to 24 s on live clusters.
const (
	minJobInterval = 50 * time.Millisecond
	maxJobInterval = 5 * time.Second
)

// A Job is work that the cluster does in the background, such as CREATE INDEX ASYNC.
type Job struct {
	ID      string // as CREATE INDEX ASYNC returns it
	Status  string // submitted, processing, completed or failed
	Details string // why it failed
}

// WaitForJob waits until a job has ended. It returns nil when the job completed. When the job
// failed, the error is ErrJobFailed with the cluster's reason. An index whose build failed stays,
// invalid, until DROP INDEX.
//
// WaitForJob reads sys.jobs (AWS guide, "System tables and commands in Aurora DSQL") every 50 ms at
// first and every 5 s later, until ctx ends. It reads again after a conflict, and when the
// connection of a pool is lost. The procedure sys.wait_for_job would keep one statement open
// instead. db must not be a transaction, which would not see the change. A job that ended is listed
// for 30 minutes; for an ID that is not listed, the error is pgx.ErrNoRows.
//
// progress, which may be nil, is called with each new state, the last one included, on the caller's
// goroutine.
func WaitForJob(ctx context.Context, db Querier, id string, progress func(Job)) error {
	return waitForJob(ctx, id, progress, func(ctx context.Context, job *Job) error {
		err := db.QueryRow(ctx, jobQuery, id).Scan(&job.Status, &job.Details)
		if err != nil && ctx.Err() == nil && isClosedConn(db) {
			// Hides err from the retry, which would take it for a connection that can be replaced.
			return fmt.Errorf("the connection is lost; wait again on another, or with a pool: %v", err)
		}
		return err
	})
}

// WaitForSQLJob is [WaitForJob] for database/sql. For an ID that is not listed, the error is
// sql.ErrNoRows, which pgx.ErrNoRows wraps.
func WaitForSQLJob(ctx context.Context, db *sql.DB, id string, progress func(Job)) error {
	return waitForJob(ctx, id, progress, func(ctx context.Context, job *Job) error {
		return db.QueryRowContext(ctx, jobQuery, id).Scan(&job.Status, &job.Details)
	})
}

const jobQuery = "select status, coalesce(details, '') from sys.jobs where job_id = $1"

func waitForJob(ctx context.Context, id string, progress func(Job), read func(context.Context, *Job) error) error {
	var last Job
	for interval := minJobInterval; ; interval = min(2*interval, maxJobInterval) {
		job := Job{ID: id}
		err := Runner{}.retryStatement(ctx, true, func(ctx context.Context) error { return read(ctx, &job) })
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("dsqltx: job %q is not in sys.jobs: check the ID; a job that ended is listed for 30 minutes: %w", id, err)
		case err != nil:
			return fmt.Errorf("dsqltx: reading job %q in sys.jobs: %w", id, err)
		}
		if job != last && progress != nil {
			progress(job)
		}
		switch last = job; job.Status {
		case "completed":
			return nil
		case "failed", "canceled", "cancelled": // the guide does not say what DROP INDEX makes of a job
			return fmt.Errorf("%w: %s %s: %s; if it built an index, mend the data, DROP INDEX and create it again", ErrJobFailed, id, job.Status, job.Details)
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return fmt.Errorf("dsqltx: job %q is still %s, and goes on; wait for it again with more time: %w", id, job.Status, context.Cause(ctx))
		}
	}
}
