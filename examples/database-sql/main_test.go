package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	t.Setenv("DSQL_URL", "")
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	for _, says := range []string{"ada has 100", "grace has 200", "copied 2 more rows"} {
		require.Contains(t, out.String(), says)
	}
	require.NotContains(t, out.String(), "X-Amz")
}
