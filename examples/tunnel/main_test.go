package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRun(t *testing.T) {
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	value := func(name string) string {
		found := regexp.MustCompile("(?m)^" + name + ` +(\S+)$`).FindStringSubmatch(out.String())
		require.NotNil(t, found, name)
		return found[1]
	}
	require.NotEqual(t, value("dialled"), value("arrived at"))
	require.Regexp(t, `^[a-z0-9]{26}\.dsql\.us-east-1\.on\.aws$`, value("SNI"))
	require.Equal(t, value("SNI"), value("token for"))
	require.Equal(t, "*.dsql.us-east-1.on.aws", value("certificate"))
	require.Equal(t, "admin", value("logged in as"))
	require.NotContains(t, out.String(), "X-Amz")
}
