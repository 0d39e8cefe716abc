package main

import (
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	for _, says := range []string{
		"20 transfers by 4 workers, each applied once",
		"cut before COMMIT arrived, nothing to look at: unknown",
		"cut before COMMIT arrived, looked for its key: attempts 2",
		"cut after COMMIT was applied, looked for its key: attempts 1",
		// What the database holds: 20 and twice 5 were moved, and not the unknown 10.
		"ada has 70\ngrace has 130\n",
	} {
		require.Contains(t, out.String(), says)
	}
	conflicts := regexp.MustCompile(`(\d+) attempts lost`).FindStringSubmatch(out.String())
	require.NotNil(t, conflicts)
	n, err := strconv.Atoi(conflicts[1])
	require.NoError(t, err)
	require.GreaterOrEqual(t, n, workers-1)
}
