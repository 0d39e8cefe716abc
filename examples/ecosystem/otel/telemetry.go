package main

import (
	"context"
	"errors"

	"github.com/exaring/otelpgx"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltx"
)

const scope = "github.com/dsqlgo/dsql/examples/ecosystem/otel"

// telemetry is what is reported of one program's pools.
type telemetry struct {
	traces  trace.TracerProvider
	metrics metric.MeterProvider
	tracer  trace.Tracer

	connectRetries metric.Int64Counter     // by reason
	tokens         metric.Float64Histogram // seconds a signing took; its count is that of tokens
	attempts       metric.Int64Counter     // of transactions, by outcome
}

func newTelemetry(traces trace.TracerProvider, metrics metric.MeterProvider) (*telemetry, error) {
	t := &telemetry{traces: traces, metrics: metrics, tracer: traces.Tracer(scope)}
	meter := metrics.Meter(scope)
	var errs [3]error
	t.connectRetries, errs[0] = meter.Int64Counter("dsql.connect.retries",
		metric.WithDescription("Attempts to connect that failed and were followed by another."))
	t.tokens, errs[1] = meter.Float64Histogram("dsql.token.duration", metric.WithUnit("s"),
		metric.WithDescription("Time that signing a token took, with the calls that credentials need."))
	t.attempts, errs[2] = meter.Int64Counter("dsql.transaction.attempts",
		metric.WithDescription("Runs of a transaction's function."))
	return t, errors.Join(errs[:]...)
}

// newPool opens a pool that is traced and measured. The hooks of config are taken: they have no
// context, so what they tell goes to metrics and not to a span.
func (t *telemetry) newPool(ctx context.Context, config dsql.Config) (*pgxpool.Pool, error) {
	config.OnRetry = func(e dsql.RetryEvent) {
		t.connectRetries.Add(context.Background(), 1, metric.WithAttributes(attribute.String("error.type", reason(e.Err))))
	}
	config.OnToken = func(e dsql.TokenEvent) {
		t.tokens.Record(context.Background(), e.Took.Seconds(), metric.WithAttributes(
			attribute.Bool("ok", e.Err == nil), attribute.Bool("background", e.Background)))
	}
	pool, err := dsql.NewPool(ctx, config, func(c *pgxpool.Config) {
		c.ConnConfig.Tracer = otelpgx.NewTracer(otelpgx.WithTracerProvider(t.traces), otelpgx.WithMeterProvider(t.metrics))
	})
	if err != nil {
		return nil, err
	}
	if err := otelpgx.RecordStats(pool, otelpgx.WithStatsMeterProvider(t.metrics)); err != nil {
		pool.Close()
		return nil, err
	}
	return pool, nil
}

// runTx is dsqltx.Run in a span, with an event for each attempt. fn must use the context
// that it is given, for its queries to be part of the span.
func (t *telemetry) runTx(ctx context.Context, pool *pgxpool.Pool, name string, fn func(context.Context, pgx.Tx) error) error {
	ctx, span := t.tracer.Start(ctx, name)
	defer span.End()
	runner := dsqltx.Runner{OnAttempt: func(a dsqltx.Attempt) {
		outcome := "applied"
		switch {
		case a.Conflict != "":
			outcome = a.Conflict
		case a.Err != nil:
			outcome = "failed"
		}
		span.AddEvent("attempt", trace.WithAttributes(
			attribute.Int("dsql.attempt", a.Number), attribute.String("dsql.outcome", outcome),
			attribute.Bool("dsql.again", a.Again), attribute.Float64("dsql.wait", a.Wait.Seconds())))
		t.attempts.Add(ctx, 1, metric.WithAttributes(attribute.String("outcome", outcome)))
	}}
	err := runner.Run(ctx, pool, func(ctx context.Context, tx pgx.Tx) error { return fn(ctx, tx) })
	if err != nil {
		span.SetStatus(codes.Error, err.Error())
	}
	return err
}

// reason is a name for why a connect failed: few values, as a metric's attributes need them.
func reason(err error) string {
	var refusal *pgconn.PgError
	switch {
	case errors.Is(err, dsql.ErrClusterWaking):
		return "waking"
	case errors.As(err, &refusal):
		return refusal.Code
	}
	return "network"
}
