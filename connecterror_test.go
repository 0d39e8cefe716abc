package dsql

import (
	"errors"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/internal/login"
)

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
