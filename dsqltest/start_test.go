package dsqltest

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Whatever a server runs on, it knows nothing of another.
func TestServersShareNothing(t *testing.T) {
	servers := []*Server{New(t, WithRoles("app", "one")), New(t, WithRoles("app", "two")), New(t, WithDataDir(newDataDir(t)), WithRoles("three"))}
	dirs := make(map[string]bool)
	for i, s := range servers {
		dirs[s.postgres.Dir()] = true
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

// newDataDir names a directory that does not exist yet, where PostgreSQL may make it: as root, the
// tests run PostgreSQL as another user, who could not enter t.TempDir.
func newDataDir(tb testing.TB) string {
	dir := filepath.Join(os.TempDir(), "dsqltest-"+rand.Text())
	tb.Cleanup(func() { require.NoError(tb, os.RemoveAll(dir)) })
	return dir
}
