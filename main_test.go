package dsql_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

// The cluster, endpoint and user of the first bug report.
const (
	reportID   = "vftmkydwxvxys6asbsc6ih2the"
	reportHost = "vpce-07acca8bd8980c621-nruuwp08.dsql-fnh4.us-east-1.vpce.amazonaws.com"
	reportUser = "lambda_dsql_user"

	publicName  = reportID + ".dsql.us-east-1.on.aws"
	privateName = reportID + ".dsql-fnh4.us-east-1.on.aws"
)

// server is shared by the tests of this package. Tests that count connections use attemptsFromNow.
var server *dsqltest.Server

// awsEnvironment is the environment in which the tests were started.
var awsEnvironment = map[string]string{}

// Some tests run this program again, as a process of its own: childVariable then names the func.
const childVariable = "DSQL_TEST_CHILD"

var childProcesses = map[string]func() int{}

func TestMain(m *testing.M) {
	if child := childProcesses[os.Getenv(childVariable)]; child != nil {
		os.Exit(child())
	}
	os.Exit(run(m))
}

func run(m *testing.M) int {
	// Only TestLive may use the network or the AWS settings of the machine.
	for _, name := range []string{"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_REGION"} {
		awsEnvironment[name] = os.Getenv(name)
	}
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
		"AWS_PROFILE": "", "AWS_REGION": "", "AWS_DEFAULT_REGION": "", "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_SESSION_TOKEN": "",
	} {
		os.Setenv(name, value)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	var err error
	if server, err = dsqltest.Start(ctx, dsqltest.WithClusterID(reportID), dsqltest.WithRoles("app", reportUser)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	code := m.Run()
	if err := server.Close(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	if err := goleak.Find(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	return code
}

// recordingDialer records the addresses that it is asked to dial, and dials server.
type recordingDialer struct {
	mu        sync.Mutex
	addresses []string
}

func (d *recordingDialer) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	d.addresses = append(d.addresses, address)
	d.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, network, server.Addr())
}

func (d *recordingDialer) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.addresses)
}

// attemptsFromNow returns a func that returns the attempts at server since this call.
func attemptsFromNow() func() []dsqltest.Attempt {
	before := len(server.Attempts())
	return func() []dsqltest.Attempt { return server.Attempts()[before:] }
}

// configWithoutNames returns server's Config without a host, with d as its dialer.
func configWithoutNames(d *recordingDialer) dsql.Config {
	c := server.Config()
	c.Host, c.DialAddress, c.DialFunc = "", "", d.dial
	return c
}

func selectUser(t *testing.T, conn *pgx.Conn) string {
	t.Helper()
	var user string
	require.NoError(t, conn.QueryRow(t.Context(), "select current_user").Scan(&user))
	return user
}

// table creates a table, which is dropped at the end of the test.
func table(t *testing.T, columns string) string {
	t.Helper()
	name := "t" + fmt.Sprint(time.Now().UnixNano())
	conn, err := dsql.Connect(t.Context(), server.Config())
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := conn.Exec(context.Background(), "drop table "+name)
		require.NoError(t, err)
		require.NoError(t, conn.Close(context.Background()))
	})
	_, err = conn.Exec(t.Context(), "create table "+name+" ("+columns+")")
	require.NoError(t, err)
	return name
}
