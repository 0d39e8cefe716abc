package dsql_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/internal/nettest"
)

// For each form of a host name: the address that is dialled, and the names that the server gets.
func TestConnectForms(t *testing.T) {
	cases := map[string]struct {
		change  func(*dsql.Config)
		dialled string
		sent    string
	}{
		"public endpoint":  {func(c *dsql.Config) { c.Host = publicName }, publicName + ":5432", publicName},
		"private DNS name": {func(c *dsql.Config) { c.Host = privateName }, privateName + ":5432", privateName},
		"VPC endpoint":     {func(c *dsql.Config) { c.Host, c.ClusterID = reportHost, reportID }, reportHost + ":5432", privateName},
		"VPC endpoint of a zone": {func(c *dsql.Config) {
			c.Host, c.ClusterID = strings.Replace(reportHost, ".dsql", "-us-east-1a.dsql", 1), reportID
		}, strings.Replace(reportHost, ".dsql", "-us-east-1a.dsql", 1) + ":5432", privateName},
		"VPC endpoint in China": {func(c *dsql.Config) {
			// The facts know no other domain for the SNI; the server here covers one region.
			c.Host, c.ClusterID, c.Region = strings.Replace(reportHost, ".com", ".com.cn", 1), reportID, "us-east-1"
		}, reportHost + ".cn:5432", privateName},
		"cluster ID":        {func(c *dsql.Config) { c.Host, c.Region = reportID, "us-east-1" }, publicName + ":5432", publicName},
		"IP address":        {func(c *dsql.Config) { c.Host, c.ClusterID, c.Region = "10.9.8.7", reportID, "us-east-1" }, "10.9.8.7:5432", publicName},
		"IPv6 address":      {func(c *dsql.Config) { c.Host, c.ServerName = "[fd00::7]:6432", privateName }, "[fd00::7]:6432", privateName},
		"tunnel":            {func(c *dsql.Config) { c.Host, c.DialAddress = publicName, "localhost:15432" }, "localhost:15432", publicName},
		"tunnel to the VPC": {func(c *dsql.Config) { c.Host, c.ClusterID, c.DialAddress = reportHost, reportID, "localhost:15432" }, "localhost:15432", privateName},
		"own CNAME":         {func(c *dsql.Config) { c.Host, c.ClusterID, c.Region = "db.example.com", reportID, "us-east-1" }, "db.example.com:5432", publicName},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			d := &recordingDialer{}
			c := configWithoutNames(d)
			test.change(&c)
			for _, negotiation := range []string{"direct", "postgres"} {
				c.SSLNegotiation = negotiation
				d.addresses = nil
				attempts := attemptsFromNow()
				conn, err := dsql.Connect(t.Context(), c)
				require.NoError(t, err)
				require.Equal(t, "admin", selectUser(t, conn))
				require.NoError(t, conn.Close(t.Context()))

				require.Equal(t, []string{test.dialled}, d.all())
				require.Len(t, attempts(), 1)
				a := attempts()[0]
				require.Equal(t, test.sent, a.ServerName)
				require.Equal(t, test.sent, a.TokenHost)
				require.Equal(t, "us-east-1", a.TokenRegion)
				require.Equal(t, "DbConnectAdmin", a.TokenAction)
				require.Equal(t, negotiation == "postgres", a.SSLRequest)
				require.Equal(t, "postgresql", a.ALPN)
				require.GreaterOrEqual(t, a.TLSVersion, uint16(tls.VersionTLS12))
				require.Equal(t, "ok", a.Outcome)
			}
		})
	}
}

// Without a DialFunc, the client dials the address at which the server listens.
func TestConnectDialsTheAddress(t *testing.T) {
	attempts := attemptsFromNow()
	conn, err := dsql.Connect(t.Context(), server.Config())
	require.NoError(t, err)
	defer conn.Close(t.Context())
	require.Equal(t, server.Addr(), attempts()[0].Address)
	require.Equal(t, server.Addr(), conn.PgConn().Conn().RemoteAddr().String())
	state := conn.PgConn().Conn().(interface{ ConnectionState() tls.ConnectionState }).ConnectionState()
	require.Equal(t, publicName, state.ServerName)
	require.NotEmpty(t, state.VerifiedChains)
}

func TestConnectAsAnotherRole(t *testing.T) {
	attempts := attemptsFromNow()
	c := server.Config()
	c.User = "app"
	conn, err := dsql.Connect(t.Context(), c)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	require.Equal(t, "app", selectUser(t, conn))
	require.Equal(t, "DbConnect", attempts()[0].TokenAction)
}

func TestConnectSettings(t *testing.T) {
	c := server.Config()
	c.ApplicationName = "my app"
	c.Params = map[string]string{"search_path": `"it's", public`, "default_query_exec_mode": "exec"}
	conn, err := dsql.Connect(t.Context(), c)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	for setting, want := range map[string]string{"application_name": "my app", "search_path": `"it's", public`, "TimeZone": "UTC"} {
		var got string
		require.NoError(t, conn.QueryRow(t.Context(), "select current_setting($1)", setting).Scan(&got))
		require.Equal(t, want, got)
	}
	require.Equal(t, pgx.QueryExecModeExec, conn.Config().DefaultQueryExecMode)
	require.Equal(t, "16.15", conn.PgConn().ParameterStatus("server_version"))
}

// A ConnConfig holds no token, and connects long after one would have expired.
func TestConnConfigStaysValid(t *testing.T) {
	c := server.Config()
	c.TokenLifetime = 2 * time.Second
	attempts := attemptsFromNow()
	cc, err := c.ConnConfig(t.Context())
	require.NoError(t, err)
	require.Empty(t, cc.Password)
	seen := map[string]bool{}
	deadline := time.Now().Add(20 * time.Second)
	for len(seen) < 2 {
		require.True(t, time.Now().Before(deadline))
		conn, err := pgx.ConnectConfig(t.Context(), cc)
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
		for _, a := range attempts() {
			seen[a.TokenID] = true
		}
	}
}

// Tokens of two seconds roll over while a pool keeps opening connections.
func TestPoolTokensRollOver(t *testing.T) {
	c := server.Config()
	c.TokenLifetime = 2 * time.Second
	attempts := attemptsFromNow()
	pool, err := dsql.NewPool(t.Context(), c, func(p *pgxpool.Config) { p.MaxConns = 8 })
	require.NoError(t, err)
	defer pool.Close()
	tokens := func() map[string]bool {
		seen := map[string]bool{}
		for _, a := range attempts() {
			seen[a.TokenID] = true
		}
		return seen
	}
	deadline := time.Now().Add(20 * time.Second)
	for len(tokens()) < 3 {
		require.True(t, time.Now().Before(deadline))
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				var one int
				require.NoError(t, pool.QueryRow(t.Context(), "select 1").Scan(&one))
			})
		}
		wg.Wait()
		pool.Reset()
	}
}

func TestPoolDefaults(t *testing.T) {
	pool, err := server.Config().PoolConfig(t.Context())
	require.NoError(t, err)
	require.Less(t, pool.MaxConnLifetime+pool.MaxConnLifetimeJitter, 60*time.Minute)
	require.Positive(t, pool.MaxConnLifetimeJitter)
	require.Equal(t, 10*time.Minute, pool.MaxConnIdleTime)
	require.Equal(t, 5*time.Second, pool.PingTimeout)
	require.Equal(t, 30*time.Second, pool.ConnConfig.ConnectTimeout)
	require.Empty(t, pool.ConnConfig.Fallbacks)

	c := server.Config()
	c.ConnectTimeout = time.Minute
	c.Params = map[string]string{"pool_max_conns": "3", "pool_max_conn_lifetime": "10m", "pool_max_conn_idle_time": "1h"}
	pool, err = c.PoolConfig(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, pool.MaxConns)
	require.Equal(t, 10*time.Minute, pool.MaxConnLifetime)
	require.Less(t, pool.MaxConnLifetimeJitter, 2*time.Minute)
	require.Equal(t, time.Hour, pool.MaxConnIdleTime)
	require.Equal(t, time.Minute, pool.ConnConfig.ConnectTimeout)
	require.NotContains(t, pool.ConnConfig.RuntimeParams, "pool_max_conns")
}

// The credentials provider fails for a while. Connects go on until the token expires, then fail
// with the reason, and work again after it.
func TestConnectCredentialsFailForAWhile(t *testing.T) {
	var down atomic.Bool
	c := server.Config()
	provider := c.Credentials
	c.Credentials = aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
		if down.Load() {
			return aws.Credentials{}, errors.New("no route to STS")
		}
		return provider.Retrieve(ctx)
	})
	c.TokenLifetime = 2 * time.Second
	cc, err := c.ConnConfig(t.Context())
	require.NoError(t, err)
	connect := func() error {
		conn, err := pgx.ConnectConfig(t.Context(), cc)
		if err == nil {
			err = conn.Close(t.Context())
		}
		return err
	}
	require.NoError(t, connect())
	down.Store(true)
	require.NoError(t, connect(), "the token is still valid")
	require.Eventually(t, func() bool { err = connect(); return err != nil }, 10*time.Second, 20*time.Millisecond)
	require.ErrorIs(t, err, dsql.ErrCredentials)
	require.ErrorContains(t, err, "no route to STS")
	down.Store(false)
	require.NoError(t, connect())
}

func TestConnectRefused(t *testing.T) {
	otherSecret := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: server.Credentials().AccessKeyID, SecretAccessKey: "not the one"}, nil
	})
	cases := map[string]struct {
		change func(*dsql.Config)
		is     error
		says   []string
	}{
		"wrong key":       {func(c *dsql.Config) { c.Credentials = otherSecret }, dsql.ErrAccessDenied, []string{"SQLSTATE 08006", "IAM policy", publicName}},
		"no such role":    {func(c *dsql.Config) { c.User = "nobody" }, dsql.ErrAccessDenied, []string{"SQLSTATE 08006", "AWS IAM GRANT"}},
		"another cluster": {func(c *dsql.Config) { c.Host = strings.Repeat("a", 26) + ".dsql.us-east-1.on.aws" }, dsql.ErrInvalidSNI, []string{"invalid sni", strings.Repeat("a", 26), "ClusterID"}},
		"database":        {func(c *dsql.Config) { c.Database = "app" }, nil, []string{`database "app"`, "3D000", "leave Database empty"}},
	}
	for name, test := range cases {
		t.Run(name, func(t *testing.T) {
			c := server.Config()
			test.change(&c)
			attempts := attemptsFromNow()
			_, err := dsql.Connect(t.Context(), c)
			require.Error(t, err)
			if test.is != nil {
				require.ErrorIs(t, err, test.is)
			}
			var pgErr *pgconn.PgError
			require.ErrorAs(t, err, &pgErr)
			for _, says := range test.says {
				require.ErrorContains(t, err, says)
			}
			require.Len(t, attempts(), 1, "asked once")
		})
	}
}

// The provider has another key than the one that the server denies: connects work again long before the
// token would have been refreshed. If the server denies every key, logins are not repeated.
func TestConnectKeyRotated(t *testing.T) {
	for name, rotated := range map[string]bool{"rotated": true, "denied for ever": false} {
		t.Run(name, func(t *testing.T) {
			var signed atomic.Int64
			c := server.Config()
			c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
				key := server.Credentials()
				if signed.Add(1) == 1 || !rotated {
					key.SecretAccessKey = "the old one"
				}
				return key, nil
			})
			cc, err := c.ConnConfig(t.Context())
			require.NoError(t, err)
			attempts := attemptsFromNow()
			connects := 0
			connect := func() error {
				connects++
				conn, err := pgx.ConnectConfig(t.Context(), cc)
				if err == nil {
					err = conn.Close(t.Context())
				}
				return err
			}
			require.ErrorIs(t, connect(), dsql.ErrAccessDenied)
			require.Eventually(t, func() bool {
				err := connect()
				if err == nil {
					return true
				}
				require.ErrorIs(t, err, dsql.ErrAccessDenied)
				return !rotated && signed.Load() == 2 && connects > 20
			}, 20*time.Second, 10*time.Millisecond)
			require.EqualValues(t, 2, signed.Load())
			require.Len(t, attempts(), connects+1, "one login was made twice")
		})
	}
}

// Certificates are verified in full: a server with another authority or another name gets no token.
func TestConnectVerifies(t *testing.T) {
	for name, change := range map[string]func(*dsql.Config){
		"set RootCAs":       func(c *dsql.Config) { c.RootCAs = x509.NewCertPool() },
		"check Host, Clust": func(c *dsql.Config) { c.Host = reportID + ".dsql.eu-west-1.on.aws" },
	} {
		for _, negotiation := range []string{"direct", "postgres"} {
			t.Run(name+" "+negotiation, func(t *testing.T) {
				c := server.Config()
				c.SSLNegotiation = negotiation
				change(&c)
				attempts := attemptsFromNow()
				_, err := dsql.Connect(t.Context(), c)
				var certificate *tls.CertificateVerificationError
				require.ErrorAs(t, err, &certificate)
				require.ErrorContains(t, err, "TLS handshake")
				require.ErrorContains(t, err, name)
				require.Len(t, attempts(), 1)
				require.Empty(t, attempts()[0].TokenID)
			})
		}
	}
}

// An alert, or an answer that TLS does not accept, is not retried.
func TestConnectAlert(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*tls.Config)
		says   string
	}{
		"old version":    {func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, "protocol version not supported"},
		"wrong protocol": {func(c *tls.Config) { c.NextProtos = []string{"http/1.1"} }, "no application protocol"},
		"client's certificate, TLS 1.2": {func(c *tls.Config) {
			c.MaxVersion, c.ClientAuth = tls.VersionTLS12, tls.RequireAnyClientCert
		}, "handshake failure"},
		"client's certificate, TLS 1.3": {func(c *tls.Config) { c.ClientAuth = tls.RequireAnyClientCert }, "certificate required"},
		"any": {func(c *tls.Config) {
			c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return nil, errors.New("closed") }
		}, "internal error"},
	} {
		t.Run(name, func(t *testing.T) {
			config := server.Config()
			certificate, roots := nettest.Issue(t, "Ended", server.Endpoint())
			serverConfig := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"postgresql"}}
			c.change(serverConfig)
			var accepted atomic.Int64
			config.RootCAs = roots
			config.DialAddress = nettest.Listen(t, func(conn *net.TCPConn) {
				accepted.Add(1)
				if server := tls.Server(conn, serverConfig); server.Handshake() == nil {
					_, _ = io.Copy(io.Discard, server)
				}
			})
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			defer cancel()
			_, err := dsql.Connect(ctx, config)
			require.ErrorContains(t, err, c.says)
			require.NoError(t, ctx.Err())
			require.Equal(t, int64(1), accepted.Load())
		})
	}
}

// No change to a ConnConfig makes it send plaintext or accept an unverified certificate.
func TestConnConfigKeepsTLS(t *testing.T) {
	for name, change := range map[string]func(*pgx.ConnConfig){
		"nil":           func(cc *pgx.ConnConfig) { cc.TLSConfig = nil },
		"unverified":    func(cc *pgx.ConnConfig) { cc.TLSConfig.InsecureSkipVerify = true },
		"old versions":  func(cc *pgx.ConnConfig) { cc.TLSConfig.MinVersion = tls.VersionTLS10 },
		"without SNI":   func(cc *pgx.ConnConfig) { cc.TLSConfig = &tls.Config{RootCAs: server.RootCAs()} },
		"plain dialler": func(cc *pgx.ConnConfig) { cc.TLSConfig, cc.DialFunc = nil, (&net.Dialer{}).DialContext },
		"plain fallback": func(cc *pgx.ConnConfig) {
			cc.TLSConfig.RootCAs = x509.NewCertPool()
			cc.Fallbacks = []*pgconn.FallbackConfig{{Host: cc.Host, Port: cc.Port}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			seen := &tap{}
			c := server.Config()
			c.DialFunc = seen.dial
			cc, err := c.ConnConfig(t.Context())
			require.NoError(t, err)
			change(cc)
			_, err = pgx.ConnectConfig(t.Context(), cc)
			require.ErrorContains(t, err, "TLS")
			require.NotContains(t, seen.bytes(), "admin")
		})
	}
}

// tap records what is written to the connections that it dials.
type tap struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

type tapConn struct {
	net.Conn
	tap *tap
}

func (t *tap) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	return &tapConn{conn, t}, err
}

func (c *tapConn) Write(b []byte) (int, error) {
	c.tap.mu.Lock()
	c.tap.buf.Write(b)
	c.tap.mu.Unlock()
	return c.Conn.Write(b)
}

func (t *tap) bytes() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.buf.String()
}

// Invalid sizes of a pool are errors of this package.
func TestPoolSizes(t *testing.T) {
	_, err := dsql.NewPool(t.Context(), server.Config(), func(p *pgxpool.Config) { p.MaxConns = 0 })
	require.ErrorIs(t, err, dsql.ErrConfig)
	require.ErrorContains(t, err, "tune: sets MaxConns to 0; set it to at least 1")

	c := server.Config()
	c.Params = map[string]string{"pool_max_conns": "0"}
	_, err = dsql.NewPool(t.Context(), c)
	require.ErrorIs(t, err, dsql.ErrConfig)
	require.ErrorContains(t, err, "Params: pool_max_conns too small; set it to at least 1")
}

// A caller whose context ends before ConnectTimeout gets only the context's error.
func TestPoolDeadlines(t *testing.T) {
	s := dsqltest.New(t, dsqltest.WithFaults(dsqltest.Always(dsqltest.Fault{Phase: dsqltest.OnAccept, Effect: dsqltest.Silence})))
	c := s.Config()
	c.ConnectTimeout = 500 * time.Millisecond
	pool, err := dsql.NewPool(t.Context(), c)
	require.NoError(t, err)
	defer pool.Close()

	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	require.EqualError(t, pool.Ping(ctx), "context deadline exceeded")

	ctx, cancel = context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	require.ErrorContains(t, pool.Ping(ctx), "dsql: TLS handshake failed")
}

func TestNewPoolSkipsNil(t *testing.T) {
	called := false
	pool, err := dsql.NewPool(t.Context(), server.Config(), nil, func(*pgxpool.Config) { called = true })
	require.NoError(t, err)
	pool.Close()
	require.True(t, called)
}

// The hooks that users set in tune work together with the login.
func TestTune(t *testing.T) {
	var afterNet, afterConnect, before, validated atomic.Int64
	var tracer countingTracer
	tuneConn := func(cc *pgx.ConnConfig) {
		previous := cc.AfterNetConnect // calling it, as with a plain ConnConfig, is allowed
		cc.AfterNetConnect = func(ctx context.Context, config *pgconn.Config, conn net.Conn) (net.Conn, error) {
			afterNet.Add(1)
			conn, err := previous(ctx, config, conn)
			return &tapConn{conn, &tracer.tap}, err
		}
		cc.ValidateConnect = func(context.Context, *pgconn.PgConn) error { validated.Add(1); return nil }
		cc.AfterConnect = func(context.Context, *pgconn.PgConn) error { afterConnect.Add(1); return nil }
		cc.Tracer = &tracer
	}

	conn, err := dsql.Connect(t.Context(), server.Config(), tuneConn)
	require.NoError(t, err)
	require.Equal(t, "admin", selectUser(t, conn))
	require.NoError(t, conn.Close(t.Context()))

	pool, err := dsql.NewPool(t.Context(), server.Config(), func(p *pgxpool.Config) {
		tuneConn(p.ConnConfig)
		p.BeforeConnect = func(context.Context, *pgx.ConnConfig) error { before.Add(1); return nil }
	})
	require.NoError(t, err)
	defer pool.Close()
	require.NoError(t, pool.Ping(t.Context()))

	db, err := dsql.OpenDB(t.Context(), server.Config(), tuneConn)
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.PingContext(t.Context()))

	require.EqualValues(t, 3, afterNet.Load())
	require.EqualValues(t, 3, validated.Load())
	require.EqualValues(t, 3, afterConnect.Load())
	require.EqualValues(t, 1, before.Load())
	require.EqualValues(t, 3, tracer.connects.Load())
	// Their conn sees the session in plaintext, but not the token.
	require.Contains(t, tracer.tap.bytes(), "select current_user")
	require.NotContains(t, tracer.tap.bytes(), "X-Amz")
}

type countingTracer struct {
	connects atomic.Int64
	tap      tap
}

func (c *countingTracer) TraceConnectStart(ctx context.Context, _ pgx.TraceConnectStartData) context.Context {
	return ctx
}
func (c *countingTracer) TraceConnectEnd(_ context.Context, d pgx.TraceConnectEndData) {
	if d.Err == nil {
		c.connects.Add(1)
	}
}
func (c *countingTracer) TraceQueryStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceQueryStartData) context.Context {
	return ctx
}
func (c *countingTracer) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// A change that the token does not fit is an error, and a user's check that fails is not retried.
func TestConnConfigChanged(t *testing.T) {
	for says, change := range map[string]func(*pgx.ConnConfig){
		"ConnConfig.User: ":      func(cc *pgx.ConnConfig) { cc.User = "app" },
		"ConnConfig.TLSConfig: ": func(cc *pgx.ConnConfig) { cc.TLSConfig.ServerName = privateName },
		"not the pinned one": func(cc *pgx.ConnConfig) {
			cc.TLSConfig.VerifyPeerCertificate = func([][]byte, [][]*x509.Certificate) error { return errors.New("not the pinned one") }
		},
	} {
		t.Run(says, func(t *testing.T) {
			c := server.Config()
			c.OnRetry = func(e dsql.RetryEvent) { t.Error("tried again: ", e.Err) }
			c.ConnectTimeout = 2 * time.Second
			cc, err := c.ConnConfig(t.Context())
			require.NoError(t, err)
			change(cc)
			_, err = pgx.ConnectConfig(t.Context(), cc)
			require.ErrorContains(t, err, says)
			require.Equal(t, strings.HasPrefix(says, "ConnConfig"), errors.Is(err, dsql.ErrConfig))
		})
	}
}

// The login cannot be omitted unnoticed.
func TestLoginCannotBeOmitted(t *testing.T) {
	t.Run("replaced in a ConnConfig", func(t *testing.T) {
		cc, err := server.Config().ConnConfig(t.Context())
		require.NoError(t, err)
		cc.AfterNetConnect = func(_ context.Context, _ *pgconn.Config, conn net.Conn) (net.Conn, error) { return conn, nil }
		_, err = pgx.ConnectConfig(t.Context(), cc)
		require.ErrorContains(t, err, "server requested password authentication")
	})
	t.Run("set to nil in tune", func(t *testing.T) {
		conn, err := dsql.Connect(t.Context(), server.Config(), func(cc *pgx.ConnConfig) { cc.AfterNetConnect = nil })
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
	})
	t.Run("returned no conn", func(t *testing.T) {
		_, err := dsql.Connect(t.Context(), server.Config(), func(cc *pgx.ConnConfig) {
			cc.AfterNetConnect = func(context.Context, *pgconn.Config, net.Conn) (net.Conn, error) { return nil, nil }
		})
		require.ErrorContains(t, err, "neither a connection nor an error")
	})
	t.Run("nothing to tune", func(t *testing.T) {
		conn, err := dsql.Connect(t.Context(), server.Config(), nil)
		require.NoError(t, err)
		require.NoError(t, conn.Close(t.Context()))
	})
	t.Run("failed in tune", func(t *testing.T) {
		refused := errors.New("not today")
		_, err := dsql.Connect(t.Context(), server.Config(), func(cc *pgx.ConnConfig) {
			cc.AfterNetConnect = func(context.Context, *pgconn.Config, net.Conn) (net.Conn, error) { return nil, refused }
		})
		require.ErrorIs(t, err, refused)
	})
	t.Run("another ConnConfig in the pool", func(t *testing.T) {
		_, err := dsql.NewPool(t.Context(), server.Config(), func(p *pgxpool.Config) {
			p.ConnConfig, _ = pgx.ParseConfig("host=localhost")
		})
		require.ErrorIs(t, err, dsql.ErrConfig)
	})
}

// A DialFunc that the user sets in the ConnConfig is used.
func TestConnConfigDialFunc(t *testing.T) {
	for _, negotiation := range []string{"direct", "postgres"} {
		cc, err := server.Config().ConnConfig(t.Context())
		require.NoError(t, err)
		var seen tap
		cc.DialFunc = seen.dial
		cc.SSLNegotiation = negotiation
		conn, err := pgx.ConnectConfig(t.Context(), cc)
		require.NoError(t, err)
		require.Equal(t, "admin", selectUser(t, conn))
		require.NoError(t, conn.Close(t.Context()))
		require.NotEmpty(t, seen.bytes())
	}
}

// A cancel request, on a connection of its own, ends a query at the server.
func TestCancelRequest(t *testing.T) {
	for _, negotiation := range []string{"direct", "postgres"} {
		c := server.Config()
		c.SSLNegotiation = negotiation
		conn, err := dsql.Connect(t.Context(), c)
		require.NoError(t, err)
		defer conn.Close(t.Context())
		attempts := attemptsFromNow()

		failed := make(chan error, 1)
		go func() {
			_, err := conn.Exec(t.Context(), "select pg_sleep(30)")
			failed <- err
		}()
		var pgErr *pgconn.PgError
		require.Eventually(t, func() bool {
			require.NoError(t, conn.PgConn().CancelRequest(t.Context()))
			select {
			case err := <-failed:
				require.ErrorAs(t, err, &pgErr)
				return true
			default:
				return false
			}
		}, 20*time.Second, 20*time.Millisecond)
		require.Equal(t, "57014", pgErr.Code)
		a := attempts()[0]
		require.True(t, a.Cancel)
		require.Equal(t, negotiation == "postgres", a.SSLRequest)
		require.Equal(t, publicName, a.ServerName)
		require.Equal(t, "admin", selectUser(t, conn), "the session goes on")
	}
}

// Cancel requests count as new connections, so that many at once do not use up the cluster's quota.
func TestCancelRequestsArePaced(t *testing.T) {
	s := dsqltest.New(t)
	c := s.Config()
	c.ConnectRate, c.ConnectBurst = 0.01, 2
	conn, err := dsql.Connect(t.Context(), c)
	require.NoError(t, err)
	defer conn.Close(t.Context())
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	require.NoError(t, conn.PgConn().CancelRequest(ctx))
	require.ErrorContains(t, conn.PgConn().CancelRequest(ctx), "too many new connections from this process")
	require.Len(t, s.Attempts(), 2)
}

// The login sends the startup message that pgx wrote, so a later pgx may write more parameters.
func TestConnectSendsPgxStartupMessage(t *testing.T) {
	for name, early := range map[string]bool{"token after it": false, "token with it": true} {
		t.Run(name, func(t *testing.T) {
			c := server.Config()
			c.EarlyAuth = early
			conn, err := dsql.Connect(t.Context(), c, func(cc *pgx.ConnConfig) {
				cc.BuildFrontend = func(r io.Reader, w io.Writer) *pgproto3.Frontend {
					return pgproto3.NewFrontend(r, &parameterAdder{Writer: w, name: "application_name", value: "a new pgx"})
				}
			})
			require.NoError(t, err)
			defer conn.Close(t.Context())
			var got string
			require.NoError(t, conn.QueryRow(t.Context(), "select current_setting('application_name')").Scan(&got))
			require.Equal(t, "a new pgx", got)
		})
	}
}

// parameterAdder adds a parameter to the startup message, which is written first.
type parameterAdder struct {
	io.Writer
	name, value string
	done        bool
}

func (p *parameterAdder) Write(b []byte) (int, error) {
	if p.done {
		return p.Writer.Write(b)
	}
	p.done = true
	var startup pgproto3.StartupMessage
	if err := startup.Decode(b[4:]); err != nil {
		return 0, err
	}
	startup.Parameters[p.name] = p.value
	message, err := startup.Encode(nil)
	if err != nil {
		return 0, err
	}
	_, err = p.Writer.Write(message)
	return len(b), err
}

// The error of a connect is this package's, behind what pgx says. It names none of pgx's hooks, and is
// not safe to retry without a new connect. pgx would send a cancel request after a failed login.
func TestConnectError(t *testing.T) {
	s := dsqltest.New(t)
	s.RefuseNext(len(connectFuncs), dsqltest.RefuseAccess)
	for name, connect := range connectFuncs {
		before := len(s.Attempts())
		_, err := connect(t.Context(), s.Config(), 42)
		require.ErrorContains(t, err, "failed to receive message: dsql: access denied: "+s.Addr(), name)
		require.NotContains(t, err.Error(), "AfterNetConnect")
		require.False(t, pgconn.SafeToRetry(err))
		var failed *pgconn.ConnectError
		require.ErrorAs(t, err, &failed)
		require.Len(t, s.Attempts()[before:], 1)
	}
	// A login that works shows that the server has seen no other connection meanwhile.
	before := len(s.Attempts())
	_, err := connectFuncs["Connect"](t.Context(), s.Config(), 42)
	require.NoError(t, err)
	require.Len(t, s.Attempts()[before:], 1)
}

func TestConfigIsNotChanged(t *testing.T) {
	c := server.Config()
	c.Params = map[string]string{"search_path": "public"}
	cc, err := c.ConnConfig(t.Context())
	require.NoError(t, err)
	cc.RuntimeParams["application_name"] = "changed"
	require.Equal(t, map[string]string{"search_path": "public"}, c.Params)
	other, err := c.ConnConfig(t.Context())
	require.NoError(t, err)
	require.NotContains(t, other.RuntimeParams, "application_name")
}

func BenchmarkConnConfig(b *testing.B) {
	c := dsql.Config{Host: publicName, Credentials: server.Config().Credentials}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.ConnConfig(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}
