package dsqltest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// buildTime is how long a client's job takes at the least. At the service it is 5 to 24 s for an
// empty table; here it is long enough that the statement behind CREATE INDEX ASYNC finds the index
// invalid.
const buildTime = 100 * time.Millisecond

// runJob runs a job that session has submitted, and committed: the eldest, since it runs once
// for each. backend is what PostgreSQL calls the session.
func (s *Server) runJob(session *session, backend uint32) {
	worker, err := s.postgres.openWorker(s.ctx)
	if err != nil {
		return // the server ends
	}
	defer worker.close()
	job, err := worker.query(fmt.Sprintf(
		"UPDATE sys.job_log SET status = 'processing', update_time = clock_timestamp() WHERE job_id ="+
			" (SELECT job_id FROM sys.job_log WHERE backend = %d AND status = 'submitted' ORDER BY start_time LIMIT 1)"+
			" RETURNING job_id, role, path, statement, object_id", backend))
	if err != nil || len(job) == 0 {
		return
	}
	id, role, path, statement, object := job[0], job[1], job[2], job[3], job[4]
	if !session.internal {
		select {
		case <-time.After(buildTime):
		case <-s.ctx.Done():
			return
		}
	}
	if statement == "" {
		err = worker.exec("CALL sys.finish_index(" + rules.QuoteLiteral(object) + ")")
	} else {
		err = s.runJobStatement(worker, role, path, statement)
	}
	status, details := "completed", "NULL"
	switch missing := isMissing(err); {
	case err == nil:
		// Before anybody can know: who has seen the end of a job meets no change of it later.
		s.redefined(session)
	default:
		details = rules.QuoteLiteral(reasonOf(err))
		if !missing {
			status = "failed"
		}
	}
	worker.exec("RESET SESSION AUTHORIZATION", fmt.Sprintf(
		"UPDATE sys.job_log SET status = %s, details = %s, update_time = clock_timestamp(), object_id = coalesce(object_id,"+
			" (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname || '.' || relname = object_name))"+
			" WHERE job_id = %s", rules.QuoteLiteral(status), details, rules.QuoteLiteral(id)))
}

// runJobStatement runs what makes the job, as the role that has submitted it.
func (s *Server) runJobStatement(worker *worker, role, path, statement string) error {
	// Two builds can wait for each other's snapshots, until PostgreSQL ends one of them.
	s.building.Lock()
	defer s.building.Unlock()
	return worker.exec(
		"SET SESSION AUTHORIZATION "+rules.QuoteIdentifier(role),
		"SELECT set_config('search_path', "+rules.QuoteLiteral(path)+", false)",
		statement,
	)
}

// isMissing reports whether a job has lost its table or its index. The service calls such a job
// completed.
func isMissing(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "42P01"
}

func reasonOf(err error) string {
	var pgErr *pgconn.PgError
	switch {
	case !errors.As(err, &pgErr):
		return err.Error()
	case pgErr.Code == "23505":
		return rules.DuplicateKeys
	}
	return pgErr.Message
}

// backend is the number by which PostgreSQL knows the session.
func (s *session) backend() uint32 {
	s.client.server.mu.Lock()
	defer s.client.server.mu.Unlock()
	return binary.BigEndian.Uint32(s.backendKey)
}

// worker is a session of PostgreSQL's superuser.
type worker struct {
	frontend *pgproto3.Frontend
	close    func()
	status   byte // of its transaction, as ReadyForQuery has it
}

// openWorker opens a session that fails once ctx has ended.
func (p *postgres) openWorker(ctx context.Context) (*worker, error) {
	conn, frontend, err := p.login(ctx)
	if err != nil {
		return nil, err
	}
	stop := interruptAtEnd(ctx, conn)
	return &worker{frontend: frontend, close: func() {
		stop()
		conn.Close()
	}}, nil
}

// exec runs statements, each in a transaction of its own, up to the first that fails.
func (w *worker) exec(statements ...string) error {
	for _, sql := range statements {
		if _, err := w.query(sql); err != nil {
			return err
		}
	}
	return nil
}

// query returns the last row that a statement has, with "" for NULL.
func (w *worker) query(sql string) (row []string, err error) {
	w.frontend.Send(&pgproto3.Query{String: sql})
	if err := w.frontend.Flush(); err != nil {
		return nil, err
	}
	for {
		message, receiveErr := w.frontend.Receive()
		if receiveErr != nil {
			return nil, receiveErr
		}
		switch message := message.(type) {
		case *pgproto3.DataRow:
			row = nil
			for _, value := range message.Values {
				row = append(row, string(value))
			}
		case *pgproto3.CopyInResponse:
			w.frontend.Send(&pgproto3.CopyFail{Message: "there is no data: use INSERT"})
			if err := w.frontend.Flush(); err != nil {
				return nil, err
			}
		case *pgproto3.ErrorResponse:
			err = pgconn.ErrorResponseToPgError(message)
		case *pgproto3.ReadyForQuery:
			w.status = message.TxStatus
			return row, err
		}
	}
}
