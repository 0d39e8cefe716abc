package dsqlproxy_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqlproxy"
	"github.com/dsqlgo/dsql/dsqltest"
)

// cluster is what the tests of this package share, but for those that make faults.
var cluster *dsqltest.Server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION", "AWS_PROFILE"} {
		os.Unsetenv(name)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	if cluster, err = dsqltest.Start(ctx); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := cluster.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// throughVPC is the Config of the first report: a VPC endpoint's name, and the cluster's ID.
func throughVPC(s *dsqltest.Server) dsql.Config {
	c := s.Config()
	c.Host, c.ClusterID = s.VPCEndpoint(), s.ClusterID()
	return c
}

// serve runs p on a free port of loopback until the test ends.
func serve(t testing.TB, p *dsqlproxy.Proxy) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	stop := serveOn(t, p, l)
	t.Cleanup(func() { stop() })
	return l.Addr().String()
}

// serveOn runs p until stop, or the test's end. The error of Serve fails the test.
func serveOn(t testing.TB, p *dsqlproxy.Proxy, l net.Listener) (stop func()) {
	t.Helper()
	if p.Config.Host == "" {
		p.Config = throughVPC(cluster)
	}
	if p.Logger == nil && testing.Verbose() {
		p.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- p.Serve(ctx, l) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		require.NoError(t, <-served)
	}
	t.Cleanup(stop)
	return stop
}

// connect opens a session through a proxy as admin.
func connect(t testing.TB, address, more string) *pgx.Conn {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), clientURL(address, more))
	require.NoError(t, err)
	t.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

// clientURL is what a user would write, with more behind the defaults, which it may repeat.
func clientURL(address, more string) string {
	host, port, _ := net.SplitHostPort(address)
	return fmt.Sprintf("host=%s port=%s user=admin dbname=postgres sslmode=disable %s", host, port, more)
}
