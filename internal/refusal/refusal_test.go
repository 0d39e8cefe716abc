package refusal

import (
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

func TestClassify(t *testing.T) {
	for message, c := range map[string]struct {
		code, hint string
		kind       Kind
	}{
		"unable to accept connection, access denied": {"28000", "", AccessDenied},
		"UNABLE TO ACCEPT CONNECTION, ACCESS DENIED": {"", "", AccessDenied},
		"something new": {"28000", "", AccessDenied},
		"unable to accept connection, access denied ":             {"28000", "Signature expired: x", TokenExpired},
		"unable to accept connection, access denied.":             {"28000", "Wrong user to action mapping. user: a, action: b", WrongAction},
		"Unable to accept connection, too many open connections.": {"53300", "", TooManyConnections},
		"too many": {"53300", "", TooManyConnections},
		"Unable to accept connection, rate exceeded.": {"53400", "", RateExceeded},
		"slow down": {"53400", "", RateExceeded},
		"unable to accept connection, waking up cluster, please retry later":  {"XX000", "", ClusterWaking},
		"unable to accept connection, sni was not received":                   {"08004", "", InvalidSNI},
		"unable to accept connection, invalid sni":                            {"", "", InvalidSNI},
		`database "x" does not exist`:                                         {"3D000", "", None},
		"a query's text may say: unable to accept connection, rate exceeded.": {"42601", "", None},
	} {
		kind, advice := Classify(&pgconn.PgError{Code: c.code, Message: message, Hint: c.hint})
		require.Equal(t, c.kind, kind, message)
		require.Equal(t, c.kind == None, advice == "", message)
	}
}
