package dsqltest

import (
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/dsqlgo/dsql"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// TCP, TLS 1.3 and the login cost the round trips that they cost at the
// service. Only the lower bounds are sure on a loaded machine; the upper ones
// get some tries.
func TestRoundTripTime(t *testing.T) {
	const roundTrip = 60 * time.Millisecond
	s := New(t, WithRoundTripTime(roundTrip))
	for name, tt := range map[string]struct {
		change func(*dsql.Config)
		trips  time.Duration
	}{
		"SSLRequest":     {func(c *dsql.Config) { c.SSLNegotiation = "postgres" }, 5},
		"direct":         {func(*dsql.Config) {}, 4},
		"early password": {func(c *dsql.Config) { c.EarlyAuth = true }, 3},
	} {
		t.Run(name, func(t *testing.T) {
			config := s.Config()
			tt.change(&config)
			for try := 1; ; try++ {
				began := time.Now()
				conn, err := dsql.Connect(t.Context(), config)
				elapsed := time.Since(began)
				require.NoError(t, err)
				require.GreaterOrEqual(t, elapsed, tt.trips*roundTrip)
				require.NoError(t, conn.Close(t.Context()))
				if elapsed < (tt.trips+1)*roundTrip {
					break
				}
				require.Less(t, try, 20, "%v for %d round trips of %v", elapsed, tt.trips, roundTrip)
			}
		})
	}

	t.Run("much at once", func(t *testing.T) {
		conn := connect(t, connConfig(t, s, adminRole))
		rows, err := conn.Query(t.Context(), "select repeat(md5(i::text), 10) from generate_series(1, 50000) i")
		require.NoError(t, err)
		sum := sha256.New()
		var text string
		_, err = pgx.ForEachRow(rows, []any{&text}, func() error {
			_, err := io.WriteString(sum, text)
			return err
		})
		require.NoError(t, err)
		require.Equal(t, fmt.Sprintf("%x", sum.Sum(nil)), queryString(t, conn,
			"select encode(sha256(string_agg(repeat(md5(i::text), 10), '' order by i)::bytea), 'hex') from generate_series(1, 50000) i"))
	})

	t.Run("refusal", func(t *testing.T) {
		s.RefuseNext(1, RefuseAccess)
		refusedAs(t, s, RefuseAccess)
	})

	t.Run("off", func(t *testing.T) {
		s.SetRoundTripTime(0)
		connect(t, connConfig(t, s, adminRole))
		s.SetRoundTripTime(-1)
		connect(t, connConfig(t, s, adminRole))
	})
}

// Close does not wait for what is on its way.
func TestCloseFarAway(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	s, err := Start(t.Context(), WithRoundTripTime(20*time.Millisecond))
	require.NoError(t, err)
	defer s.Close()
	idle := connect(t, connConfig(t, s, adminRole))
	require.NoError(t, connect(t, connConfig(t, s, adminRole)).Close(t.Context()))
	s.SetRoundTripTime(time.Hour)
	conn, err := net.Dial("tcp", s.Addr())
	require.NoError(t, err)
	defer conn.Close()
	_, err = conn.Write([]byte("hello"))
	require.NoError(t, err)
	require.Eventually(t, func() bool { return len(s.Attempts()) == 3 }, 10*time.Second, time.Millisecond)
	began := time.Now()
	require.NoError(t, s.Close())
	require.Less(t, time.Since(began), 10*time.Second)
	idle.PgConn().Conn().Close()
	goleak.VerifyNone(t, ignore)
}
