-- AWS IAM GRANT and REVOKE (AWS guide, "Using database roles and IAM authentication").
CREATE TABLE IF NOT EXISTS sys.iam_mappings (
	iam_oid oid PRIMARY KEY,
	arn text NOT NULL,
	pg_role_oid oid NOT NULL,
	grantor_pg_role_oid oid NOT NULL
);

CREATE OR REPLACE VIEW sys.iam_pg_role_mappings AS
	SELECT iam_oid, arn, pg_role_oid, role.rolname AS pg_role_name, grantor_pg_role_oid, grantor.rolname AS grantor_pg_role_name
	FROM sys.iam_mappings
	JOIN pg_catalog.pg_roles role ON role.oid = pg_role_oid
	LEFT JOIN pg_catalog.pg_roles grantor ON grantor.oid = grantor_pg_role_oid;
GRANT SELECT ON sys.iam_pg_role_mappings TO PUBLIC;

CREATE OR REPLACE PROCEDURE sys.iam_grant(role_name text, arn text) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	role oid := sys.iam_role(role_name);
BEGIN
	IF EXISTS (SELECT FROM sys.iam_mappings m WHERE m.pg_role_oid = role AND m.arn = iam_grant.arn) THEN
		RAISE EXCEPTION 'role "%" is already granted to "%"', role_name, arn USING ERRCODE = 'duplicate_object';
	END IF;
	INSERT INTO sys.iam_mappings
		SELECT coalesce(max(iam_oid)::bigint, 26383) + 1, iam_grant.arn, role, (SELECT oid FROM pg_roles WHERE rolname = session_user)
		FROM sys.iam_mappings;
END
$$;

CREATE OR REPLACE PROCEDURE sys.iam_revoke(role_name text, arn text) LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
	role oid := sys.iam_role(role_name);
BEGIN
	DELETE FROM sys.iam_mappings m WHERE m.pg_role_oid = role AND m.arn = iam_revoke.arn;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'role "%" is not granted to "%"', role_name, arn USING ERRCODE = 'undefined_object';
	END IF;
END
$$;

CREATE OR REPLACE FUNCTION sys.iam_role(name text) RETURNS oid LANGUAGE plpgsql STABLE SET search_path = pg_catalog AS $$
DECLARE
	role oid;
BEGIN
	IF NOT pg_has_role(session_user, 'admin', 'MEMBER') THEN
		RAISE EXCEPTION 'permission denied to map IAM roles' USING ERRCODE = 'insufficient_privilege';
	END IF;
	SELECT oid INTO role FROM pg_roles WHERE rolname = name;
	IF NOT FOUND THEN
		RAISE EXCEPTION 'role "%" does not exist', name USING ERRCODE = 'undefined_object';
	END IF;
	RETURN role;
END
$$;

CREATE OR REPLACE FUNCTION sys.dsql_major_version() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
