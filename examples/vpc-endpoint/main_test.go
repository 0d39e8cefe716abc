package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	for _, says := range []string{"invalid sni", "SNI         vftmkydwxvxys6asbsc6ih2the.dsql-fnh4.us-east-1.on.aws", "dialled     vpce-07acca8bd8980c621", "logged in   lambda_dsql_user"} {
		require.Contains(t, out.String(), says)
	}
	require.NotContains(t, out.String(), "X-Amz")
}
