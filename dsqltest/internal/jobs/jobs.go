// Package jobs runs what CREATE INDEX ASYNC and its like submit.
package jobs

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/dsqlgo/dsql/dsqltest/internal/postgres"
	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgconn"
)

// Runner runs jobs one at a time, each with the rights of the role that submitted it. Its methods are
// safe for concurrent use.
type Runner struct {
	server *postgres.Server
	builds *builds

	// running is held by the job that runs. Two builds can wait for each other's snapshots, until
	// PostgreSQL ends one of them.
	running sync.Mutex
}

// NewRunner returns a Runner for the jobs in server's table sys.job_log.
func NewRunner(server *postgres.Server) *Runner {
	return &Runner{server: server, builds: newBuilds()}
}

// Pause cancels the build that runs and returns when it has ended. No build runs until Resume is
// called as often as Pause.
func (r *Runner) Pause(ctx context.Context) { r.builds.pause(ctx, r.server) }

// Resume lets builds run again, and has one that was cancelled begin anew.
func (r *Runner) Resume() { r.builds.resume() }

// Run runs the eldest job that a backend of PostgreSQL has submitted, and committed. It calls built
// when an index is there, before anybody can know: who has seen the end of a job meets no change of
// it later. It returns early when ctx ends.
func (r *Runner) Run(ctx context.Context, backend uint32, built func()) {
	r.running.Lock()
	defer r.running.Unlock()
	session, err := r.server.Open(ctx)
	if err != nil {
		return // the server ends
	}
	defer session.Close()
	job, err := session.Query(fmt.Sprintf(
		"UPDATE sys.job_log SET status = 'processing', update_time = clock_timestamp() WHERE job_id ="+
			" (SELECT job_id FROM sys.job_log WHERE backend = %d AND status = 'submitted' ORDER BY start_time LIMIT 1)"+
			" RETURNING job_id, role, path, statement, object_name", backend))
	if err != nil || len(job) == 0 {
		return
	}
	id, role, path, statement, object := job[0], job[1], job[2], job[3], job[4]
	err = session.Exec(
		"SET SESSION AUTHORIZATION "+rules.QuoteIdentifier(role),
		"SELECT set_config('search_path', "+rules.QuoteLiteral(path)+", false)",
	)
	if err == nil {
		err = r.builds.run(ctx, session, statement, object)
	}
	status, details := "completed", "NULL"
	if err != nil {
		status, details = jobEnd(err)
		details = rules.QuoteLiteral(details)
	} else {
		built()
	}
	session.Exec("RESET SESSION AUTHORIZATION", fmt.Sprintf(
		"UPDATE sys.job_log SET status = %s, details = %s, update_time = clock_timestamp(), object_id ="+
			" (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname || '.' || relname = object_name)"+
			" WHERE job_id = %s", rules.QuoteLiteral(status), details, rules.QuoteLiteral(id)))
}

// jobEnd returns how sys.jobs shows a job that ended with err. A table that was dropped meanwhile
// has ended a job as completed, as others have recorded.
func jobEnd(err error) (status, details string) {
	var pgErr *pgconn.PgError
	switch {
	case !errors.As(err, &pgErr):
		return "failed", err.Error()
	case pgErr.Code == "42P01":
		return "completed", pgErr.Message
	case pgErr.Code == "23505":
		return "failed", rules.DuplicateKeys
	}
	return "failed", pgErr.Message
}
