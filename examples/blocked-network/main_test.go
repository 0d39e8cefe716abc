package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	text := out.String()
	require.Contains(t, text, "tcp fails: dsql: ")
	require.Contains(t, text, "the doctor says inspection: Use a WebSocket")
	require.Equal(t, 1, strings.Count(text, "tcp fails, the next attempt is at once"), text)
	require.Equal(t, 3, strings.Count(text, "logged in as admin by websocket"), text)
}
