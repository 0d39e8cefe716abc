package dsqltest

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// PostgreSQL's parallel workers do not start with the endpoint's settings, so a plain count of a table
// of 40 MB failed.
func TestNoParallelQueries(t *testing.T) {
	s := New(t)
	conn := connect(t, connConfig(t, s, adminRole))
	require.Equal(t, "0", queryString(t, conn, "select current_setting('max_parallel_workers_per_gather')"))
}
