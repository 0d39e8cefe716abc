package dsql

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/dsqlgo/dsql/internal/login"
)

// RetryEvent is one attempt to connect that failed and is followed by another.
type RetryEvent struct {
	Attempt int           // 1 for the first
	Err     error         // why it failed; one of this package's where it has a name
	Wait    time.Duration // until the next attempt, without the pacing of ConnectRate
	Elapsed time.Duration // since the first attempt began
}

// TokenEvent is one signing.
type TokenEvent struct {
	Err        error         // nil, or why there is no new token
	Background bool          // the old token was still good: no connection waited
	Took       time.Duration // with the call to STS or the metadata service, if there was one
	Expires    time.Time     // of the new token
}

// observer passes events to the log and the hooks of a Config.
type observer struct {
	log     *slog.Logger
	onRetry func(RetryEvent)
	onToken func(TokenEvent)
}

func newObserver(c Config) observer {
	o := observer{log: c.Logger, onRetry: c.OnRetry, onToken: c.OnToken}
	if o.log == nil {
		o.log = slog.New(slog.DiscardHandler)
	}
	if o.onRetry == nil {
		o.onRetry = func(RetryEvent) {}
	}
	if o.onToken == nil {
		o.onToken = func(TokenEvent) {}
	}
	return o
}

func (o observer) retry(ctx context.Context, e RetryEvent) {
	level := slog.LevelWarn
	if errors.Is(e.Err, ErrClusterWaking) || errors.Is(e.Err, login.ErrTokenUnread) {
		level = slog.LevelDebug // nothing is wrong
	}
	o.log.Log(ctx, level, "dsql: connecting again", "attempt", e.Attempt, "wait", e.Wait, "elapsed", e.Elapsed, "error", e.Err)
	o.onRetry(e)
}

func (o observer) token(ctx context.Context, e TokenEvent) {
	switch {
	case e.Err == nil:
		o.log.DebugContext(ctx, "dsql: token signed", "expires", e.Expires, "took", e.Took, "background", e.Background)
	case e.Background:
		o.log.WarnContext(ctx, "dsql: token refresh failed, the old token stays in use", "took", e.Took, "error", e.Err)
	default:
		o.log.WarnContext(ctx, "dsql: no token could be signed", "took", e.Took, "error", e.Err)
	}
	o.onToken(e)
}
