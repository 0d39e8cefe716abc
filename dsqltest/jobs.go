package dsqltest

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
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
			" RETURNING job_id, role, path, statement", backend))
	if err != nil || len(job) == 0 {
		return
	}
	id, role, path, statement := job[0], job[1], job[2], job[3]
	err = worker.exec(
		"SET SESSION AUTHORIZATION "+rules.QuoteIdentifier(role),
		"SELECT set_config('search_path', "+rules.QuoteLiteral(path)+", false)",
		statement,
	)
	status, details := "completed", "NULL"
	if err != nil {
		status, details = "failed", rules.QuoteLiteral(reasonOf(err))
	} else {
		// Before anybody can know: who has seen the end of a job meets no change of it later.
		s.redefined(session)
	}
	worker.exec("RESET SESSION AUTHORIZATION", fmt.Sprintf(
		"UPDATE sys.job_log SET status = %s, details = %s, update_time = clock_timestamp(), object_id ="+
			" (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname || '.' || relname = object_name)"+
			" WHERE job_id = %s", rules.QuoteLiteral(status), details, rules.QuoteLiteral(id)))
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
