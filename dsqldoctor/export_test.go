package dsqldoctor

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dsqlgo/dsql"
)

// TestHooks replace what depends on the speed of the machine.
type TestHooks struct {
	WithTimeout func(context.Context, time.Duration) (context.Context, context.CancelFunc)
	Dial        pgconn.DialFunc // unless the Config has one
	Grace       time.Duration
}

// DiagnoseWith is Diagnose with hooks, and with enough time for the slowest machine.
func DiagnoseWith(ctx context.Context, c dsql.Config, onStep func(Step), h TestHooks) *Report {
	d := newDiagnosis(c, onStep)
	d.limits.total, d.limits.grace, d.withTimeout = 5*time.Minute, h.Grace, h.WithTimeout
	if c.DialFunc == nil {
		d.prober.dial = h.Dial
	}
	return d.run(ctx)
}
