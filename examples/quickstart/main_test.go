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
	for _, says := range []string{"read back  [Ada Grace]", "connected as admin", ".dsql.us-east-1.on.aws", "TLS 1.3"} {
		require.Contains(t, out.String(), says)
	}
	require.NotContains(t, out.String(), "X-Amz")
}
