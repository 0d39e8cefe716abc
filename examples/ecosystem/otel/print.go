package main

import (
	"context"
	"fmt"
	"io"

	"go.opentelemetry.io/otel/attribute"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
)

// spanPrinter prints each span as a line when it has ended, so the inner ones come first.
type spanPrinter struct{ out io.Writer }

func (p spanPrinter) ExportSpans(_ context.Context, spans []sdktrace.ReadOnlySpan) error {
	for _, s := range spans {
		fmt.Fprintf(p.out, "span   %s  %s", s.Name(), s.EndTime().Sub(s.StartTime()))
		for _, a := range s.Attributes() {
			if a.Key == "db.query.text" || a.Key == "server.address" || a.Key == "pgx.sql_state" {
				fmt.Fprintf(p.out, "  %s=%q", a.Key, a.Value.String())
			}
		}
		fmt.Fprintln(p.out)
		for _, e := range s.Events() {
			fmt.Fprintf(p.out, "       . %s %s\n", e.Name, attributes(attribute.NewSet(e.Attributes...)))
		}
	}
	return nil
}

func (p spanPrinter) Shutdown(context.Context) error { return nil }

func printMetrics(ctx context.Context, out io.Writer, reader sdkmetric.Reader) error {
	var all metricdata.ResourceMetrics
	if err := reader.Collect(ctx, &all); err != nil {
		return err
	}
	for _, s := range all.ScopeMetrics {
		for _, m := range s.Metrics {
			switch data := m.Data.(type) {
			case metricdata.Sum[int64]:
				for _, p := range data.DataPoints {
					fmt.Fprintln(out, "metric", m.Name, attributes(p.Attributes), p.Value)
				}
			case metricdata.Gauge[int64]:
				for _, p := range data.DataPoints {
					fmt.Fprintln(out, "metric", m.Name, attributes(p.Attributes), p.Value)
				}
			case metricdata.Histogram[float64]:
				for _, p := range data.DataPoints {
					fmt.Fprintln(out, "metric", m.Name, attributes(p.Attributes), "count", p.Count)
				}
			}
		}
	}
	return nil
}

func attributes(set attribute.Set) string { return set.Encoded(attribute.DefaultEncoder()) }
