package main

import (
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	for _, file := range []string{"AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"} {
		t.Setenv(file, os.DevNull)
	}
	t.Setenv("AWS_PROFILE", "")
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	require.Contains(t, out.String(), "without the external ID: AccessDenied: not authorized to perform: sts:AssumeRole")
	require.Equal(t, 3, strings.Count(out.String(), "connected as app"))
	require.Contains(t, out.String(), "calls to STS: 1\n")
	require.NotContains(t, out.String(), "X-Amz")
}
