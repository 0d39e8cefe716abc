-- What the service says of itself, whatever PostgreSQL is behind. A function of PostgreSQL's own keeps
-- its OID, by which it is built in: so it gets another name, and makes room for ours.
SET allow_system_table_mods = on;

DO $$ BEGIN
	IF to_regprocedure('pg_catalog.postgres_version()') IS NULL THEN
		ALTER FUNCTION pg_catalog.version() RENAME TO postgres_version;
		ALTER FUNCTION pg_catalog.current_setting(text) RENAME TO postgres_setting;
		ALTER FUNCTION pg_catalog.current_setting(text, boolean) RENAME TO postgres_setting;
		ALTER FUNCTION pg_catalog.set_config(text, text, boolean) RENAME TO postgres_set_config;
	END IF;
END $$;

CREATE OR REPLACE FUNCTION pg_catalog.version() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
	AS 'SELECT ''PostgreSQL 16''::text';

CREATE OR REPLACE FUNCTION pg_catalog.current_setting(name text, missing_ok boolean) RETURNS text
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE AS $$
BEGIN
	CASE lower(name)
		WHEN 'server_version' THEN RETURN '16.15';
		WHEN 'server_version_num' THEN RETURN '160015';
		WHEN 'disable_sync_create_index' THEN RETURN pg_catalog.postgres_setting('dsql.disable_sync_create_index', missing_ok);
		WHEN 'lc_collate', 'lc_ctype' THEN -- PostgreSQL 16 has no such settings
			IF missing_ok THEN
				RETURN NULL;
			END IF;
			RAISE EXCEPTION 'unrecognized configuration parameter "%"', name USING ERRCODE = 'undefined_object';
		ELSE RETURN pg_catalog.postgres_setting(name, missing_ok);
	END CASE;
END $$;

CREATE OR REPLACE FUNCTION pg_catalog.current_setting(name text) RETURNS text LANGUAGE sql STABLE STRICT PARALLEL SAFE
	AS 'SELECT pg_catalog.current_setting(name, false)';

CREATE OR REPLACE FUNCTION pg_catalog.set_config(setting_name text, new_value text, is_local boolean) RETURNS text
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
	name text := lower(setting_name);
BEGIN
	IF name = 'disable_sync_create_index' THEN
		name := 'dsql.' || name;
	ELSIF name <> ALL ({settings}) AND name NOT LIKE 'enable\_%' AND NOT (name = 'role' AND is_local) THEN
		RAISE EXCEPTION 'setting configuration parameter "%" not supported', setting_name USING ERRCODE = 'feature_not_supported';
	END IF;
	RETURN pg_catalog.postgres_set_config(name, new_value, is_local);
END $$;

CREATE OR REPLACE VIEW pg_catalog.pg_settings AS
	SELECT name,
		CASE name WHEN 'server_version' THEN '16.15' WHEN 'server_version_num' THEN '160015' ELSE setting END AS setting,
		unit, category, short_desc, extra_desc, context, vartype, source, min_val, max_val, enumvals, boot_val,
		reset_val, sourcefile, sourceline, pending_restart
	FROM pg_catalog.pg_show_all_settings() WHERE name NOT IN ('lc_collate', 'lc_ctype');

SET allow_system_table_mods = off;

-- PostgreSQL's own error for this is translated.
ALTER DATABASE postgres SET temp_file_limit = '131072kB';
ALTER DATABASE postgres SET dsql.enable_batched_nestloop = on;
ALTER DATABASE postgres SET dsql.disable_sync_create_index = on;

-- There are no text search configurations.
DELETE FROM pg_catalog.pg_ts_config;

-- Nor are there geometric types, in columns or in expressions. Where their names are not found,
-- TranslateError has the service's words.
UPDATE pg_catalog.pg_type SET typname = 'postgres_' || typname
	WHERE oid = ANY (ARRAY[600, 601, 602, 603, 604, 628, 718]::oid[]) AND typname NOT LIKE 'postgres\_%';
UPDATE pg_catalog.pg_proc SET proname = 'postgres_' || proname
	WHERE oid < 12000 AND proname IN ('point', 'lseg', 'path', 'box', 'polygon', 'line', 'circle');
