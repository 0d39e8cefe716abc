-- Jobs, as the AWS guide has them ("System tables and commands in Aurora DSQL"). That wait_for_job is a
-- procedure, and that its result is called succeeded, others have recorded from clusters.
CREATE SCHEMA IF NOT EXISTS sys;
GRANT USAGE ON SCHEMA sys TO PUBLIC;

-- An ID is a UUID in base32, without padding.
CREATE OR REPLACE FUNCTION sys.new_job_id() RETURNS text LANGUAGE sql VOLATILE SET search_path = pg_catalog AS $$
	SELECT string_agg(substr('abcdefghijklmnopqrstuvwxyz234567', 1 + substring(bits FROM 1 + 5 * i FOR 5)::int, 1), '' ORDER BY i)
	FROM (SELECT ('x' || replace(gen_random_uuid()::text, '-', ''))::bit(128) || B'00' AS bits) id, generate_series(0, 25) i
$$;

CREATE TABLE IF NOT EXISTS sys.job_log (
	job_id text PRIMARY KEY DEFAULT sys.new_job_id(),
	status text NOT NULL DEFAULT 'submitted',
	details text,
	job_type text NOT NULL DEFAULT 'INDEX_BUILD',
	class_id oid NOT NULL DEFAULT 'pg_class'::regclass,
	object_id oid,
	object_name text,
	start_time timestamptz NOT NULL DEFAULT clock_timestamp(),
	update_time timestamptz NOT NULL DEFAULT clock_timestamp(),
	backend int NOT NULL DEFAULT pg_backend_pid(),
	role text NOT NULL DEFAULT current_user,
	path text NOT NULL DEFAULT '',
	statement text NOT NULL DEFAULT ''
);
ALTER TABLE sys.job_log ALTER job_id SET DEFAULT sys.new_job_id(), ALTER role SET DEFAULT current_user,
	ALTER path SET DEFAULT '', ALTER statement SET DEFAULT '';
UPDATE sys.job_log SET status = 'failed', details = 'the server was stopped', update_time = clock_timestamp()
	WHERE status IN ('submitted', 'processing');

CREATE OR REPLACE VIEW sys.jobs AS
	SELECT job_id, status, details, job_type, class_id, object_id, object_name, start_time, update_time FROM sys.job_log;
GRANT SELECT ON sys.jobs TO PUBLIC;

-- An index that is there is valid when its job has run; one that is not is what the job's statement makes.
CREATE OR REPLACE FUNCTION sys.submit_job(type text, object oid, name text, role text, path text, statement text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	id text;
BEGIN
	UPDATE pg_index SET indisvalid = false WHERE type = 'INDEX_BUILD' AND indexrelid = object;
	INSERT INTO sys.job_log (job_type, object_id, object_name, role, path, statement)
		VALUES (type, object, name, role, path, statement) RETURNING job_id INTO id;
	RETURN id;
END $$;

-- What is left to do for an index that has been built. Sessions learn of it as of any change of an index.
CREATE OR REPLACE PROCEDURE sys.finish_index(index oid) LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
	UPDATE pg_index SET indisvalid = true WHERE indexrelid = index;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'relation "%" does not exist', (SELECT object_name FROM sys.job_log WHERE object_id = index LIMIT 1)
			USING ERRCODE = 'undefined_table';
	END IF;
END $$;

-- Jobs of these types are done as soon as they are seen.
CREATE OR REPLACE FUNCTION sys.log_job(type text, object oid, name text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
	INSERT INTO sys.job_log (job_type, status, object_id, object_name) VALUES (type, 'completed', object, name)
$$;

CREATE OR REPLACE FUNCTION sys.qualified_name(object oid) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
	SELECT nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = object
$$;

-- The index is built at once, and stays invalid until the job has run. So a statement that cannot work
-- fails at once and not in its job. Duplicates, which only a build can find, are left to the job.
CREATE OR REPLACE FUNCTION sys.create_index_async(head text, tail text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	known oid[] := ARRAY(SELECT indexrelid FROM pg_catalog.pg_index);
	index oid;
	namespace text;
	name text;
BEGIN
	BEGIN
		EXECUTE head || '     ' || tail; -- as long as ASYNC, for the position in errors
		SELECT indexrelid INTO index FROM pg_catalog.pg_index WHERE indexrelid <> ALL (known);
		RETURN sys.submit_job('INDEX_BUILD', index, sys.qualified_name(index), current_user::text, '', '');
	EXCEPTION
		WHEN unique_violation THEN
			GET STACKED DIAGNOSTICS namespace = SCHEMA_NAME, name = CONSTRAINT_NAME;
			IF namespace = 'pg_catalog' THEN -- the name, taken at the same moment
				RAISE;
			END IF;
	END;
	RETURN sys.submit_job('INDEX_BUILD', NULL, namespace || '.' || name, current_user::text,
		pg_catalog.postgres_setting('search_path'), head || 'CONCURRENTLY' || tail);
END
$$;

-- The constraint is validated, which is undone. Rows that break it are left to the job.
CREATE OR REPLACE FUNCTION sys.validate_constraint_async(head text, tail text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	pending oid[] := ARRAY(SELECT oid FROM pg_catalog.pg_constraint WHERE NOT convalidated);
	validated oid;
	name text;
BEGIN
	BEGIN
		EXECUTE head || '     ' || tail;
		SELECT conrelid, sys.qualified_name(conrelid) INTO validated, name
			FROM pg_catalog.pg_constraint WHERE convalidated AND oid = ANY (pending);
		RAISE EXCEPTION USING ERRCODE = 'UNDO1';
	EXCEPTION
		WHEN SQLSTATE 'UNDO1' THEN
			NULL;
		WHEN check_violation OR foreign_key_violation THEN
			GET STACKED DIAGNOSTICS name = TABLE_NAME;
	END;
	RETURN sys.submit_job('VALIDATE_CONSTRAINT', validated, name, current_user::text,
		pg_catalog.postgres_setting('search_path'), head || tail);
END
$$;

CREATE OR REPLACE PROCEDURE sys.analyze(name text) LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'ANALYZE ' || name;
	PERFORM sys.log_job('ANALYZE', name::regclass, sys.qualified_name(name::regclass));
END
$$;

CREATE OR REPLACE PROCEDURE sys.wait_for_job(job_id text, INOUT succeeded boolean DEFAULT NULL) LANGUAGE plpgsql AS $$
DECLARE
	state text;
BEGIN
	IF job_id !~ '^[a-z2-7]{25}[aeimquy4]$' THEN
		RAISE EXCEPTION 'invalid job_id: "%"', job_id USING ERRCODE = 'invalid_text_representation';
	END IF;
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
