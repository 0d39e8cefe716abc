package dsqlproxy_test

import (
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqlproxy"
	"github.com/dsqlgo/dsql/dsqltest"
)

// listen opens a port on loopback.
func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	return l
}

// stopping runs stop on its own, and returns what is closed when it has returned.
func stopping(stop func()) (stopped chan struct{}) {
	stopped = make(chan struct{})
	go func() {
		defer close(stopped)
		stop()
	}()
	return stopped
}

// shutDown checks that a client was told so.
func shutDown(t *testing.T, err error) {
	t.Helper()
	var said *pgconn.PgError
	require.ErrorAs(t, err, &said)
	require.Equal(t, "57P01", said.Code)
	require.Contains(t, said.Message, "shutting down")
}

// An idle session ends at once; a transaction goes on until it ends.
func TestDrain(t *testing.T) {
	l := listen(t)
	p := &dsqlproxy.Proxy{DrainTimeout: time.Hour}
	stop := serveOn(t, p, l)
	address := l.Addr().String()
	idle, busy := connect(t, address, ""), connect(t, address, "")
	name := table(t, connect(t, serve(t, &dsqlproxy.Proxy{}), ""), "id int")
	tx, err := busy.Begin(t.Context())
	require.NoError(t, err)

	stopped := stopping(stop)
	require.Eventually(t, func() bool { return p.Stats().Relaying == 1 }, 10*time.Second, time.Millisecond)
	_, err = idle.Exec(t.Context(), "select 1")
	shutDown(t, err)
	require.True(t, p.Stats().Draining)
	_, err = net.Dial("tcp", address)
	require.Error(t, err)

	_, err = tx.Exec(t.Context(), "insert into "+name+" values (1)")
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	<-stopped
	_, err = busy.Exec(t.Context(), "select 1")
	shutDown(t, err)
}

// A transaction that goes on after DrainTimeout is cut.
func TestDrainTimeout(t *testing.T) {
	for _, timeout := range []time.Duration{-1, 50 * time.Millisecond} {
		own := dsqltest.New(t)
		l := listen(t)
		stop := serveOn(t, &dsqlproxy.Proxy{Config: throughVPC(own), DrainTimeout: timeout}, l)
		conn := connect(t, l.Addr().String(), "")
		tx, err := conn.Begin(t.Context())
		require.NoError(t, err)
		stop()
		_, err = tx.Exec(t.Context(), "select 1")
		require.Error(t, err)
		require.Eventually(t, func() bool { return own.Sessions() == 0 }, 10*time.Second, time.Millisecond)
	}
}

// A client that waits for its session is told.
func TestDrainWhileConnecting(t *testing.T) {
	own := dsqltest.New(t)
	l := listen(t)
	p := &dsqlproxy.Proxy{Config: throughVPC(own), DrainTimeout: time.Hour}
	stop := serveOn(t, p, l)
	own.SetRoundTripTime(time.Hour)
	conn := raw(t, l.Addr().String(), startupBytes(3<<16, "user\x00admin\x00"))
	require.Eventually(t, func() bool { return p.Stats().Clients == 1 }, 10*time.Second, time.Millisecond)
	stopped := stopping(stop)
	said, ok := receive(t, conn).(*pgproto3.ErrorResponse)
	require.True(t, ok)
	require.Equal(t, "57P01", said.Code)
	<-stopped
}

// One that has said nothing yet is closed, and holds nothing up.
func TestDrainHalfOpen(t *testing.T) {
	l := listen(t)
	p := &dsqlproxy.Proxy{DrainTimeout: time.Hour}
	stop := serveOn(t, p, l)
	raw(t, l.Addr().String(), nil)
	require.Eventually(t, func() bool { return p.Stats().HalfOpen == 1 }, 10*time.Second, time.Millisecond)
	stop()
}
