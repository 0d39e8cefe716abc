package dsqlproxy_test

import (
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqlproxy"
	"github.com/dsqlgo/dsql/dsqltest"
)

// On a network that stops PostgreSQL, the proxy is the way to a WebSocket for clients that know none.
func TestWebSocket(t *testing.T) {
	own := dsqltest.New(t, dsqltest.WithWebSocketAddress("127.0.0.1:0"))
	own.SetFaults(dsqltest.Always(dsqltest.Fault{Phase: dsqltest.OnClientHello, Effect: dsqltest.Reset}))
	config := own.Config()
	config.Transport = "auto"
	conn := connect(t, serve(t, &dsqlproxy.Proxy{Config: config}), "")
	var n int
	require.NoError(t, conn.QueryRow(t.Context(), "select 42").Scan(&n))
	require.Equal(t, 42, n)

	failed := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "select pg_sleep(600)")
		failed <- err
	}()
	require.Eventually(t, func() bool { // the first may come too early
		require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
		return len(failed) > 0
	}, 30*time.Second, 50*time.Millisecond)
	var said *pgconn.PgError
	require.ErrorAs(t, <-failed, &said)
	require.Equal(t, "57014", said.Code)
	for _, a := range own.Attempts() {
		require.Equal(t, a.Address == own.WebSocketAddr(), a.WebSocket)
		if a.Outcome == "ok" {
			require.True(t, a.WebSocket)
		}
	}
}
