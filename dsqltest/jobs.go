package dsqltest

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgconn"
)

// runJob builds an index that session has submitted, and committed: the eldest, since it runs once
// for each. backend is what PostgreSQL calls the session.
func (s *Server) runJob(session *session, backend uint32) {
	// Two builds can wait for each other's snapshots, until PostgreSQL ends one of them.
	s.building.Lock()
	defer s.building.Unlock()
	worker, err := s.postgres.openWorker(s.ctx)
	if err != nil {
		return // the server ends
	}
	defer worker.close()
	job, err := worker.query(fmt.Sprintf(
		"UPDATE sys.job_log SET status = 'processing', update_time = clock_timestamp() WHERE job_id ="+
			" (SELECT job_id FROM sys.job_log WHERE backend = %d AND status = 'submitted' ORDER BY start_time LIMIT 1)"+
			" RETURNING job_id, role, path, statement, object_name", backend))
	if err != nil || len(job) == 0 {
		return
	}
	id, role, path, statement, object := job[0], job[1], job[2], job[3], job[4]
	err = worker.exec(
		"SET SESSION AUTHORIZATION "+rules.QuoteIdentifier(role),
		"SELECT set_config('search_path', "+rules.QuoteLiteral(path)+", false)",
	)
	if err == nil {
		err = s.builds.run(s.ctx, worker, statement, object)
	}
	status, details := "completed", "NULL"
	if err != nil {
		status, details = jobEnd(err)
		details = rules.QuoteLiteral(details)
	} else {
		// Before anybody can know: who has seen the end of a job meets no change of it later.
		s.redefined(session)
	}
	worker.exec("RESET SESSION AUTHORIZATION", fmt.Sprintf(
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

// backend is the number by which PostgreSQL knows the session.
func (s *session) backend() uint32 {
	s.client.server.mu.Lock()
	defer s.client.server.mu.Unlock()
	return binary.BigEndian.Uint32(s.backendKey)
}
