// Hooks listens to what the library does by itself: connections that it tries again,
// tokens that it signs, transactions that it runs again. Logger writes them down,
// OnRetry, OnToken and OnAttempt count them.
//
// A local endpoint plays a cluster that has to wake up, and whose rows are contended.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"os/signal"
	"sync/atomic"

	"github.com/jackc/pgx/v5"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

// counters are safe for concurrent use, as hooks must be: they are called by
// whichever goroutine connects, signs or runs a transaction.
type counters struct {
	retries, waking, refused atomic.Int64 // connects tried again: all, and why
	tokens, failedTokens     atomic.Int64
	attempts, conflicts      atomic.Int64 // of transactions
}

func (c *counters) retry(e dsql.RetryEvent) {
	c.retries.Add(1)
	switch {
	case errors.Is(e.Err, dsql.ErrClusterWaking):
		c.waking.Add(1)
	case errors.Is(e.Err, dsql.ErrRateExceeded), errors.Is(e.Err, dsql.ErrTooManyConnections):
		c.refused.Add(1)
	}
}

func (c *counters) token(e dsql.TokenEvent) {
	if e.Err != nil {
		c.failedTokens.Add(1)
		return
	}
	c.tokens.Add(1)
}

func (c *counters) attempt(e dsqltx.Attempt) {
	c.attempts.Add(1)
	if e.Conflict != "" {
		c.conflicts.Add(1)
	}
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Stdout); err != nil {
		log.Fatal(err)
	}
}

func run(ctx context.Context, out io.Writer) error {
	server, err := dsqltest.Start(ctx, dsqltest.WithWaking(2))
	if err != nil {
		return err
	}
	defer server.Close()
	server.RefuseNext(1, dsqltest.RefuseRate)

	var c counters
	config := server.Config()
	config.Logger = slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: withoutTime}))
	config.OnRetry, config.OnToken = c.retry, c.token

	pool, err := dsql.NewPool(ctx, config)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := pool.Ping(ctx); err != nil {
		return err
	}

	server.ConflictNext(2)
	err = dsqltx.Runner{OnAttempt: c.attempt}.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "select $1::int", 1)
		return err
	})
	if err != nil {
		return err
	}

	fmt.Fprintf(out, "connecting: %d retries (%d waking, %d over a quota)\n", c.retries.Load(), c.waking.Load(), c.refused.Load())
	fmt.Fprintf(out, "tokens: %d signed, %d failed\n", c.tokens.Load(), c.failedTokens.Load())
	fmt.Fprintf(out, "transactions: %d attempts, %d conflicts\n", c.attempts.Load(), c.conflicts.Load())
	return nil
}

// withoutTime makes the lines shorter.
func withoutTime(groups []string, a slog.Attr) slog.Attr {
	if len(groups) == 0 && a.Key == slog.TimeKey {
		return slog.Attr{}
	}
	return a
}
