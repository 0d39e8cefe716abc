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
	job_type text NOT NULL,
	class_id oid NOT NULL DEFAULT 'pg_class'::regclass,
	object_id oid,
	object_name text,
	start_time timestamptz NOT NULL DEFAULT clock_timestamp(),
	update_time timestamptz NOT NULL DEFAULT clock_timestamp(),
	backend int NOT NULL DEFAULT pg_backend_pid(),
	constraint_id oid,  -- that the job validates
	table_id oid,
	table_name text,    -- as the client has it, for when the table is gone
	failure text        -- how the job will end, NULL if it will not fail
);
UPDATE sys.job_log SET status = 'failed', details = 'the server was stopped', update_time = clock_timestamp()
	WHERE status IN ('submitted', 'processing');

CREATE OR REPLACE VIEW sys.jobs AS
	SELECT job_id, status, details, job_type, class_id, object_id, object_name, start_time, update_time FROM sys.job_log;
GRANT SELECT ON sys.jobs TO PUBLIC;

CREATE OR REPLACE FUNCTION sys.qualified_name(object oid) RETURNS text LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
	SELECT nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE c.oid = object
$$;

-- CREATE INDEX ASYNC. The index is built at once, as head and tail have it, and is invalid until the job
-- has run. So a statement that cannot work fails at once and not in its job. Duplicates, which only a
-- build can find, are left to the job; plain is then the statement without UNIQUE.
CREATE OR REPLACE FUNCTION sys.create_index_async(statement text, plain text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	known oid[] := ARRAY(SELECT indexrelid FROM pg_catalog.pg_index);
	namespace text;
	failure text;
	index record;
BEGIN
	BEGIN
		EXECUTE statement;
	EXCEPTION
		WHEN unique_violation THEN
			GET STACKED DIAGNOSTICS namespace = SCHEMA_NAME;
			IF namespace = 'pg_catalog' THEN -- the name, taken at the same moment
				RAISE;
			END IF;
			failure := 'found duplicate key(s) while validating index uniqueness';
			EXECUTE plain;
	END;
	SELECT indexrelid, indrelid, indrelid::regclass::text AS table_name INTO index FROM pg_catalog.pg_index WHERE indexrelid <> ALL (known);
	RETURN sys.submit_index(index.indexrelid, index.indrelid, index.table_name, failure);
END
$$;

CREATE OR REPLACE FUNCTION sys.submit_index(index oid, table_id oid, table_name text, failure text) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	job text;
BEGIN
	UPDATE pg_index SET indisvalid = false, indisready = failure IS NULL, indisunique = indisunique OR failure IS NOT NULL
		WHERE indexrelid = index;
	INSERT INTO sys.job_log (job_type, object_id, object_name, table_id, table_name, failure)
		VALUES ('INDEX_BUILD', index, sys.qualified_name(index), table_id, table_name, failure) RETURNING job_id INTO job;
	RETURN job;
END $$;

-- ALTER TABLE ASYNC … VALIDATE CONSTRAINT. The constraint is validated at once, which is undone.
CREATE OR REPLACE FUNCTION sys.validate_constraint_async(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	pending oid[] := ARRAY(SELECT oid FROM pg_catalog.pg_constraint WHERE NOT convalidated);
	validated record;
	failure text;
	name text;
	namespace text;
BEGIN
	BEGIN
		EXECUTE statement;
		SELECT oid, conrelid, conrelid::regclass::text AS table_name INTO validated
			FROM pg_catalog.pg_constraint WHERE convalidated AND oid = ANY (pending);
		RAISE EXCEPTION USING ERRCODE = 'UNDO1';
	EXCEPTION
		WHEN SQLSTATE 'UNDO1' THEN
			NULL;
		WHEN check_violation OR foreign_key_violation THEN
			GET STACKED DIAGNOSTICS failure = MESSAGE_TEXT, name = CONSTRAINT_NAME, namespace = SCHEMA_NAME;
			SELECT c.oid, conrelid, conrelid::regclass::text AS table_name INTO validated
				FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = connamespace
				WHERE conname = name AND nspname = namespace AND c.oid = ANY (pending);
	END;
	RETURN sys.submit_validation(validated.oid, validated.conrelid, validated.table_name, failure);
END
$$;

CREATE OR REPLACE FUNCTION sys.submit_validation(constraint_id oid, relation oid, table_name text, failure text) RETURNS text
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
	INSERT INTO sys.job_log (job_type, object_id, object_name, constraint_id, table_id, table_name, failure)
		VALUES ('VALIDATE_CONSTRAINT', relation, sys.qualified_name(relation), constraint_id, relation, table_name, failure) RETURNING job_id
$$;

-- The server runs this, some time later. "completed" is not always success: it is also how the job of a
-- table ends that was dropped meanwhile.
CREATE OR REPLACE PROCEDURE sys.finish_job(id text) LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
	job record;
	missing text;
BEGIN
	SELECT * INTO job FROM sys.job_log WHERE job_id = id;
	IF job.failure IS NULL THEN
		IF job.constraint_id IS NULL THEN
			UPDATE pg_index SET indisvalid = true WHERE indexrelid = job.object_id;
		ELSE
			UPDATE pg_constraint SET convalidated = true WHERE oid = job.constraint_id;
		END IF;
		IF NOT FOUND AND job.object_id IS NOT NULL THEN
			missing := CASE WHEN EXISTS (SELECT FROM pg_class WHERE oid = job.table_id) THEN job.object_name ELSE job.table_name END;
		END IF;
		-- So that sessions look at the constraint again.
		UPDATE pg_class SET relchecks = relchecks WHERE oid = job.object_id AND job.constraint_id IS NOT NULL;
	END IF;
	UPDATE sys.job_log SET status = CASE WHEN failure IS NULL THEN 'completed' ELSE 'failed' END,
		details = coalesce(failure, 'relation "' || missing || '" does not exist'), update_time = clock_timestamp()
		WHERE job_id = id;
END $$;

-- Jobs of these types are done as soon as they are seen.
CREATE OR REPLACE FUNCTION sys.log_job(type text, object oid, name text) RETURNS void
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog AS $$
	INSERT INTO sys.job_log (job_type, status, object_id, object_name) VALUES (type, 'completed', object, name)
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
		COMMIT; -- for a new snapshot
	END LOOP;
	succeeded := state = 'completed';
END
$$;
