package dsql

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/transport"
)

// RetryEvent describes an attempt to connect that failed and will be repeated.
type RetryEvent struct {
	Attempt   int           // its number, from 1
	Transport string        // "tcp" or "websocket"; that of the next attempt may be another
	Err       error         // why it failed
	Wait      time.Duration // the backoff before the next attempt; ConnectRate may add to it
	Elapsed   time.Duration // since the first attempt began
}

// TokenEvent describes a signing.
type TokenEvent struct {
	Err        error         // why it failed, or nil
	Background bool          // the old token was still valid, so no connection waited
	Took       time.Duration // includes calls to STS or the metadata service
	Expires    time.Time     // when the new token does
}

// observer passes events to the Logger and the hooks of a Config.
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
		level = slog.LevelDebug // to be expected
	}
	o.log.Log(ctx, level, "dsql: retrying to connect", "attempt", e.Attempt, "transport", e.Transport, "wait", e.Wait, "elapsed", e.Elapsed, "error", e.Err)
	o.onRetry(e)
}

func (o observer) connected(ctx context.Context, t transport.Transport, attempts int, took time.Duration) {
	o.log.DebugContext(ctx, "dsql: connected", "transport", string(t), "attempts", attempts, "took", took)
}

func (o observer) logToken(ctx context.Context, e TokenEvent) {
	switch {
	case e.Err == nil:
		o.log.DebugContext(ctx, "dsql: token signed", "expires", e.Expires, "took", e.Took, "background", e.Background)
	case e.Background:
		o.log.WarnContext(ctx, "dsql: refreshing the token failed; the old one stays in use", "took", e.Took, "error", e.Err)
	default:
		o.log.WarnContext(ctx, "dsql: signing a token failed", "took", e.Took, "error", e.Err)
	}
}
