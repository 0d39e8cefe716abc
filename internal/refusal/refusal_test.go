package refusal

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

func TestClassify(t *testing.T) {
	const denied = "unable to accept connection, access denied"
	for name, c := range map[string]struct {
		code, message, hint string
		kind                Kind
		transient           bool
		advice              string // part of it
	}{
		"no SNI":                   {"08004", "unable to accept connection, sni was not received", "", InvalidSNI, false, "ServerName"},
		"invalid SNI":              {"", "unable to accept connection, invalid sni", "", InvalidSNI, false, "ClusterID"},
		"waking":                   {"XX000", "unable to accept connection, waking up cluster, please retry later", "", ClusterWaking, true, "seconds"},
		"rate":                     {"53400", "Unable to accept connection, rate exceeded.", "", RateExceeded, true, "quota"},
		"rate by its code":         {"53400", "slow down", "", RateExceeded, true, "quota"},
		"connections":              {"53300", "Unable to accept connection, too many open connections.", "", TooManyConnections, true, "smaller pools"},
		"connections by its code":  {"53300", "too many", "", TooManyConnections, true, "smaller pools"},
		"unavailable":              {"XX000", "server unavailable", "", Unavailable, true, "session ID"},
		"unavailable, other case":  {"XX000", "Server unavailable.", "", Unavailable, true, "session ID"},
		"another internal error":   {"XX000", "internal error", "", None, false, ""},
		"denied, 08006":            {"08006", denied, "", AccessDenied, false, "a rotated key"},
		"denied, 28000":            {"28000", denied, "", AccessDenied, false, "resource-based policy"},
		"denied, no code":          {"", "UNABLE TO ACCEPT CONNECTION, ACCESS DENIED", "", AccessDenied, false, "AWS IAM GRANT"},
		"denied by its code":       {"28000", "something new", "", AccessDenied, false, "the region"},
		"denied by a policy":       {"08006", denied, "User: arn:aws:iam::1:user/a is not authorized to perform: dsql:DbConnectAdmin on resource: x", AccessDenied, false, "dsql:DbConnectAdmin"},
		"denied by a resource":     {"08006", denied, "User: arn:aws:iam::1:user/a is not authorized to access this resource", AccessDenied, false, "about a minute"},
		"expired, 08006":           {"08006", denied, "Signature expired: x", TokenExpired, false, "clock"},
		"expired, 28000":           {"28000", denied + " ", "Signature expired: x", TokenExpired, false, "clock"},
		"wrong action":             {"08006", denied + ".", "Wrong user to action mapping. user: a, action: b", WrongAction, false, "DbConnect"},
		"another lost connection":  {"08006", "connection lost", "", None, false, ""},
		"database":                 {"3D000", `database "x" does not exist`, "", None, false, ""},
		"a query with these words": {"42601", "a query's text may say: unable to accept connection, rate exceeded.", "", None, false, ""},
	} {
		t.Run(name, func(t *testing.T) {
			kind, advice := Classify(&pgconn.PgError{Code: c.code, Message: c.message, Hint: c.hint})
			require.Equal(t, c.kind, kind)
			require.Equal(t, c.transient, kind.Transient())
			if c.advice == "" {
				require.Empty(t, advice)
			}
			require.Contains(t, advice, c.advice)
		})
	}
}
