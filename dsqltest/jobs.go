package dsqltest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgconn"
)

// buildTime is how long a client's job takes. The index is built, and the constraint validated, as
// the job is submitted: so a build holds up nobody, and waits for nobody. The time is for what a
// client must expect of the service, where an index of an empty table takes 5 to 24 s: the statement
// behind CREATE INDEX ASYNC finds the index invalid.
const buildTime = 100 * time.Millisecond

func waitForBuild(ctx context.Context) {
	select {
	case <-time.After(buildTime):
	case <-ctx.Done():
	}
}

// runJob runs a job that session has submitted, and committed: the eldest, since it runs once
// for each. backend is what PostgreSQL calls the session.
func (s *Server) runJob(session *session, backend uint32) {
	worker, err := s.postgres.openWorker(s.ctx)
	if err != nil {
		return // the server ends
	}
	defer worker.close()
	// In READ COMMITTED, the loser of two concurrent changes goes on with what the winner has left.
	worker.exec("SET default_transaction_isolation = 'read committed'")
	s.takingJob.Lock()
	job, err := worker.query(fmt.Sprintf("UPDATE sys.job_log SET status = 'processing', update_time = clock_timestamp() WHERE job_id ="+
		" (SELECT job_id FROM sys.job_log WHERE backend = %d AND status = 'submitted' ORDER BY start_time LIMIT 1)"+
		" RETURNING job_id, failure", backend))
	s.takingJob.Unlock()
	if err != nil || len(job) == 0 {
		return
	}
	if !session.internal {
		s.waitForBuild(s.ctx)
	}
	id, failure := job[0], job[1]
	if failure == "" {
		// Before anybody can know: who has seen the end of a job meets no change of it later.
		s.redefined(session)
	}
	for s.ctx.Err() == nil {
		err := worker.exec("CALL sys.finish_job(" + rules.QuoteLiteral(id) + ")")
		var pgErr *pgconn.PgError
		if !errors.As(err, &pgErr) || pgErr.Code != "XX000" { // "tuple concurrently updated", by a schema change
			return
		}
	}
}

// backend is the number by which PostgreSQL knows the session.
func (s *session) backend() uint32 {
	s.client.server.mu.Lock()
	defer s.client.server.mu.Unlock()
	return binary.BigEndian.Uint32(s.backendKey)
}
