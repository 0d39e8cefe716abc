package dsqldoctor_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

// The case of the first report, whole: its cluster, endpoint and user.
const (
	reportID   = "vftmkydwxvxys6asbsc6ih2the"
	reportHost = "vpce-07acca8bd8980c621-nruuwp08.dsql-fnh4.us-east-1.vpce.amazonaws.com"
	reportUser = "lambda_dsql_user"

	publicName  = reportID + ".dsql.us-east-1.on.aws"
	privateName = reportID + ".dsql-fnh4.us-east-1.on.aws"
)

// server is what the tests of this package share.
var server *dsqltest.Server

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	// No test may ask the network or the machine it runs on.
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

// dialled records the addresses that a Config dials, and leads them all to server.
type dialled struct {
	mu        sync.Mutex
	addresses []string
}

func (d *dialled) dial(ctx context.Context, network, address string) (net.Conn, error) {
	d.mu.Lock()
	d.addresses = append(d.addresses, address)
	d.mu.Unlock()
	return new(net.Dialer).DialContext(ctx, network, server.Addr())
}

func (d *dialled) all() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.addresses)
}

// throughNames is server's Config without what it says of names and addresses.
func throughNames(d *dialled) dsql.Config {
	c := server.Config()
	c.Host, c.DialAddress, c.DialFunc = "", "", d.dial
	return c
}
