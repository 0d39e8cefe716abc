package dsql

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// How long WaitForJob waits before it looks again, at first and at most. Builds of indexes on
// empty tables have been seen to take 5 to 24 s.
const (
	minJobInterval = 50 * time.Millisecond
	maxJobInterval = 5 * time.Second
)

// ErrJobFailed is a job's end without success.
var ErrJobFailed = errors.New("dsql: job failed")

// Job is what the cluster tells of work that it does in the background, such as
// CREATE INDEX ASYNC.
type Job struct {
	ID      string // as CREATE INDEX ASYNC returns it
	Status  string // submitted, processing, completed or failed
	Details string // why it failed
}

// Querier is what *pgxpool.Pool and *pgx.Conn are.
type Querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// WaitForJob waits until a job has ended, and returns nil when it completed. Otherwise the
// error is ErrJobFailed and has the cluster's reason. An index whose build failed stays,
// invalid, until DROP INDEX.
//
// It looks at sys.jobs (AWS guide, "System tables and commands in Aurora DSQL") every 50 ms at
// first and every 5 s in the end, for as long as ctx allows, and again where that meets a
// conflict or a pool's connection is lost; the procedure sys.wait_for_job would hold a
// connection in one statement meanwhile. db must not be a transaction, which sees no change. A
// job that ended is listed for 30 minutes; for an ID that is not, the error is pgx.ErrNoRows.
//
// progress, which may be nil, is called with each new state, the last one included, on the
// caller's goroutine.
func WaitForJob(ctx context.Context, db Querier, id string, progress func(Job)) error {
	return waitForJob(ctx, id, progress, func(ctx context.Context, job *Job) error {
		err := db.QueryRow(ctx, jobQuery, id).Scan(&job.Status, &job.Details)
		if err != nil && ctx.Err() == nil && isGone(db) {
			// Unlike a pool, it has no other; so nothing that Retry would know as a lost connection.
			return fmt.Errorf("the connection is lost; wait again on another, or with a pool: %v", err)
		}
		return err
	})
}

// WaitForSQLJob is WaitForJob for database/sql; for an ID that is not listed, the error is
// sql.ErrNoRows, which pgx.ErrNoRows is too.
func WaitForSQLJob(ctx context.Context, db *sql.DB, id string, progress func(Job)) error {
	return waitForJob(ctx, id, progress, func(ctx context.Context, job *Job) error {
		return db.QueryRowContext(ctx, jobQuery, id).Scan(&job.Status, &job.Details)
	})
}

const jobQuery = "select status, coalesce(details, '') from sys.jobs where job_id = $1"

func waitForJob(ctx context.Context, id string, progress func(Job), read func(context.Context, *Job) error) error {
	reads, err := newRetrier(nil)
	if err != nil {
		return err
	}
	reads.readOnly = true
	var last Job
	for interval := minJobInterval; ; interval = min(2*interval, maxJobInterval) {
		job := Job{ID: id}
		err := reads.statement(ctx, func(ctx context.Context) error { return read(ctx, &job) })
		switch {
		case errors.Is(err, sql.ErrNoRows):
			return fmt.Errorf("dsql: job %q is not in sys.jobs: check the ID; a job that ended is listed for 30 minutes: %w", id, err)
		case err != nil:
			return fmt.Errorf("dsql: reading job %q in sys.jobs: %w", id, err)
		}
		if job != last && progress != nil {
			progress(job)
		}
		switch last = job; job.Status {
		case "completed":
			return nil
		case "failed", "canceled", "cancelled": // the guide has no word for what DROP INDEX does to a job
			return fmt.Errorf("%w: %s %s: %s; if it built an index, mend the data, DROP INDEX and create it again", ErrJobFailed, id, job.Status, job.Details)
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return fmt.Errorf("dsql: job %q is still %s, and goes on; wait for it again with more time: %w", id, job.Status, context.Cause(ctx))
		}
	}
}
