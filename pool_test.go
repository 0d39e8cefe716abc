package dsql

import (
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/internal/login"
)

// The idle time of a connection is that of the wall clock, unless that was set back.
func TestIdleTime(t *testing.T) {
	conn := login.NewConn(t.Context(), nil, nil) // last read at the zero time
	now := time.Now()
	require.Greater(t, idleTime(conn, 0, now), time.Hour, "frozen: the monotonic clock stopped")
	require.Equal(t, time.Minute, idleTime(conn, time.Minute, time.Time{}.Add(-time.Hour)), "set back")
	require.Equal(t, time.Minute, idleTime(&net.TCPConn{}, time.Minute, now), "wrapped by a user")
}
