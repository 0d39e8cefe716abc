package dsqltest

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// jobsSQL makes the schema sys, in a data directory that may have it already. sys.jobs is as
// the AWS guide has it ("System tables and commands in Aurora DSQL"). That wait_for_job is a
// procedure, and that its result is called succeeded, others have recorded from clusters.
//
// A submitted index is first made and undone, so that a statement that cannot work fails at once and
// not in its job. Duplicates, which only a build can find, are left to the job.
const jobsSQL = `
CREATE SCHEMA IF NOT EXISTS sys;
GRANT USAGE ON SCHEMA sys TO PUBLIC;

CREATE TABLE IF NOT EXISTS sys.job_log (
	job_id text PRIMARY KEY DEFAULT left(replace(gen_random_uuid()::text, '-', ''), 26),
	status text NOT NULL DEFAULT 'submitted',
	details text,
	job_type text NOT NULL DEFAULT 'INDEX_BUILD',
	class_id oid NOT NULL DEFAULT 'pg_class'::regclass,
	object_id oid,
	object_name text,
	start_time timestamptz NOT NULL DEFAULT clock_timestamp(),
	update_time timestamptz NOT NULL DEFAULT clock_timestamp(),
	backend int NOT NULL DEFAULT pg_backend_pid(),
	role text NOT NULL,
	path text NOT NULL,
	statement text NOT NULL
);
UPDATE sys.job_log SET status = 'failed', details = 'the server was stopped', update_time = clock_timestamp()
	WHERE status IN ('submitted', 'processing');

CREATE OR REPLACE VIEW sys.jobs AS
	SELECT job_id, status, details, job_type, class_id, object_id, object_name, start_time, update_time FROM sys.job_log;
GRANT SELECT ON sys.jobs TO PUBLIC;

CREATE OR REPLACE FUNCTION sys.submit_job(object text, role text, path text, statement text) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
	INSERT INTO sys.job_log (object_name, role, path, statement) VALUES (object, role, path, statement) RETURNING job_id
$$;

CREATE OR REPLACE FUNCTION sys.create_index_async(head text, tail text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	known oid[] := ARRAY(SELECT indexrelid FROM pg_catalog.pg_index);
	namespace text;
	name text;
BEGIN
	BEGIN
		EXECUTE head || '     ' || tail; -- as long as ASYNC, for the position in errors
		SELECT nspname, relname INTO namespace, name
			FROM pg_catalog.pg_index
			JOIN pg_catalog.pg_class c ON c.oid = indexrelid
			JOIN pg_catalog.pg_namespace n ON n.oid = relnamespace
			WHERE indexrelid <> ALL (known);
		RAISE EXCEPTION USING ERRCODE = 'UNDO1';
	EXCEPTION
		WHEN SQLSTATE 'UNDO1' THEN
			NULL;
		WHEN unique_violation THEN
			GET STACKED DIAGNOSTICS namespace = SCHEMA_NAME, name = CONSTRAINT_NAME;
			IF namespace = 'pg_catalog' THEN -- the name, taken at the same moment
				RAISE;
			END IF;
	END;
	RETURN sys.submit_job(namespace || '.' || name, current_user::text, pg_catalog.current_setting('search_path'),
		head || 'CONCURRENTLY' || tail);
END
$$;

CREATE OR REPLACE PROCEDURE sys.wait_for_job(job_id text, INOUT succeeded boolean DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
	state text;
BEGIN
	LOOP
		SELECT j.status INTO state FROM sys.jobs j WHERE j.job_id = wait_for_job.job_id;
		IF NOT FOUND THEN
			RAISE EXCEPTION 'job "%" does not exist', job_id USING ERRCODE = 'invalid_parameter_value';
		END IF;
		EXIT WHEN state IN ('completed', 'failed');
		PERFORM pg_catalog.pg_sleep(0.01);
		COMMIT; -- a build waits for every older snapshot
	END LOOP;
	succeeded := state = 'completed';
END
$$;
`

// duplicateKeys is what the service says of a unique index that cannot be, as others have
// recorded it in 2026; the guide has "Found duplicate key while validating index for UCVs".
const duplicateKeys = "found duplicate key(s) while validating index uniqueness"

// asyncIndex is what PostgreSQL gets for CREATE INDEX ASYNC, given what stands before and after
// ASYNC.
func asyncIndex(head, tail string) string {
	return fmt.Sprintf("SELECT sys.create_index_async(%s, %s) AS job_id", quoteLiteral(head), quoteLiteral(tail))
}

// unwrap makes an error of the statement that asyncIndex wraps the client's own.
func unwrap(e *pgproto3.ErrorResponse) bool {
	if !strings.Contains(e.Where, "sys.create_index_async(") {
		return false
	}
	e.Position, e.InternalPosition = cmp.Or(e.Position, e.InternalPosition), 0
	e.InternalQuery, e.Where = "", ""
	return true
}

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
		"SET SESSION AUTHORIZATION "+quoteIdentifier(role),
		"SELECT set_config('search_path', "+quoteLiteral(path)+", false)",
		statement,
	)
	status, details := "completed", "NULL"
	if err != nil {
		status, details = "failed", quoteLiteral(reasonOf(err))
	} else {
		// Before anybody can know: who has seen the end of a job meets no change of it later.
		s.redefined(session)
	}
	worker.exec("RESET SESSION AUTHORIZATION", fmt.Sprintf(
		"UPDATE sys.job_log SET status = %s, details = %s, update_time = clock_timestamp(), object_id ="+
			" (SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE nspname || '.' || relname = object_name)"+
			" WHERE job_id = %s", quoteLiteral(status), details, quoteLiteral(id)))
}

func reasonOf(err error) string {
	var pgErr *pgconn.PgError
	switch {
	case !errors.As(err, &pgErr):
		return err.Error()
	case pgErr.Code == "23505":
		return duplicateKeys
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
