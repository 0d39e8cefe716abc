-- What a schema may hold: types, keys and limits, judged by the catalog once a statement has changed it.
-- Refusals are in the service's words where these are recorded.

-- The types of columns (AWS guide, "Supported data types"), of which the second kind makes no key.
CREATE OR REPLACE FUNCTION sys.column_types() RETURNS oid[] LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS $$
	SELECT ARRAY['int2', 'int4', 'int8', 'float4', 'float8', 'numeric', 'bpchar', 'varchar', 'text', 'date', 'time', 'timetz',
		'timestamp', 'timestamptz', 'interval', 'bool', 'bytea', 'uuid', 'json', 'jsonb']::regtype[]::oid[]
$$;

CREATE OR REPLACE FUNCTION sys.unkeyed_types() RETURNS oid[] LANGUAGE sql IMMUTABLE SET search_path = pg_catalog AS $$
	SELECT ARRAY['timetz', 'interval', 'bytea', 'json', 'jsonb']::regtype[]::oid[]
$$;

-- The type beneath domains.
CREATE OR REPLACE FUNCTION sys.base_type(type oid) RETURNS oid LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
	base oid := type;
BEGIN
	LOOP
		SELECT typbasetype INTO type FROM pg_type WHERE oid = base AND typtype = 'd';
		EXIT WHEN NOT FOUND;
		base := type;
	END LOOP;
	RETURN base;
END $$;

CREATE OR REPLACE PROCEDURE sys.refuse(code text, message text) LANGUAGE plpgsql AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = code, MESSAGE = message;
END $$;

CREATE OR REPLACE PROCEDURE sys.check_type(type oid) LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
	IF sys.base_type(type) <> ALL (sys.column_types()) THEN
		CALL sys.refuse('0A000', format('datatype %s not supported', format_type(sys.base_type(type), NULL)));
	END IF;
END $$;

CREATE OR REPLACE PROCEDURE sys.check_table(relation oid) LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
	col record;
	columns int := 0;
BEGIN
	FOR col IN SELECT * FROM pg_attribute WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped ORDER BY attnum LOOP
		columns := columns + 1;
		CALL sys.check_type(col.atttypid);
		IF col.attidentity <> '' AND col.atttypid <> 'int8'::regtype THEN
			CALL sys.refuse('0A000', format('datatype %s not supported, identity column type must be bigint', format_type(col.atttypid, NULL)));
		END IF;
		-- A length is stored with the 4 bytes before it.
		IF col.atttypid = 'varchar'::regtype AND col.atttypmod > 65535 + 4 THEN
			CALL sys.refuse('54000', 'datatype limit greater than 65535 bytes not supported for character varying');
		ELSIF col.atttypid = 'bpchar'::regtype AND col.atttypmod > 4096 + 4 THEN
			CALL sys.refuse('54000', 'datatype limit greater than 4096 bytes not supported for character');
		END IF;
	END LOOP;
	IF columns > 255 THEN
		CALL sys.refuse('54011', 'tables can have at most 255 columns');
	END IF;
	IF EXISTS (SELECT FROM pg_constraint WHERE conrelid = relation AND contype = 'x') THEN
		CALL sys.refuse('0A000', 'EXCLUDE constraint not supported');
	END IF;
	CALL sys.check_keys(relation);
	CALL sys.watch_sizes(relation);
END $$;

CREATE OR REPLACE PROCEDURE sys.check_keys(relation oid) LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
	key record;
BEGIN
	SELECT format_type(sys.base_type(k.atttypid), NULL) AS type INTO key
		FROM pg_index JOIN pg_attribute k ON k.attrelid = indexrelid AND k.attnum <= indnkeyatts
		WHERE indrelid = relation AND sys.base_type(k.atttypid) = ANY (sys.unkeyed_types())
		ORDER BY k.attnum LIMIT 1;
	IF FOUND THEN
		CALL sys.refuse('0A000', format('datatype %s is not supported in a key', key.type));
	END IF;
	IF EXISTS (SELECT FROM pg_index WHERE indrelid = relation AND indnkeyatts > 8) THEN
		CALL sys.refuse('54011', 'more than 8 column keys in an index are not supported');
	END IF;
	IF (SELECT count(*) FROM pg_index WHERE indrelid = relation) > 24 THEN
		CALL sys.refuse('54000', 'more than 24 indexes per table are not allowed');
	END IF;
END $$;

CREATE OR REPLACE PROCEDURE sys.check_sequence(relation oid) LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
	sequence record;
	identity boolean;
BEGIN
	SELECT seqtypid, seqcache INTO sequence FROM pg_sequence WHERE seqrelid = relation;
	identity := EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_class'::regclass AND objid = relation AND deptype = 'i');
	IF sequence.seqtypid <> 'int8'::regtype THEN
		CALL sys.refuse('0A000', format('datatype %s not supported, %s type must be bigint', format_type(sequence.seqtypid, NULL),
			CASE WHEN identity THEN 'identity column' ELSE 'sequence' END));
	END IF;
	IF sequence.seqcache > 1 AND sequence.seqcache < 65536 THEN
		CALL sys.refuse('0A000', format('CACHE %s is not supported. please define CACHE greater than or equal to 65536 or equal to 1', sequence.seqcache));
	END IF;
END $$;

-- Rows, values and transactions have their limits too (AWS guide, "Cluster quotas and database limits"). A trigger of a
-- table looks at rows of more than 256 bytes; all that one transaction may change in smaller ones is below the limit. A
-- table whose rows cannot be so large has none: a trigger costs 10 us a statement.
CREATE OR REPLACE PROCEDURE sys.watch_sizes(relation oid) LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
	largest bigint;
BEGIN
	SELECT sum(CASE
			WHEN attlen > 0 THEN attlen
			WHEN atttypid IN ('varchar'::regtype, 'bpchar'::regtype) AND atttypmod > 0 THEN 4 * atttypmod -- bytes of a character
			ELSE 1048576 END) INTO largest
		FROM pg_attribute WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped;
	IF largest <= 256 OR EXISTS (SELECT FROM pg_trigger WHERE tgrelid = relation AND tgname = 'dsql_size') THEN
		RETURN;
	END IF;
	EXECUTE format('CREATE TRIGGER dsql_size AFTER INSERT OR UPDATE ON %s FOR EACH ROW'
		' WHEN (pg_column_size(NEW.*) > 256) EXECUTE FUNCTION sys.check_row_size()', relation::regclass);
	UPDATE pg_trigger SET tgisinternal = true WHERE tgrelid = relation AND tgname = 'dsql_size'; -- so that nobody sees it
END $$;

-- Whoever writes here fails when it commits.
CREATE TABLE IF NOT EXISTS sys.oversized_transactions ();

CREATE OR REPLACE FUNCTION sys.check_row_size() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	value record;
	size int;
	total int := 0;
	sizes int[] := '{}';
BEGIN
	FOR value IN SELECT a.attnum, a.atttypid, v.value FROM jsonb_each_text(to_jsonb(NEW)) v
			JOIN pg_attribute a ON a.attrelid = TG_RELID AND a.attname = v.key LOOP
		size := coalesce(octet_length(value.value), 0);
		IF value.atttypid = 'bytea'::regtype THEN
			size := greatest(0, size - 2) / 2; -- \x and two digits a byte
		END IF;
		IF size > 1048576 THEN
			CALL sys.refuse('54000', format('datatype limit greater than 1048576 bytes not supported for %s', format_type(value.atttypid, NULL)));
		END IF;
		total := total + size;
		sizes[value.attnum] := size;
	END LOOP;
	IF total > 2097152 THEN
		CALL sys.refuse('54000', 'maximum row size exceeded');
	END IF;
	IF EXISTS (SELECT FROM pg_index WHERE indrelid = TG_RELID AND
			(SELECT sum(sizes[indkey[i]]) FROM generate_series(0, indnkeyatts - 1) i) > 1024) THEN
		CALL sys.refuse('54000', 'key size too large');
	END IF;
	total := sys.transaction_bytes() + total;
	PERFORM postgres_set_config('dsql.transaction_bytes', total::text, true);
	IF total > 10 * 1048576 THEN
		INSERT INTO sys.oversized_transactions DEFAULT VALUES;
	END IF;
	RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION sys.transaction_bytes() RETURNS bigint LANGUAGE sql STABLE SET search_path = pg_catalog AS $$
	SELECT coalesce(nullif(postgres_setting('dsql.transaction_bytes', true), ''), '0')::bigint
$$;

CREATE OR REPLACE FUNCTION sys.refuse_transaction() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
	RAISE EXCEPTION 'transaction size limit 10mb exceeded' USING ERRCODE = 'program_limit_exceeded',
		DETAIL = format('Current transaction size %smb > 10mb', (sys.transaction_bytes() + 1048575) / 1048576);
END $$;

DROP TRIGGER IF EXISTS refuse_transaction ON sys.oversized_transactions;
CREATE CONSTRAINT TRIGGER refuse_transaction AFTER INSERT ON sys.oversized_transactions DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION sys.refuse_transaction();
UPDATE pg_trigger SET tgisinternal = true WHERE tgname = 'refuse_transaction';

-- The event triggers. What the server does itself, as PostgreSQL's superuser, is none of their business.
CREATE OR REPLACE FUNCTION sys.check_schema_change() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	command record;
BEGIN
	IF postgres_setting('is_superuser') = 'on' THEN
		RETURN;
	END IF;
	FOR command IN SELECT c.objid, c.object_type, relpersistence, indrelid FROM pg_event_trigger_ddl_commands() c
			LEFT JOIN pg_class r ON r.oid = c.objid AND c.classid = 'pg_class'::regclass
			LEFT JOIN pg_index i ON i.indexrelid = r.oid LOOP
		CASE command.object_type
			WHEN 'table', 'table column' THEN
				IF command.relpersistence <> 't' THEN
					CALL sys.check_table(command.objid);
				END IF;
			WHEN 'index' THEN
				CALL sys.check_keys(command.indrelid);
			WHEN 'sequence' THEN
				CALL sys.check_sequence(command.objid);
			WHEN 'type', 'domain' THEN
				CALL sys.check_type(command.objid);
			ELSE
				NULL;
		END CASE;
	END LOOP;
END $$;

-- When a constraint has been dropped, the catalog cannot tell any more that it was a primary key.
CREATE OR REPLACE FUNCTION sys.note_primary_keys() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
	IF postgres_setting('is_superuser') = 'off' THEN
		PERFORM postgres_set_config('dsql.primary_keys', ARRAY(SELECT oid FROM pg_constraint WHERE contype = 'p')::text, true);
	END IF;
END $$;

CREATE OR REPLACE FUNCTION sys.check_drop() RETURNS event_trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	dropped record;
BEGIN
	IF postgres_setting('is_superuser') = 'on' THEN
		RETURN;
	END IF;
	FOR dropped IN SELECT * FROM pg_event_trigger_dropped_objects() WHERE NOT is_temporary LOOP
		IF tg_tag = 'ALTER TABLE' AND dropped.original AND dropped.object_type = 'table constraint'
				AND dropped.objid = ANY (postgres_setting('dsql.primary_keys')::oid[]) THEN
			CALL sys.refuse('0A000', 'unsupported ALTER TABLE DROP CONSTRAINT statement');
		END IF;
		IF dropped.original AND dropped.object_type IN ('table', 'index') THEN
			PERFORM sys.log_job('DROP', dropped.objid, dropped.schema_name || '.' || dropped.object_name);
		END IF;
	END LOOP;
END $$;

DROP EVENT TRIGGER IF EXISTS dsql_schema_change;
CREATE EVENT TRIGGER dsql_schema_change ON ddl_command_end WHEN tag IN
	('CREATE TABLE', 'ALTER TABLE', 'CREATE INDEX', 'CREATE SEQUENCE', 'ALTER SEQUENCE', 'CREATE DOMAIN', 'CREATE SCHEMA')
	EXECUTE FUNCTION sys.check_schema_change();

DROP EVENT TRIGGER IF EXISTS dsql_primary_keys;
CREATE EVENT TRIGGER dsql_primary_keys ON ddl_command_start WHEN tag IN ('ALTER TABLE') EXECUTE FUNCTION sys.note_primary_keys();

DROP EVENT TRIGGER IF EXISTS dsql_drop;
CREATE EVENT TRIGGER dsql_drop ON sql_drop WHEN tag IN ('ALTER TABLE', 'DROP TABLE', 'DROP INDEX') EXECUTE FUNCTION sys.check_drop();
