package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"time"

	"github.com/dsqlgo/dsql/dsqlproxy"
)

// serveHealth answers /startup, /liveness, /readiness and /metrics on address until it is closed;
// nowhere, where address is empty.
func serveHealth(ctx context.Context, address string, p *dsqlproxy.Proxy) (io.Closer, error) {
	server := &http.Server{Handler: healthHandler(p.Stats), ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	if address == "" {
		return server, nil
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("--health: %s is in use; choose another port", address)
	}
	if err != nil {
		return nil, fmt.Errorf("--health: %w; use an address such as 127.0.0.1:9090", err)
	}
	go server.Serve(l) // until Close
	return server, nil
}

// healthHandler has the paths that Kubernetes' probes are pointed at. The proxy is alive as long as
// it answers; it is ready when a client that comes now can expect a session.
func healthHandler(stats func() dsqlproxy.Stats) http.Handler {
	ok := func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok\n") }
	mux := http.NewServeMux()
	mux.HandleFunc("GET /startup", ok)
	mux.HandleFunc("GET /liveness", ok)
	mux.HandleFunc("GET /readiness", func(w http.ResponseWriter, r *http.Request) {
		s := stats()
		for _, c := range []struct {
			not    bool
			reason string
		}{
			{s.Draining, "draining"},
			{s.Full, "as many clients as --max-connections allows"},
			{s.Failing, "the last login at the cluster failed; see the log"},
		} {
			if c.not {
				http.Error(w, c.reason, http.StatusServiceUnavailable)
				return
			}
		}
		ok(w, r)
	})
	mux.HandleFunc("GET /metrics", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		io.WriteString(w, metrics(stats()))
	})
	return mux
}

// metrics is Prometheus' text format (Prometheus docs, "Exposition formats").
func metrics(s dsqlproxy.Stats) string {
	var b strings.Builder
	for _, m := range []struct {
		name, kind, help string
		value            uint64
	}{
		{"half_open_connections", "gauge", "Connections that have not said who they are.", uint64(s.HalfOpen)},
		{"clients", "gauge", "Clients that have or wait for a session at the cluster.", uint64(s.Clients)},
		{"relaying", "gauge", "Clients that have a session at the cluster.", uint64(s.Relaying)},
		{"spares", "gauge", "Sessions that are logged in and wait for a client.", uint64(s.Spares)},
		{"connections_total", "counter", "Connections that were accepted.", s.Connections},
		{"sessions_total", "counter", "Clients that got a session.", s.Sessions},
		{"spares_used_total", "counter", "Clients that got a spare session.", s.SparesUsed},
		{"refused_total", "counter", "Clients that the proxy refused.", s.Refused},
		{"failed_total", "counter", "Clients for which the login at the cluster failed.", s.Failed},
		{"cancels_total", "counter", "Cancel requests that were forwarded.", s.Cancels},
		{"to_cluster_bytes_total", "counter", "Bytes that were relayed to the cluster.", s.BytesToCluster},
		{"to_client_bytes_total", "counter", "Bytes that were relayed to clients.", s.BytesToClient},
	} {
		fmt.Fprintf(&b, "# HELP dsql_proxy_%s %s\n# TYPE dsql_proxy_%s %s\ndsql_proxy_%s %d\n", m.name, m.help, m.name, m.kind, m.name, m.value)
	}
	return b.String()
}
