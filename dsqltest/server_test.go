package dsqltest

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

// connConfig leads pgx to the server by the cluster's public name, with a
// fresh token, through direct TLS.
func connConfig(tb testing.TB, s *Server, user string) *pgx.ConnConfig {
	tb.Helper()
	config, err := pgx.ParseConfig("postgres://" + user + "@" + s.Addr() + "/postgres?sslmode=require&sslnegotiation=direct")
	require.NoError(tb, err)
	config.TLSConfig = clientTLS(s, s.Endpoint())
	config.Password = sign(tb, s, signing{user: user})
	config.Fallbacks = nil
	return config
}

func clientTLS(s *Server, serverName string) *tls.Config {
	return &tls.Config{RootCAs: s.RootCAs(), ServerName: serverName, NextProtos: []string{alpnProtocol}}
}

func connect(tb testing.TB, config *pgx.ConnConfig) *pgx.Conn {
	tb.Helper()
	conn, err := pgx.ConnectConfig(tb.Context(), config)
	require.NoError(tb, err)
	tb.Cleanup(func() { conn.Close(context.Background()) })
	return conn
}

func queryString(tb testing.TB, conn *pgx.Conn, sql string) (value string) {
	tb.Helper()
	require.NoError(tb, conn.QueryRow(tb.Context(), sql).Scan(&value))
	return value
}

// lastAttempt waits until the newest attempt has an outcome.
func lastAttempt(tb testing.TB, s *Server) (last Attempt) {
	tb.Helper()
	require.Eventually(tb, func() bool {
		attempts := s.Attempts()
		last = attempts[len(attempts)-1]
		return last.Outcome != ""
	}, 10*time.Second, time.Millisecond)
	return last
}

func TestOptions(t *testing.T) {
	for name, tt := range map[string]struct {
		opt  Option
		want string
	}{
		"cluster ID":     {WithClusterID("ABC"), "WithClusterID"},
		"region":         {WithRegion("us east"), "WithRegion"},
		"no hyphen":      {WithRegion("useast1"), "WithRegion"},
		"two parts":      {WithRegion("east-1"), "WithRegion"},
		"a zone":         {WithRegion("us-east-1a"), "WithRegion"},
		"suffix":         {WithPrivateLinkSuffix(""), "WithPrivateLinkSuffix"},
		"VPC endpoint":   {WithVPCEndpoint("vpce-1.dsql-other.us-east-1.vpce.amazonaws.com"), "WithVPCEndpoint"},
		"no vpce":        {WithVPCEndpoint("x.dsql-fnh4.us-east-1.vpce.amazonaws.com"), "WithVPCEndpoint"},
		"superuser":      {WithRoles("app", "postgres"), "WithRoles"},
		"admin":          {WithRoles("admin"), "WithRoles"},
		"reserved role":  {WithRoles("pg_monitor"), "WithRoles"},
		"empty role":     {WithRoles(""), "WithRoles"},
		"long role":      {WithRoles(strings.Repeat("r", 64)), "WithRoles"},
		"clock":          {WithClock(nil), "WithClock"},
		"no FS":          {WithSchema(nil, "*.sql"), "WithSchema"},
		"no pattern":     {WithSchema(nil, ""), "WithSchema"},
		"every address":  {WithAddress(":0"), "WithAddress"},
		"wildcard":       {WithAddress("0.0.0.0:0"), "WithAddress"},
		"other address":  {WithAddress("192.0.2.1:0"), "WithAddress"},
		"other name":     {WithAddress("example.com:0"), "WithAddress"},
		"no port":        {WithAddress("127.0.0.1"), "WithAddress"},
		"looks loopback": {WithAddress("127.0.0.1.example.com:0"), "WithAddress"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := Start(t.Context(), tt.opt)
			require.ErrorContains(t, err, "dsqltest: "+tt.want+": ")
		})
	}
}

func TestNames(t *testing.T) {
	s := unstarted(t)
	require.Regexp(t, `^[a-z0-9]{26}$`, s.ClusterID())
	require.NotEqual(t, s.ClusterID(), unstarted(t).ClusterID())
	require.Equal(t, s.ClusterID()+".dsql.us-east-1.on.aws", s.Endpoint())
	require.Equal(t, s.ClusterID()+".dsql-fnh4.us-east-1.on.aws", s.PrivateEndpoint())
	require.Regexp(t, `^vpce-[0-9a-f]{17}-[a-z0-9]{8}\.dsql-fnh4\.us-east-1\.vpce\.amazonaws\.com$`, s.VPCEndpoint())

	s = unstarted(t, WithRegion("cn-north-1"), WithPrivateLinkSuffix("ab1c"))
	require.Regexp(t, `\.dsql-ab1c\.cn-north-1\.vpce\.amazonaws\.com\.cn$`, s.VPCEndpoint())

	require.Contains(t, unstarted(t, WithRegion("us-gov-west-1")).Endpoint(), ".dsql.us-gov-west-1.on.aws")

	// The case that was reported, under its own names.
	s = unstarted(t, WithClusterID("vftmkydwxvxys6asbsc6ih2the"), WithVPCEndpoint("vpce-07acca8bd8980c621-nruuwp08.dsql-fnh4.us-east-1.vpce.amazonaws.com"))
	require.Equal(t, "vftmkydwxvxys6asbsc6ih2the.dsql-fnh4.us-east-1.on.aws", s.PrivateEndpoint())
}

func TestServer(t *testing.T) {
	s := New(t, WithRoles("app", `od"d 'rôle`))

	t.Run("Config", func(t *testing.T) {
		config := s.Config()
		require.Equal(t, s.Endpoint(), config.Host)
		require.Equal(t, s.Addr(), config.DialAddress)
		require.True(t, s.RootCAs().Equal(config.RootCAs))
		credentials, err := config.Credentials.Retrieve(t.Context())
		require.NoError(t, err)
		require.Equal(t, s.Credentials(), credentials)
		require.Len(t, credentials.AccessKeyID, 20)
		require.Len(t, credentials.SecretAccessKey, 40)
	})

	t.Run("shows no secret", func(t *testing.T) {
		marshalled, err := json.Marshal([]any{s, s.Config().Host, s.Attempts()})
		require.NoError(t, err)
		for _, text := range []string{fmt.Sprint(s), fmt.Sprintf("%+v %#v %s %+v", s, s, s, s.Config()), string(marshalled)} {
			require.NotContains(t, text, s.Credentials().SecretAccessKey)
		}
	})

	t.Run("roles", func(t *testing.T) {
		admin := connect(t, connConfig(t, s, adminRole))
		require.Equal(t, "admin false", queryString(t, admin, "select current_user || ' ' || usesuper from pg_user where usename = current_user"))
		for _, sql := range []string{
			"create table t (id int)", "create schema s", "create role other login",
			`grant select on t to "od""d 'rôle"`,
		} {
			_, err := admin.Exec(t.Context(), sql)
			require.NoError(t, err, sql)
		}
		_, err := admin.Exec(t.Context(), "create role boss superuser")
		require.ErrorContains(t, err, "42501")

		config := connConfig(t, s, "app")
		config.User = `od"d 'rôle`
		odd := connect(t, config)
		require.Equal(t, config.User, queryString(t, odd, "select current_user"))
		_, err = odd.Exec(t.Context(), "table t")
		require.NoError(t, err)
		_, err = connect(t, connConfig(t, s, "app")).Exec(t.Context(), "table t")
		require.ErrorContains(t, err, "42501")
	})

	t.Run("AllowKey", func(t *testing.T) {
		s.AllowKey("ASIAX", "secret", "session")
		config := connConfig(t, s, adminRole)
		config.Password = sign(t, s, signing{credentials: aws.Credentials{AccessKeyID: "ASIAX", SecretAccessKey: "secret", SessionToken: "session"}})
		connect(t, config)
	})
}

// A data directory keeps what was written, and a second start on it finds the
// roles there.
func TestDataDir(t *testing.T) {
	dir := newDataDir(t)
	first := New(t, WithDataDir(dir), WithRoles("app"))
	setup := connect(t, connConfig(t, first, adminRole))
	mustExec(t, setup, "create table kept (n int)")
	mustExec(t, setup, "insert into kept values (42)")
	require.NoError(t, first.Close())

	second := New(t, WithDataDir(dir), WithRoles("app", "another"))
	require.Equal(t, "42", queryString(t, connect(t, connConfig(t, second, adminRole)), "select n::text from kept"))
	config := connConfig(t, second, "app")
	config.User = "another"
	connect(t, config)
}

func TestStartCancelled(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := Start(ctx)
	require.ErrorIs(t, err, context.Canceled)
	goleak.VerifyNone(t, ignore)
}

func TestAddressInUse(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	_, err = Start(t.Context(), WithAddress(listener.Addr().String()))
	require.ErrorContains(t, err, "dsqltest: WithAddress: ")
}

// Close ends sessions in every phase and leaves nothing behind.
func TestClose(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	s, err := Start(t.Context())
	require.NoError(t, err)

	silent, err := net.Dial("tcp", s.Addr())
	require.NoError(t, err)
	defer silent.Close()
	secured, _ := dialTLS(t, s, s.Endpoint())
	idle, err := pgx.ConnectConfig(t.Context(), connConfig(t, s, adminRole))
	require.NoError(t, err)
	busy, err := pgx.ConnectConfig(t.Context(), connConfig(t, s, adminRole))
	require.NoError(t, err)
	ended := make(chan error, 1)
	go func() {
		_, err := busy.Exec(context.Background(), "select pg_sleep(60)")
		ended <- err
	}()
	watcher, err := pgx.ConnectConfig(t.Context(), connConfig(t, s, adminRole))
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		return queryString(t, watcher, "select count(*)::text from pg_stat_activity where query like 'select pg_sleep%'") == "1"
	}, 10*time.Second, 10*time.Millisecond)

	start := time.Now()
	require.NoError(t, s.Close())
	require.Less(t, time.Since(start), 10*time.Second)
	require.Error(t, <-ended)
	require.NoError(t, s.Close())
	_, err = net.Dial("tcp", s.Addr())
	require.Error(t, err)
	require.Len(t, s.Attempts(), 5)
	require.Error(t, idle.Ping(context.Background()))
	watcher.Close(context.Background())
	secured.Close()
	goleak.VerifyNone(t, ignore)
}

func TestKeptAttempts(t *testing.T) {
	s := unstarted(t)
	for i := range keptAttempts + 1 {
		s.newAttempt(fmt.Sprint(i))
	}
	attempts := s.Attempts()
	require.Len(t, attempts, keptAttempts/2+1)
	require.Equal(t, fmt.Sprint(keptAttempts), attempts[len(attempts)-1].Address)
}

// dialTLS begins with TLS and leaves the login to the test.
func dialTLS(tb testing.TB, s *Server, serverName string) (*tls.Conn, *pgproto3.Frontend) {
	tb.Helper()
	config := clientTLS(s, serverName)
	// Names that no certificate covers are tested too.
	config.InsecureSkipVerify = true
	conn, err := tls.Dial("tcp", s.Addr(), config)
	require.NoError(tb, err)
	tb.Cleanup(func() { conn.Close() })
	require.NoError(tb, conn.SetDeadline(time.Now().Add(time.Minute)))
	return conn, pgproto3.NewFrontend(conn, conn)
}
