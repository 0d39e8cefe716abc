//go:build unix

package dsqltest

import (
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// Whatever a server runs on, it knows nothing of another.
func TestServersShareNothing(t *testing.T) {
	servers := []*Server{New(t, WithRoles("app", "one")), New(t, WithRoles("app", "two")), New(t, WithDataDir(openTempDir(t)), WithRoles("three"))}
	dirs := make(map[string]bool)
	for i, s := range servers {
		dirs[s.postgres.dir] = true
		conn := connect(t, connConfig(t, s, adminRole))
		require.Equal(t, []string{"app,one", "app,two", "three"}[i],
			queryString(t, conn, "select string_agg(rolname, ',' order by rolname) from pg_roles where rolname in ('app', 'one', 'two', 'three')"))
		mustExec(t, conn, "create role made login")
		mustExec(t, conn, "create table t (id int)")
		submit(t, conn, "create index async on t (id)")
		require.Equal(t, "1", queryString(t, conn, "select count(*)::text from sys.jobs"))
		require.Equal(t, "postgres", queryString(t, conn, "select string_agg(datname, ',') from pg_database"))
		require.Equal(t, TransactionCounts{Applied: 3}, s.Transactions())
		require.Len(t, s.Attempts(), 1)
	}
	require.Len(t, dirs, len(servers))
	require.NoError(t, servers[0].Close())
	require.NoError(t, connect(t, connConfig(t, servers[1], adminRole)).Ping(t.Context()))
}

func TestSpare(t *testing.T) {
	dropSpare()
	ignore := goleak.IgnoreCurrent()
	prepareSpare()
	awaitSpare(t)
	goleak.VerifyNone(t, ignore)
	first := spare.dir
	prepareSpare()
	require.Equal(t, first, spare.dir, "there is one at most")

	t.Run("is for temporary data", func(t *testing.T) {
		require.NotEqual(t, first, New(t, WithDataDir(openTempDir(t))).postgres.dir)
	})
	t.Run("is for the same place", func(t *testing.T) {
		t.Setenv("TMPDIR", "/tmp/.")
		s, err := Start(t.Context())
		require.NoError(t, err)
		defer s.Close()
		require.NotEqual(t, first, s.postgres.dir)
	})

	s, err := Start(t.Context())
	require.NoError(t, err)
	require.Equal(t, first, s.postgres.dir)
	require.Nil(t, spare.supervisor)
	require.NoError(t, s.Close())
	require.NoDirExists(t, first)

	t.Run("that died", func(t *testing.T) {
		prepareSpare()
		awaitSpare(t)
		dead := spare.dir
		require.NoError(t, syscall.Kill(postmasterPID(t, filepath.Join(dead, "data")), syscall.SIGKILL))
		s, err := Start(t.Context())
		require.NoError(t, err)
		require.NotEqual(t, dead, s.postgres.dir)
		require.NoError(t, s.Close())
		require.NoDirExists(t, dead)
	})
}

// BenchmarkStart is what a test waits for. "cold" makes a new initdb each time, as the first
// server of a process does; "second" is New after New, when the test before has taken its time.
func BenchmarkStart(b *testing.B) {
	b.Run("cold", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			dropSpare()
			dropTemplate()
			b.StartTimer()
			s, err := Start(b.Context())
			require.NoError(b, err)
			b.StopTimer()
			require.NoError(b, s.Close())
			b.StartTimer()
		}
	})
	b.Run("second", func(b *testing.B) {
		for b.Loop() {
			b.StopTimer()
			prepareSpare()
			awaitSpare(b)
			b.StartTimer()
			s, err := Start(b.Context())
			require.NoError(b, err)
			prepareSpare() // as New does
			b.StopTimer()
			require.NoError(b, s.Close())
			b.StartTimer()
		}
	})
}

func dropSpare() {
	spare.Lock()
	defer spare.Unlock()
	if spare.supervisor != nil {
		spare.lifeline.Close()
		spare.wait()
		spare.supervisor = nil
	}
}

func dropTemplate() {
	template.Lock()
	defer template.Unlock()
	if template.supervisor != nil {
		template.lifeline.Close()
		template.wait()
		template.supervisor = nil
	}
}

// awaitSpare waits until the spare takes connections.
func awaitSpare(tb testing.TB) {
	tb.Helper()
	spare.Lock()
	defer spare.Unlock()
	require.NotNil(tb, spare.supervisor)
	p := &postgres{dir: spare.dir, gone: make(chan struct{})}
	require.NoError(tb, p.awaitReady(tb.Context(), ""))
}
