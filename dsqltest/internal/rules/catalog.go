package rules

import (
	_ "embed"
	"fmt"
	"strings"
)

// AdminRole is the role that every cluster has.
const AdminRole = "admin"

// CatalogSQL makes what every cluster has, or brings it up to date.
var CatalogSQL = createRole(AdminRole, "LOGIN CREATEROLE") +
	fmt.Sprintf("ALTER SCHEMA public OWNER TO %s;\nGRANT CREATE ON DATABASE postgres TO %[1]s;\n\n", AdminRole) +
	strings.ReplaceAll(settingsSQL, "{settings}", textArray(settings)) + "\n" + jobsSQL + "\n" + iamSQL + "\n" + schemaSQL

var (
	//go:embed sql/jobs.sql
	jobsSQL string
	//go:embed sql/iam.sql
	iamSQL string
	//go:embed sql/schema.sql
	schemaSQL string
	//go:embed sql/settings.sql
	settingsSQL string
)

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

// textArray writes an array for PostgreSQL.
func textArray(values []string) string {
	var quoted []string
	for _, v := range values {
		quoted = append(quoted, QuoteLiteral(v))
	}
	return "ARRAY[" + strings.Join(quoted, ", ") + "]"
}
