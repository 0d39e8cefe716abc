package main

import (
	"context"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	for _, says := range []string{
		"span   connect", "span   add to counter", `db.query.text="select n from otel_counter"`,
		"attempt dsql.again=true,dsql.attempt=1,dsql.outcome=OC000",
		"attempt dsql.again=false,dsql.attempt=2,dsql.outcome=applied",
		"counter is 11",
		"metric dsql.transaction.attempts outcome=OC000 1",
		"metric dsql.transaction.attempts outcome=applied 1",
		"metric dsql.token.duration background=false,ok=true count 1",
		"metric pgxpool.total_connections", "metric db.client.operation.duration",
	} {
		require.Contains(t, out.String(), says)
	}
}

// Spans and metrics of a good and of a bad start, and no token in any of them.
func TestSpans(t *testing.T) {
	server := dsqltest.New(t)
	spans := tracetest.NewInMemoryExporter()
	traces := sdktrace.NewTracerProvider(sdktrace.WithSyncer(spans))
	reader := sdkmetric.NewManualReader()
	metrics := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader))
	var out strings.Builder

	server.RefuseNext(1, dsqltest.RefuseWaking)
	server.RefuseNext(1, dsqltest.RefuseRate)
	require.NoError(t, count(t.Context(), server.Config(), traces, metrics, reader, &out))
	require.Contains(t, out.String(), "metric dsql.connect.retries error.type=waking 1")
	require.Contains(t, out.String(), "metric dsql.connect.retries error.type=53400 1")

	all := spans.GetSpans()
	root := only(t, all, "count")
	tx := only(t, all, "add to counter")
	require.Equal(t, root.SpanContext.SpanID(), tx.Parent.SpanID())
	require.Len(t, tx.Events, 2)
	byID := map[trace.SpanID]tracetest.SpanStub{}
	for _, s := range all {
		require.Equal(t, root.SpanContext.TraceID(), s.SpanContext.TraceID(), s.Name)
		byID[s.SpanContext.SpanID()] = s
	}
	within := func(s tracetest.SpanStub) bool {
		for ok := true; ok; s, ok = byID[s.Parent.SpanID()] {
			if s.SpanContext.SpanID() == tx.SpanContext.SpanID() {
				return true
			}
		}
		return false
	}
	selects := 0
	for _, s := range all {
		if within(s) && queryText(s) == "select n from otel_counter" {
			selects++
		}
	}
	require.Equal(t, 3, selects, "one to describe the statement, and one of each attempt")

	spans.Reset()
	server.RefuseNext(1, dsqltest.RefuseAccess)
	err := count(t.Context(), server.Config(), traces, metrics, reader, io.Discard)
	require.ErrorIs(t, err, dsql.ErrAccessDenied)
	failed := spans.GetSpans()
	require.Equal(t, codes.Error, only(t, failed, "connect").Status.Code)

	noTokens(t, server, append(all, failed...))
	require.NotContains(t, out.String(), "X-Amz")
}

func only(t *testing.T, spans tracetest.SpanStubs, name string) tracetest.SpanStub {
	t.Helper()
	i := slices.IndexFunc(spans, func(s tracetest.SpanStub) bool { return s.Name == name })
	require.GreaterOrEqual(t, i, 0, name)
	for _, s := range spans[i+1:] {
		require.NotEqual(t, name, s.Name)
	}
	return spans[i]
}

func queryText(s tracetest.SpanStub) string {
	set := attribute.NewSet(s.Attributes...)
	text, _ := set.Value("db.query.text")
	return text.AsString()
}

func noTokens(t *testing.T, server *dsqltest.Server, spans tracetest.SpanStubs) {
	t.Helper()
	tokens, err := dsql.NewTokenSource(context.Background(), server.Config())
	require.NoError(t, err)
	token, err := tokens.Token(t.Context())
	require.NoError(t, err)
	require.Contains(t, token.Reveal(), "X-Amz-Signature", "what is looked for")

	texts := 0
	check := func(text string) {
		texts++
		require.NotContains(t, text, "X-Amz")
		require.NotContains(t, text, server.Credentials().SecretAccessKey)
	}
	for _, s := range spans {
		check(s.Name)
		check(s.Status.Description)
		for _, a := range s.Attributes {
			check(a.Value.String())
		}
		for _, e := range s.Events {
			check(e.Name)
			for _, a := range e.Attributes {
				check(a.Value.String())
			}
		}
	}
	require.Greater(t, texts, 50)
}
