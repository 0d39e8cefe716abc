package dsqltx_test

import (
	"database/sql"
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/internal/counters"
)

// newCounters is a server of counters. At the test's end all connections are closed.
func newCounters(t *testing.T, rows int) *counters.Server {
	s := counters.New(rows)
	t.Cleanup(s.Wait)
	return s
}

// countersPool is a pool of a server of counters, which closes with the test.
func countersPool(t *testing.T, s *counters.Server, conns int, tune ...func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config, err := pgxpool.ParseConfig("host=counters user=u dbname=d sslmode=disable")
	require.NoError(t, err)
	config.ConnConfig = s.ConnConfig()
	config.MaxConns = int32(conns)
	for _, f := range tune {
		f(config)
	}
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

// countersDB is the like for database/sql.
func countersDB(t *testing.T, s *counters.Server, conns int) *sql.DB {
	t.Helper()
	db := stdlib.OpenDB(*s.ConnConfig())
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

// openCounters opens both ways to a server, which the caller closes.
func openCounters(t *testing.T, s *counters.Server, conns int) (*pgxpool.Pool, *sql.DB) {
	t.Helper()
	config, err := pgxpool.ParseConfig("host=counters user=u dbname=d sslmode=disable")
	require.NoError(t, err)
	config.ConnConfig, config.MaxConns = s.ConnConfig(), int32(conns)
	pool, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	db := stdlib.OpenDB(*s.ConnConfig())
	db.SetMaxOpenConns(conns)
	db.SetMaxIdleConns(conns)
	return pool, db
}
