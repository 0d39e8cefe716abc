package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	for _, says := range []string{
		`level=DEBUG msg="dsql: token signed"`,
		`level=WARN msg="dsql: retrying to connect"`,
		"connecting: 3 retries (2 waking, 1 over a quota)",
		"tokens: 1 signed, 0 failed",
		"transactions: 3 attempts, 2 conflicts",
	} {
		require.Contains(t, out.String(), says)
	}
	require.NotContains(t, out.String(), "X-Amz")
}
