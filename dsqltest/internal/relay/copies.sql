-- An empty line ends a statement where a template is made, so there is none in a function.

-- Copies of tables in the temporary schema, for a transaction that has lost a conflict: of the tables
-- and views among names, and of all that foreign keys and views link with them. A temporary table comes
-- before others of the same name, except where the schema is named. Returns what was copied.
CREATE OR REPLACE FUNCTION sys.copy_tables(names text[]) RETURNS TABLE (schema_name text, table_name text)
LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
	originals oid[];
	original record;
	item record;
	foreign_keys text[] := '{}';
	view_definitions text[];
	statement text;
BEGIN
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
	SELECT array_agg(id ORDER BY id) INTO originals FROM linked JOIN pg_class c ON c.oid = id
		WHERE c.relkind IN ('r', 'v') AND to_regclass('pg_temp.' || quote_ident(c.relname)) IS NULL;
	-- While names still mean the originals.
	SELECT coalesce(array_agg(format('ALTER TABLE pg_temp.%I ADD CONSTRAINT %I %s NOT VALID', child.relname, conname,
			regexp_replace(replace(pg_get_constraintdef(k.oid), ' NOT VALID', ''), ' REFERENCES .*?\(', format(' REFERENCES pg_temp.%I(', parent.relname)))), '{}')
		INTO foreign_keys
		FROM pg_constraint k JOIN pg_class child ON child.oid = conrelid JOIN pg_class parent ON parent.oid = confrelid
		WHERE contype = 'f' AND conrelid = ANY (originals);
	SELECT array_agg(format('CREATE TEMPORARY VIEW %I AS %s', relname, pg_get_viewdef(c.oid)) ORDER BY c.oid) INTO view_definitions
		FROM pg_class c WHERE c.oid = ANY (originals) AND relkind = 'v';
	FOR original IN SELECT c.oid AS id, relname AS name, nspname AS schema FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
			WHERE c.oid = ANY (originals) AND relkind = 'r' ORDER BY c.oid LOOP
		CONTINUE WHEN to_regclass(format('pg_temp.%I', original.name)) IS NOT NULL; -- of another schema
		CALL sys.copy_table(original.id, original.schema, original.name);
		schema_name := original.schema;
		table_name := original.name;
		RETURN NEXT;
	END LOOP;
	FOREACH statement IN ARRAY foreign_keys LOOP
		EXECUTE statement;
	END LOOP;
	FOREACH statement IN ARRAY coalesce(view_definitions, '{}') LOOP
		EXECUTE statement;
	END LOOP;
	FOR original IN SELECT c.oid AS id, relname AS name, nspname AS schema, relkind AS kind FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
			WHERE c.oid = ANY (originals) LOOP
		CALL sys.copy_privileges(original.id, to_regclass(format('pg_temp.%I', original.name)));
		IF original.kind = 'v' THEN
			schema_name := original.schema;
			table_name := original.name;
			RETURN NEXT;
		END IF;
	END LOOP;
END $$;

CREATE OR REPLACE PROCEDURE sys.copy_table(original oid, schema text, name text) LANGUAGE plpgsql AS $$
DECLARE
	columns text;
	item record;
BEGIN
	EXECUTE format('CREATE TEMPORARY TABLE %I (LIKE %I.%I INCLUDING ALL EXCLUDING INDEXES) ON COMMIT DROP', name, schema, name);
	SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns
		FROM pg_attribute WHERE attrelid = original AND attnum > 0 AND NOT attisdropped AND attgenerated = '';
	IF columns IS NOT NULL THEN
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
