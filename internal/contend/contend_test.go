package contend_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/internal/contend"
	"github.com/dsqlgo/dsql/internal/counters"
)

// The policy against the others, in virtual time: nothing but the round trips takes time, which
// vary by a fifth.
func TestPolicies(t *testing.T) {
	for _, roundTrip := range []time.Duration{time.Millisecond, 5 * time.Millisecond} {
		for _, tt := range []struct {
			contend.Cell
			ceiling bool // commits a second are bound by the rows, not by the workers
		}{
			{contend.Cell{Workers: 32, Rows: 4, Each: 60}, true},
			{contend.Cell{Workers: 32, Rows: 1, Each: 30}, true},
			{contend.Cell{Workers: 64, Rows: 64, Each: 60}, false},
			{contend.Cell{Workers: 4, Rows: 4, Each: 200}, false},
		} {
			t.Run(fmt.Sprintf("%d on %d, %s", tt.Workers, tt.Rows, roundTrip), func(t *testing.T) {
				loop := simulate(t, tt.Cell, roundTrip, contend.Policies[0])
				run := simulate(t, tt.Cell, roundTrip, contend.Policies[2])
				t.Logf("loop %+v", loop)
				t.Logf("AWS  %+v", simulate(t, tt.Cell, roundTrip, contend.Policies[1]))
				t.Logf("Run  %+v", run)
				if tt.ceiling {
					require.Greater(t, run.PerSecond, 0.45*float64(tt.Rows)/roundTrip.Seconds())
				} else {
					require.Greater(t, run.PerSecond, loop.PerSecond)
				}
				require.Less(t, run.Attempts, 1.1)
				require.Less(t, run.P99, loop.P99)
				require.Zero(t, run.GivenUp)
			})
		}
	}
}

// Transfers of random amounts never begin with the same statement, so only the waits help. A Key
// does more.
func TestTransfers(t *testing.T) {
	cell := contend.Cell{Workers: 16, Rows: 20, Transfers: true, Each: 400}
	loop := simulate(t, cell, 5*time.Millisecond, contend.Policies[0])
	run := simulate(t, cell, 5*time.Millisecond, contend.Policies[2])
	keyed := simulate(t, cell, 5*time.Millisecond, contend.Keyed)
	t.Logf("loop  %+v", loop)
	t.Logf("AWS   %+v", simulate(t, cell, 5*time.Millisecond, contend.Policies[1]))
	t.Logf("Run   %+v", run)
	t.Logf("keyed %+v", keyed)
	require.Greater(t, run.PerSecond, 0.97*loop.PerSecond) // both are random
	require.Less(t, run.Attempts, loop.Attempts)
	require.Less(t, keyed.Attempts, 0.85*loop.Attempts)
}

func simulate(t *testing.T, cell contend.Cell, roundTrip time.Duration, policy contend.Policy) (r contend.Result) {
	synctest.Test(t, func(t *testing.T) {
		s := counters.New(cell.Rows)
		s.SetRoundTrip(roundTrip, roundTrip/5)
		config, err := pgxpool.ParseConfig("host=counters user=u dbname=d sslmode=disable")
		require.NoError(t, err)
		config.ConnConfig = s.ConnConfig()
		config.MaxConns, config.MinConns = int32(cell.Workers), int32(cell.Workers)
		pool, err := pgxpool.NewWithConfig(t.Context(), config)
		require.NoError(t, err)
		r, err = contend.Measure(t.Context(), pool, cell, policy)
		require.NoError(t, err)
		total := int64(0)
		for id := range cell.Rows {
			total += s.Value(int64(id))
		}
		if cell.Transfers {
			require.Zero(t, total)
		} else {
			require.EqualValues(t, cell.Workers*cell.Each-r.GivenUp, total)
		}
		pool.Close()
		s.Wait()
	})
	return r
}
