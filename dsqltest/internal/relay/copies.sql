-- An empty line ends a statement where a template is made, so there is none in a function.

-- The tables and views that have to be copied with those among names: what foreign keys and views link
-- with them, as far as there is no copy yet.
CREATE OR REPLACE FUNCTION sys.tables_to_copy(names text[]) RETURNS TABLE (id oid, schema text, name text, kind "char")
LANGUAGE sql STABLE AS $$
	WITH RECURSIVE linked(id) AS (
		SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
			WHERE c.relname = ANY (names) AND c.relkind IN ('r', 'v') AND c.relpersistence <> 't'
				AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'sys')
				AND (pg_table_is_visible(c.oid) OR n.nspname = ANY (names))
		UNION
		SELECT other FROM linked CROSS JOIN LATERAL (
			SELECT CASE WHEN conrelid = id THEN confrelid ELSE conrelid END AS other
				FROM pg_constraint WHERE contype = 'f' AND id IN (conrelid, confrelid)
			UNION ALL -- what a view reads
			SELECT refobjid FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
				WHERE r.ev_class = id AND refclassid = 'pg_class'::regclass
			UNION ALL -- and what reads a table
			SELECT r.ev_class FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
				WHERE refclassid = 'pg_class'::regclass AND refobjid = id
		) o
	)
	-- Of tables with the same name in several schemas, one can be in the temporary schema.
	SELECT * FROM (
		SELECT DISTINCT ON (relname) c.oid, nspname::text, relname::text, relkind FROM linked JOIN pg_class c ON c.oid = id
			JOIN pg_namespace n ON n.oid = relnamespace
			WHERE relkind IN ('r', 'v') AND to_regclass('pg_temp.' || quote_ident(relname)) IS NULL
			ORDER BY relname, pg_table_is_visible(c.oid) DESC, c.oid
	) t ORDER BY 1
$$;

CREATE OR REPLACE FUNCTION sys.columns_to_copy(original oid) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum)
		FROM pg_attribute WHERE attrelid = original AND attnum > 0 AND NOT attisdropped AND attgenerated = ''
$$;

-- What a rollback to a savepoint does not undo is in a file.
CREATE OR REPLACE FUNCTION sys.copy_file(original oid) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT format('%s/pg_stat_tmp/dsqltest_%s_%s', current_setting('data_directory'), pg_backend_pid(), original)
$$;

CREATE OR REPLACE PROCEDURE sys.save_tables(names text[]) LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
	original record;
BEGIN
	FOR original IN SELECT * FROM sys.tables_to_copy(names) WHERE kind = 'r' AND sys.columns_to_copy(id) IS NOT NULL LOOP
		EXECUTE format('COPY (SELECT %s FROM %I.%I) TO %L (FORMAT binary)', sys.columns_to_copy(original.id), original.schema, original.name,
			sys.copy_file(original.id));
	END LOOP;
END $$;

-- Makes copies in the temporary schema, with the rows that the transaction sees or, if they are saved,
-- those that it saw then. A temporary table comes before others of the same name, except where the
-- schema is named. Returns what was copied.
CREATE OR REPLACE FUNCTION sys.copy_tables(names text[], saved boolean) RETURNS TABLE (schema_name text, table_name text)
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
	originals oid[];
	original record;
	definitions text[];
	statement text;
BEGIN
	originals := ARRAY(SELECT id FROM sys.tables_to_copy(names));
	-- While names still mean the originals.
	definitions := ARRAY(
		SELECT format('ALTER TABLE pg_temp.%I ADD CONSTRAINT %I %s NOT VALID', child.relname, conname, regexp_replace(
				replace(pg_get_constraintdef(k.oid), ' NOT VALID', ''), ' REFERENCES .*?\(', format(' REFERENCES pg_temp.%I(', parent.relname)))
			FROM pg_constraint k JOIN pg_class child ON child.oid = conrelid JOIN pg_class parent ON parent.oid = confrelid
			WHERE contype = 'f' AND conrelid = ANY (originals)
	) || ARRAY(
		SELECT format('CREATE TEMPORARY VIEW %I AS %s', relname, pg_get_viewdef(c.oid))
			FROM pg_class c WHERE c.oid = ANY (originals) AND relkind = 'v' ORDER BY c.oid
	);
	FOR original IN SELECT * FROM sys.tables_to_copy(names) LOOP
		IF original.kind = 'r' THEN
			CALL sys.copy_table(original.id, original.schema, original.name, saved);
		END IF;
		schema_name := original.schema;
		table_name := original.name;
		RETURN NEXT;
	END LOOP;
	FOREACH statement IN ARRAY definitions LOOP
		EXECUTE statement;
	END LOOP;
	FOR original IN SELECT oid AS id, relname AS name FROM pg_class WHERE oid = ANY (originals) LOOP
		CALL sys.copy_privileges(original.id, to_regclass(format('pg_temp.%I', original.name)));
	END LOOP;
END $$;

CREATE OR REPLACE PROCEDURE sys.copy_table(original oid, schema text, name text, saved boolean) LANGUAGE plpgsql AS $$
DECLARE
	columns text := sys.columns_to_copy(original);
	item record;
BEGIN
	EXECUTE format('CREATE TEMPORARY TABLE %I (LIKE %I.%I INCLUDING ALL EXCLUDING INDEXES) ON COMMIT DROP', name, schema, name);
	IF columns IS NULL THEN
		NULL;
	ELSIF saved THEN
		EXECUTE format('COPY pg_temp.%I (%s) FROM %L (FORMAT binary)', name, columns, sys.copy_file(original));
		EXECUTE format('COPY (SELECT WHERE false) TO %L', sys.copy_file(original)); -- it takes no more room
	ELSE
		EXECUTE format('INSERT INTO pg_temp.%I (%s) OVERRIDING SYSTEM VALUE SELECT %s FROM %I.%I', name, columns, columns, schema, name);
	END IF;
	-- With the names of the original, which ON CONFLICT and errors have.
	FOR item IN SELECT indexrelid, conname, pg_get_constraintdef(c.oid) AS definition, i.indisvalid AS valid
			FROM pg_index i LEFT JOIN pg_constraint c ON conindid = indexrelid AND contype IN ('p', 'u') AND conrelid = indrelid
			WHERE indrelid = original ORDER BY indexrelid LOOP
		IF item.conname IS NOT NULL THEN
			EXECUTE format('ALTER TABLE pg_temp.%I ADD CONSTRAINT %I %s', name, item.conname, item.definition);
		ELSIF item.valid THEN
			EXECUTE replace(pg_get_indexdef(item.indexrelid), format(' ON %I.%I USING ', schema, name), format(' ON pg_temp.%I USING ', name));
		END IF;
	END LOOP;
	FOR item IN SELECT attname FROM pg_attribute WHERE attrelid = original AND attidentity <> '' AND NOT attisdropped LOOP
		PERFORM setval(pg_get_serial_sequence(format('pg_temp.%I', name), item.attname),
			nextval(pg_get_serial_sequence(format('%I.%I', schema, name), item.attname)), false);
	END LOOP;
END $$;

-- Roles may do with a copy what they may with the original.
CREATE OR REPLACE PROCEDURE sys.copy_privileges(original oid, copy oid) LANGUAGE sql AS $$
	UPDATE pg_class c SET relowner = o.relowner, relacl = o.relacl FROM pg_class o WHERE c.oid = copy AND o.oid = original;
	UPDATE pg_attribute c SET attacl = o.attacl FROM pg_attribute o
		WHERE c.attrelid = copy AND o.attrelid = original AND c.attname = o.attname AND o.attacl IS NOT NULL;
$$;
