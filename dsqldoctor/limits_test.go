package dsqldoctor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/internal/login"
)

func TestBound(t *testing.T) {
	now := time.Now()
	ctx, cancel := defaultLimits.bound(t.Context(), now)
	defer cancel()
	deadline, _ := ctx.Deadline()
	require.Equal(t, now.Add(20*time.Second-100*time.Millisecond), deadline)

	ctx, cancel = context.WithDeadline(t.Context(), now.Add(time.Minute))
	defer cancel()
	ctx, cancel = defaultLimits.bound(ctx, now)
	defer cancel()
	deadline, _ = ctx.Deadline()
	require.Equal(t, now.Add(time.Minute-100*time.Millisecond), deadline)
}

// Each probe gets its limit or a third of the time left, also if it ignores its context.
func TestStart(t *testing.T) {
	heeds := func(ctx context.Context) finding {
		<-ctx.Done()
		return newFinding(login.PhaseTLS, ctx.Err())
	}
	for name, test := range map[string]struct {
		left   time.Duration // for the diagnosis
		ignore bool          // the context
		took   time.Duration
		phase  login.Phase
	}{
		"its limit":                    {left: time.Minute, took: 5 * time.Second, phase: login.PhaseTLS},
		"a third of the time left":     {left: 6 * time.Second, took: 2 * time.Second, phase: login.PhaseTLS},
		"its limit, context ignored":   {left: time.Minute, ignore: true, took: 5*time.Second + 100*time.Millisecond},
		"a third, the context ignored": {left: 6 * time.Second, ignore: true, took: 2*time.Second + 100*time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), test.left)
				defer cancel()
				release := make(chan struct{})
				probe := heeds
				if test.ignore {
					probe = func(context.Context) finding {
						<-release
						return newFinding(login.PhaseTLS, errors.New("too late"))
					}
				}
				f := startProbe(ctx, newDiagnosis(dsql.Config{}, nil), 5*time.Second, probe)()
				close(release)
				require.Equal(t, outcomeTimeout, f.outcome)
				require.Equal(t, test.took, f.took)
				require.Equal(t, test.phase, f.phase)
			})
		})
	}
}

// What the end of the diagnosis cut short counts as not tried. What was decided before counts.
func TestStartAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		d := newDiagnosis(dsql.Config{}, nil)
		waitCut := startProbe(ctx, d, time.Second, func(ctx context.Context) finding {
			<-ctx.Done()
			return newFinding(login.PhaseDial, ctx.Err())
		})
		waitReset := startProbe(ctx, d, time.Second, func(context.Context) finding { return finding{outcome: outcomeReset} })
		synctest.Wait()
		cancel()
		require.Equal(t, finding{skipped: noTimeLeft}, waitCut())
		require.Equal(t, outcomeReset, waitReset().outcome)

		called := false
		require.Equal(t, finding{skipped: noTimeLeft}, startProbe(ctx, d, time.Second, func(context.Context) finding {
			called = true
			return finding{}
		})())
		require.False(t, called)
	})
}
