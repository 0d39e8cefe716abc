package dsqlproxy_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqlproxy"
)

func TestQuery(t *testing.T) {
	conn := connect(t, serve(t, &dsqlproxy.Proxy{}), "")
	var user string
	require.NoError(t, conn.QueryRow(t.Context(), "select current_user where $1 = 1", 1).Scan(&user))
	require.Equal(t, "admin", user)
}
