package dsqlproxy_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqlproxy"
	"github.com/dsqlgo/dsql/dsqltest"
)

const roundTrip = 20 * time.Millisecond

// withSpares serves a cluster that is roundTrip away, with spares for clients like connectTime's.
func withSpares(t testing.TB) (p *dsqlproxy.Proxy, address string) {
	own := dsqltest.New(t, dsqltest.WithRoundTripTime(roundTrip))
	p = &dsqlproxy.Proxy{Config: throughVPC(own), Spares: 4}
	address = serve(t, p)
	for range 8 { // the proxy learns what they ask for
		connectTime(t, address)
	}
	return p, address
}

// connectTime is how long a client waits until it may ask something.
func connectTime(t testing.TB, address string) time.Duration {
	t.Helper()
	began := time.Now()
	conn, err := pgx.Connect(t.Context(), clientURL(address, "application_name=php"))
	took := time.Since(began)
	require.NoError(t, err)
	var one int
	require.NoError(t, conn.QueryRow(t.Context(), "select 1").Scan(&one))
	require.NoError(t, conn.Close(context.Background()))
	return took
}

// A connect that gets a spare waits for no answer of the cluster.
func TestSpareConnect(t *testing.T) {
	p, address := withSpares(t)
	var times []time.Duration
	for range 20 {
		require.Eventually(t, func() bool { return p.Stats().Spares == 4 }, 10*time.Second, time.Millisecond)
		before := p.Stats().SparesUsed
		times = append(times, connectTime(t, address))
		require.Equal(t, before+1, p.Stats().SparesUsed)
	}
	slices.Sort(times)
	t.Logf("connects with a spare: %s in the middle, %s at most; the cluster is %s away", times[10], times[19], roundTrip)
	require.Less(t, times[10], roundTrip)

	bare := serve(t, &dsqlproxy.Proxy{Config: p.Config})
	require.Greater(t, connectTime(t, bare), 2*roundTrip, "a login's round trips are not there to be saved")
}

// Clients with other roles or settings get no spare of somebody else.
func TestSparesMatch(t *testing.T) {
	p := &dsqlproxy.Proxy{Users: []string{"admin", "app"}, Spares: 3}
	address := serve(t, p)
	for range 5 {
		for _, c := range []struct{ user, path, application string }{{"admin", `"$user", public`, "one"}, {"app", "pg_catalog", "two"}, {"admin", "pg_catalog", "one"}} {
			require.Eventually(t, func() bool { return p.Stats().Spares == 3 }, 10*time.Second, time.Millisecond)
			config, err := pgx.ParseConfig(clientURL(address, "user="+c.user+" application_name="+c.application))
			require.NoError(t, err)
			config.RuntimeParams["search_path"] = c.path
			conn, err := pgx.ConnectConfig(t.Context(), config)
			require.NoError(t, err)
			var user, path, application string
			require.NoError(t, conn.QueryRow(t.Context(), "select current_user, current_setting('search_path'), current_setting('application_name')").Scan(&user, &path, &application))
			require.Equal(t, []string{c.user, c.path, c.application}, []string{user, path, application})
			require.Equal(t, c.application, conn.PgConn().ParameterStatus("application_name"))
			require.NoError(t, conn.Close(t.Context()))
		}
	}
	require.NotZero(t, p.Stats().SparesUsed)
}

// A cancel request reaches a session that was a spare.
func TestSpareCancel(t *testing.T) {
	p := &dsqlproxy.Proxy{Spares: 1}
	address := serve(t, p)
	var conn *pgx.Conn
	require.Eventually(t, func() bool { // until it knows what clients ask for
		conn = connect(t, address, "application_name=x")
		return p.Stats().SparesUsed > 0
	}, 10*time.Second, 10*time.Millisecond)
	failed := make(chan error, 1)
	go func() {
		_, err := conn.Exec(t.Context(), "select pg_sleep(600)")
		failed <- err
	}()
	require.Eventually(t, func() bool {
		require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
		select {
		case err := <-failed:
			require.ErrorContains(t, err, "57014")
			return true
		default:
			return false
		}
	}, 30*time.Second, 10*time.Millisecond)
}

// BenchmarkSpareConnect is a connect of a client that gets a spare session of a cluster 20 ms away.
func BenchmarkSpareConnect(b *testing.B) {
	p, address := withSpares(b)
	var took time.Duration
	for b.Loop() {
		for p.Stats().Spares < 4 {
			time.Sleep(time.Millisecond)
		}
		took += connectTime(b, address)
	}
	b.ReportMetric(float64(took.Microseconds())/float64(b.N), "µs/connect")
	require.Greater(b, p.Stats().SparesUsed, uint64(b.N))
}
