package main

import (
	"io"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
)

func parameters(t *testing.T, printed string) url.Values {
	t.Helper()
	token, ok := strings.CutSuffix(printed, "\n")
	require.True(t, ok)
	require.NotContains(t, token, "\n")
	u, err := url.Parse("https://" + token)
	require.NoError(t, err)
	require.Equal(t, server.Endpoint(), u.Host)
	return u.Query()
}

func TestToken(t *testing.T) {
	for _, tt := range []struct {
		args            []string
		action, expires string
	}{
		{[]string{serverURL("admin")}, "DbConnectAdmin", "900"},
		{[]string{serverURL("app")}, "DbConnect", "900"},
		{[]string{serverURL("app") + "&token_lifetime=5m"}, "DbConnect", "300"},
		{[]string{serverURL("app") + "&token_lifetime=5m", "--expires-in", "1h"}, "DbConnect", "3600"},
		{[]string{"--expires-in", "168h", serverURL("app")}, "DbConnect", "604800"},
		{[]string{"--expires-in=3s", serverURL("app")}, "DbConnect", "3"},
		{[]string{"--expires-in", "900", serverURL("app")}, "DbConnect", "900"},
	} {
		got := runHere(t, nil, append([]string{"token"}, tt.args...)...)
		require.Equal(t, exitOK, got.status, got.stderr)
		require.Empty(t, got.stderr)
		query := parameters(t, got.stdout)
		require.Equal(t, tt.action, query.Get("Action"))
		require.Equal(t, tt.expires, query.Get("X-Amz-Expires"))
	}
}

// What is printed is a password that plain pgx can use.
func TestTokenIsThePassword(t *testing.T) {
	got := runBinary(t, []string{"DSQL_URL=" + serverURL("app")}, "token")
	require.Equal(t, exitOK, got.status, got.stderr)
	config, err := dsql.ParseConfig(serverURL("app"))
	require.NoError(t, err)
	cc, err := pgx.ParseConfig("host=127.0.0.1 user=app dbname=postgres sslmode=require")
	require.NoError(t, err)
	ready, err := config.ConnConfig(t.Context())
	require.NoError(t, err)
	cc.Port, cc.TLSConfig, cc.Password = ready.Port, ready.TLSConfig, strings.TrimSpace(got.stdout)
	conn, err := pgx.ConnectConfig(t.Context(), cc)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
}

func TestTokenOnATerminal(t *testing.T) {
	onTerminal := func(c *command) { c.terminal = func(w io.Writer) bool { return w == c.stdout } }
	got := runHere(t, onTerminal, "token", serverURL("admin"))
	require.Equal(t, exitUsage, got.status)
	require.Empty(t, got.stdout)
	require.Contains(t, got.stderr, "standard output is a terminal")
	require.Contains(t, got.stderr, "add --reveal")

	got = runHere(t, onTerminal, "token", "--reveal", serverURL("admin"))
	require.Equal(t, exitOK, got.status, got.stderr)
	parameters(t, got.stdout)
}

// Signing needs no network, so the SDK's settings for it do not matter.
func TestTokenWithoutNetworkSettings(t *testing.T) {
	got := runBinary(t, []string{"AWS_CA_BUNDLE=/missing.pem", "HTTPS_PROXY=http://127.0.0.1:1"}, "token", serverURL("app"))
	require.Equal(t, exitOK, got.status, got.stderr)
	require.Equal(t, "DbConnect", parameters(t, got.stdout).Get("Action"))
}

func TestTokenWithoutCredentials(t *testing.T) {
	got := runBinary(t, []string{"AWS_ACCESS_KEY_ID=", "AWS_SECRET_ACCESS_KEY=", "AWS_CONFIG_FILE=" + os.DevNull}, "token", serverURL("admin"))
	require.Equal(t, exitCredentials, got.status)
	require.Empty(t, got.stdout)
	require.Contains(t, got.stderr, "dsql token: AWS credentials are not available: ")

	got = runBinary(t, nil, "token", serverURL("admin")+"&profile=nowhere")
	require.Equal(t, exitConfig, got.status)
	require.Contains(t, got.stderr, `dsql token: invalid configuration: Profile: "nowhere"`)
}
