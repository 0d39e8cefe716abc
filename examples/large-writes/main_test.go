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
		"rows 1000 to 1999: in\nrows 2000 to 2999: unknown\nstopped: ",
		"outcome of the commit unknown",
		"in: 2000 rows; unknown: 1000, of which 0 are missing; out: 2000",
		"the table has 5000 rows, 5000 of them different",
	} {
		require.Contains(t, out.String(), says)
	}
}
