package dsql

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/internal/login"
)

// The text names what failed, shows the server's DETAIL, by which AWS support finds the session, and
// ends with what to do.
func TestConnectErrorText(t *testing.T) {
	refused := &pgconn.PgError{
		Severity: "FATAL", Code: "08006", Message: "unable to accept connection, access denied",
		Detail: "Session Id: abc123", Hint: "User: arn:aws:iam::1:user/a is not authorized to access this resource",
	}
	err := fmt.Errorf("pgx: %w", newConnectError(login.PhaseLogin, "host:5432", &tls.Config{ServerName: "sni"}, refused))
	require.Regexp(t, `^pgx: dsql: access denied: host:5432 \(SNI sni\): FATAL: unable to accept connection, access denied \(SQLSTATE 08006\) `+
		`\(DETAIL: Session Id: abc123\) \(HINT: User: .* this resource\); check the role mapping `, err.Error())
	require.ErrorIs(t, err, ErrAccessDenied)
	var pgErr *pgconn.PgError
	require.ErrorAs(t, err, &pgErr)
	require.Equal(t, "Session Id: abc123", pgErr.Detail)
}

func TestIsTransient(t *testing.T) {
	require.False(t, isTransient(phaseToken, ErrCredentials))
	require.False(t, isTransient(login.PhaseDial, &net.DNSError{IsNotFound: true}))
	require.True(t, isTransient(login.PhaseDial, &net.DNSError{IsTimeout: true}))
	require.False(t, isTransient(login.PhaseDial, &net.AddrError{}))
	require.True(t, isTransient(login.PhaseDial, &net.OpError{Op: "dial", Err: errors.New("connection refused")}))
	require.True(t, isTransient(login.PhaseTLS, io.EOF))
	require.True(t, isTransient(login.PhaseTLS, &net.OpError{Op: "local error", Err: errors.New("tls: bad record MAC")}))
	require.False(t, isTransient(login.PhaseTLS, errors.New("tls: server selected unsupported protocol version 301")))
	require.False(t, isTransient(login.PhaseLogin, &net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}))
	require.False(t, isTransient(login.PhaseSSLRequest, login.ErrNoTLS))
	require.True(t, isTransient(login.PhaseLogin, io.ErrUnexpectedEOF))
	require.False(t, isTransient(login.PhaseLogin, login.ErrProtocol))
}
