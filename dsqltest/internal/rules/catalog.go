package rules

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// AdminRole is the role that every cluster has.
const AdminRole = "admin"

// CatalogSQL makes what every cluster has, where it is not there yet.
var CatalogSQL = createRole(AdminRole, "LOGIN CREATEROLE") +
	fmt.Sprintf("ALTER SCHEMA public OWNER TO %s;\nGRANT CREATE ON DATABASE postgres TO %[1]s;\n", AdminRole) +
	jobsSQL

// RolesSQL makes the roles that are not there yet.
func RolesSQL(roles []string) string {
	var b strings.Builder
	for _, role := range roles {
		b.WriteString(createRole(role, "LOGIN"))
	}
	return b.String()
}

func createRole(role, attributes string) string {
	return fmt.Sprintf("DO %s;\n", QuoteLiteral(fmt.Sprintf(
		"BEGIN IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = %s) THEN CREATE ROLE %s %s; END IF; END",
		QuoteLiteral(role), QuoteIdentifier(role), attributes)))
}

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

// DuplicateKeys is what the service says of a unique index that cannot be, as others have
// recorded it in 2026; the guide has "Found duplicate key while validating index for UCVs".
const DuplicateKeys = "found duplicate key(s) while validating index uniqueness"

// createIndexAsync is what PostgreSQL gets for CREATE INDEX ASYNC, given what stands before and after
// ASYNC.
func createIndexAsync(head, tail string) string {
	return fmt.Sprintf("SELECT sys.create_index_async(%s, %s) AS job_id", QuoteLiteral(head), QuoteLiteral(tail))
}

// Unwrap makes an error inside the statement that createIndexAsync wraps look like one of the
// client's own. It is false, and e unchanged, for all other errors.
func Unwrap(e *pgproto3.ErrorResponse) bool {
	if !strings.Contains(e.Where, "sys.create_index_async(") {
		return false
	}
	e.Position, e.InternalPosition = cmp.Or(e.Position, e.InternalPosition), 0
	e.InternalQuery, e.Where = "", ""
	return true
}
