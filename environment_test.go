package dsql_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
)

// The PG* environment and the files in the home directory have no effect.
func TestPostgresEnvironmentIsIgnored(t *testing.T) {
	decoy, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var reached atomic.Int64
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := decoy.Accept()
			if err != nil {
				return
			}
			reached.Add(1)
			conn.Close()
		}
	}()
	defer func() { decoy.Close(); <-done }()
	_, port, err := net.SplitHostPort(decoy.Addr().String())
	require.NoError(t, err)

	clean, err := server.Config().ConnConfig(t.Context())
	require.NoError(t, err)
	cleanPool, err := server.Config().PoolConfig(t.Context())
	require.NoError(t, err)

	home := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(home, ".pgpass"), []byte("*:*:*:*:stolen\n"), 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(home, ".postgresql"), 0o700))
	for _, file := range []string{"root.crt", "postgresql.crt", "postgresql.key"} {
		require.NoError(t, os.WriteFile(filepath.Join(home, ".postgresql", file), []byte("junk"), 0o600))
	}
	for name, value := range map[string]string{
		"HOME": home, "PGHOST": "127.0.0.1,localhost", "PGHOSTADDR": "127.0.0.1", "PGPORT": port, "PGDATABASE": "other", "PGUSER": "other",
		"PGPASSWORD": "stolen", "PGPASSFILE": filepath.Join(home, "missing"), "PGSERVICE": "missing", "PGSERVICEFILE": filepath.Join(home, "missing"),
		"PGSSLMODE": "disable", "PGSSLCERT": "junk", "PGSSLKEY": "junk", "PGSSLROOTCERT": filepath.Join(home, "missing"), "PGSSLPASSWORD": "stolen",
		"PGSSLNEGOTIATION": "postgres", "PGSSLSNI": "0", "PGSSLCERTMODE": "junk", "PGOPTIONS": "-c search_path=stolen", "PGAPPNAME": "stolen", "PGTZ": "Asia/Tokyo",
		"PGCONNECT_TIMEOUT": "junk", "PGTARGETSESSIONATTRS": "standby", "PGREQUIREAUTH": "scram-sha-256", "PGCHANNELBINDING": "require",
		"PGMINPROTOCOLVERSION": "3.2", "PGMAXPROTOCOLVERSION": "3.2",
	} {
		t.Setenv(name, value)
	}

	cc, err := server.Config().ConnConfig(t.Context())
	require.NoError(t, err)
	require.Equal(t, clean.RuntimeParams, cc.RuntimeParams)
	require.Empty(t, cc.Password)
	require.Empty(t, cc.Fallbacks)
	require.Nil(t, cc.ValidateConnect)
	for _, pair := range [][2]any{
		{clean.Host, cc.Host}, {clean.Port, cc.Port}, {clean.User, cc.User}, {clean.Database, cc.Database}, {clean.ConnectTimeout, cc.ConnectTimeout},
		{clean.SSLNegotiation, cc.SSLNegotiation}, {clean.MinProtocolVersion, cc.MinProtocolVersion}, {clean.MaxProtocolVersion, cc.MaxProtocolVersion},
		{clean.ChannelBinding, cc.ChannelBinding}, {clean.RequireAuth, cc.RequireAuth}, {clean.TLSConfig.ServerName, cc.TLSConfig.ServerName},
	} {
		require.Equal(t, pair[0], pair[1])
	}
	pool, err := server.Config().PoolConfig(t.Context())
	require.NoError(t, err)
	require.Equal(t, cleanPool.MaxConns, pool.MaxConns)

	conn, err := dsql.Connect(t.Context(), server.Config())
	require.NoError(t, err)
	require.Equal(t, "admin", selectUser(t, conn))
	require.NoError(t, conn.Close(t.Context()))
	c, err := dsql.ParseConfig("host=" + publicName)
	require.NoError(t, err)
	require.Equal(t, dsql.Config{Host: publicName}.String(), c.String())

	// Nor does a connection that fails go elsewhere.
	broken := server.Config()
	broken.DialAddress, broken.ConnectTimeout = "127.0.0.1:1", time.Second/2
	_, err = dsql.Connect(t.Context(), broken)
	require.Error(t, err)
	require.Zero(t, reached.Load())
}

func TestRegionAndCredentialsOfTheEnvironment(t *testing.T) {
	c := server.Config()
	c.Host, c.Credentials = reportID, nil
	connect := func() error {
		conn, err := dsql.Connect(t.Context(), c)
		if err == nil {
			err = conn.Close(t.Context())
		}
		return err
	}
	require.ErrorContains(t, connect(), "Region: is empty")

	t.Setenv("AWS_DEFAULT_REGION", "us-east-1")
	err := connect()
	require.ErrorIs(t, err, dsql.ErrCredentials)

	t.Setenv("AWS_ACCESS_KEY_ID", server.Credentials().AccessKeyID)
	t.Setenv("AWS_SECRET_ACCESS_KEY", server.Credentials().SecretAccessKey)
	require.NoError(t, connect())

	t.Setenv("AWS_REGION", "us-east-1")
	t.Setenv("AWS_DEFAULT_REGION", "eu-west-1")
	require.NoError(t, connect())
}

func TestProfile(t *testing.T) {
	files := t.TempDir()
	write := func(name, text string) {
		path := filepath.Join(files, name)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		t.Setenv(map[string]string{"config": "AWS_CONFIG_FILE", "credentials": "AWS_SHARED_CREDENTIALS_FILE"}[name], path)
	}
	write("config", "[profile reports]\nregion = us-east-1\n")
	write("credentials", "[reports]\naws_access_key_id = "+server.Credentials().AccessKeyID+"\naws_secret_access_key = "+server.Credentials().SecretAccessKey+"\n")

	c := server.Config()
	c.Host, c.Credentials, c.Profile = reportID, nil, "reports"
	conn, err := dsql.Connect(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))

	c.Profile = "absent"
	_, err = dsql.Connect(t.Context(), c)
	require.ErrorIs(t, err, dsql.ErrConfig)
	require.ErrorContains(t, err, `Profile: "absent"`)
}

// Tools parse ConnString again. What they get names the cluster, dials nothing else, and sends no
// plaintext.
func TestConnString(t *testing.T) {
	t.Setenv("PGPASSWORD", "hunter2")
	t.Setenv("PGHOST", "elsewhere.example.com")
	c := server.Config()
	c.User, c.ApplicationName, c.SSLNegotiation = "app", "it's me", "postgres"
	c.Params = map[string]string{"search_path": "a, b"}
	cc, err := c.ConnConfig(t.Context())
	require.NoError(t, err)
	require.NotContains(t, cc.ConnString(), "hunter2")
	require.NotContains(t, cc.ConnString(), "X-Amz")

	again, err := pgx.ParseConfig(cc.ConnString())
	require.NoError(t, err)
	require.Equal(t, cc.Host, again.Host)
	require.Equal(t, cc.Port, again.Port)
	require.Equal(t, "app", again.User)
	require.Equal(t, "postgres", again.Database)
	require.Equal(t, cc.RuntimeParams, again.RuntimeParams)
	require.Equal(t, "postgres", again.SSLNegotiation)
	require.Empty(t, again.Fallbacks)
	require.NotNil(t, again.TLSConfig)
	require.False(t, again.TLSConfig.InsecureSkipVerify)
	require.Equal(t, cc.Host, again.TLSConfig.ServerName)
}

// RoleARN goes through STS, once for many tokens.
func TestAssumeRole(t *testing.T) {
	server.AllowKey("ASIAROLE", "role secret", "role session")
	var calls atomic.Int64
	var form url.Values
	sts := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		_ = r.ParseForm()
		form = r.PostForm
		w.Header().Set("Content-Type", "text/xml")
		_, _ = w.Write([]byte(`<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>` +
			`<AccessKeyId>ASIAROLE</AccessKeyId><SecretAccessKey>role secret</SecretAccessKey><SessionToken>role session</SessionToken>` +
			`<Expiration>` + time.Now().Add(time.Hour).UTC().Format(time.RFC3339) + `</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`))
	}))
	defer sts.Close()
	t.Setenv("AWS_ENDPOINT_URL_STS", sts.URL)

	c := server.Config()
	c.Credentials = credentials.NewStaticCredentialsProvider("AKIABASE", "base secret", "")
	c.RoleARN, c.RoleSessionName, c.ExternalID = "arn:aws:iam::123456789012:role/app", "worker", "customer"
	c.TokenLifetime = time.Second
	source, err := dsql.NewTokenSource(t.Context(), c)
	require.NoError(t, err)
	tokens := map[string]bool{}
	require.Eventually(t, func() bool {
		token, err := source.Token(t.Context())
		require.NoError(t, err)
		tokens[token.Reveal()] = true
		return len(tokens) == 2
	}, 10*time.Second, 10*time.Millisecond)
	require.EqualValues(t, 1, calls.Load())
	require.Equal(t, "arn:aws:iam::123456789012:role/app", form.Get("RoleArn"))
	require.Equal(t, "worker", form.Get("RoleSessionName"))
	require.Equal(t, "customer", form.Get("ExternalId"))
	require.Equal(t, "3600", form.Get("DurationSeconds"))

	conn, err := dsql.Connect(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	http.DefaultClient.CloseIdleConnections()
}

func TestBadConfig(t *testing.T) {
	good := server.Config()
	for name, test := range map[string]struct {
		change func(*dsql.Config)
		says   string
	}{
		"TokenLifetime 0.5 s":     {func(c *dsql.Config) { c.TokenLifetime = time.Second / 2 }, "TokenLifetime: "},
		"TokenLifetime 1.5 s":     {func(c *dsql.Config) { c.TokenLifetime = 1500 * time.Millisecond }, "TokenLifetime: "},
		"TokenLifetime 8 days":    {func(c *dsql.Config) { c.TokenLifetime = 8 * 24 * time.Hour }, "TokenLifetime: "},
		"SSLNegotiation":          {func(c *dsql.Config) { c.SSLNegotiation = "off" }, "SSLNegotiation: "},
		"ConnectTimeout":          {func(c *dsql.Config) { c.ConnectTimeout = -1 }, "ConnectTimeout: "},
		"ConnectBurst":            {func(c *dsql.Config) { c.ConnectBurst = -1 }, "ConnectBurst: "},
		"RoleSessionName alone":   {func(c *dsql.Config) { c.RoleSessionName = "x" }, "RoleSessionName: "},
		"ExternalID alone":        {func(c *dsql.Config) { c.ExternalID = "x" }, "ExternalID: "},
		"NUL in User":             {func(c *dsql.Config) { c.User = "a\x00b" }, "User: "},
		"password in Params":      {func(c *dsql.Config) { c.Params = map[string]string{"password": "hunter2"} }, `Params: contains "password"`},
		"sslmode in Params":       {func(c *dsql.Config) { c.Params = map[string]string{"sslmode": "disable"} }, `Params: contains "sslmode"`},
		"host in Params":          {func(c *dsql.Config) { c.Params = map[string]string{"host": "x"} }, "Config.Host"},
		"pool_max_conns":          {func(c *dsql.Config) { c.Params = map[string]string{"pool_max_conns": "many"} }, "Params: cannot parse pool_max_conns"},
		"default_query_exec_mode": {func(c *dsql.Config) { c.Params = map[string]string{"default_query_exec_mode": "x"} }, "Params: invalid default_query_exec_mode"},
		"two settings in one":     {func(c *dsql.Config) { c.Params = map[string]string{"a=b host": "x"} }, "Params: "},
	} {
		t.Run(name, func(t *testing.T) {
			c := good
			test.change(&c)
			for what, make := range map[string]func() error{
				"ConnConfig": func() error { _, err := c.ConnConfig(t.Context()); return err },
				"NewPool":    func() error { _, err := dsql.NewPool(t.Context(), c); return err },
				"OpenDB":     func() error { _, err := dsql.OpenDB(t.Context(), c); return err },
			} {
				err := make()
				require.ErrorIs(t, err, dsql.ErrConfig, what)
				require.ErrorContains(t, err, test.says, what)
				require.NotContains(t, err.Error(), "hunter2")
			}
		})
	}
}
