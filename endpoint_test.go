package dsql

import (
	"errors"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	testID   = "vftmkydwxvxys6asbsc6ih2the"
	otherID  = "aaaaaaaaaaaaaaaaaaaaaaaaaa"
	public   = testID + ".dsql.us-east-1.on.aws"
	private  = testID + ".dsql-fnh4.us-east-1.on.aws"
	vpce     = "vpce-07acca8bd8980c621-nruuwp08.dsql-fnh4.us-east-1.vpce.amazonaws.com"
	vpceZone = "vpce-07acca8bd8980c621-nruuwp08-us-east-1a.dsql-fnh4.us-east-1.vpce.amazonaws.com"
	vpceCN   = "vpce-07acca8bd8980c621-nruuwp08.dsql-fnh4.cn-north-1.vpce.amazonaws.com.cn"
)

func regionIs(region string) func() (string, error) {
	return func() (string, error) { return region, nil }
}

func TestEndpointForms(t *testing.T) {
	cases := map[string]struct {
		config    Config
		awsRegion string
		dial, sni string
		region    string
	}{
		"public endpoint":                {Config{Host: public}, "", public + ":5432", public, "us-east-1"},
		"public, ID repeated":            {Config{Host: public, ClusterID: testID, Region: "us-east-1"}, "eu-west-1", public + ":5432", public, "us-east-1"},
		"private DNS name":               {Config{Host: private}, "", private + ":5432", private, "us-east-1"},
		"VPC endpoint":                   {Config{Host: vpce, ClusterID: testID}, "", vpce + ":5432", private, "us-east-1"},
		"VPC endpoint of a zone":         {Config{Host: vpceZone, ClusterID: testID}, "", vpceZone + ":5432", private, "us-east-1"},
		"VPC endpoint in China":          {Config{Host: vpceCN, ClusterID: testID}, "", vpceCN + ":5432", testID + ".dsql-fnh4.cn-north-1.on.aws", "cn-north-1"},
		"VPC endpoint, ServerName":       {Config{Host: vpce, ServerName: public}, "", vpce + ":5432", public, "us-east-1"},
		"cluster ID and Region":          {Config{Host: testID, Region: "eu-west-1"}, "", testID + ".dsql.eu-west-1.on.aws:5432", testID + ".dsql.eu-west-1.on.aws", "eu-west-1"},
		"cluster ID, AWS region":         {Config{Host: testID}, "eu-west-1", testID + ".dsql.eu-west-1.on.aws:5432", testID + ".dsql.eu-west-1.on.aws", "eu-west-1"},
		"IPv4":                           {Config{Host: "10.1.2.3", ClusterID: testID, Region: "us-east-1"}, "", "10.1.2.3:5432", public, "us-east-1"},
		"IPv6":                           {Config{Host: "fd00::1", ClusterID: testID, Region: "us-east-1"}, "", "[fd00::1]:5432", public, "us-east-1"},
		"IPv6 in brackets":               {Config{Host: "[FD00::1]:6432", ClusterID: testID, Region: "us-east-1"}, "", "[fd00::1]:6432", public, "us-east-1"},
		"IP and ServerName":              {Config{Host: "10.1.2.3", ServerName: private}, "", "10.1.2.3:5432", private, "us-east-1"},
		"tunnel by DialAddress":          {Config{Host: public, DialAddress: "localhost:15432"}, "", "localhost:15432", public, "us-east-1"},
		"tunnel, no port":                {Config{Host: public, Port: 6000, DialAddress: "127.0.0.1"}, "", "127.0.0.1:6000", public, "us-east-1"},
		"tunnel to a VPC endpoint":       {Config{Host: vpce, ClusterID: testID, DialAddress: "[::1]:15432"}, "", "[::1]:15432", private, "us-east-1"},
		"tunnel as Host":                 {Config{Host: "localhost", Port: 15432, ClusterID: testID, Region: "us-east-1"}, "", "localhost:15432", public, "us-east-1"},
		"a host named arn":               {Config{Host: "arn:6432", ClusterID: testID, Region: "us-east-1"}, "", "arn:6432", public, "us-east-1"},
		"WebSocket":                      {Config{Host: public, Transport: "websocket"}, "", public + ":443", public, "us-east-1"},
		"WebSocket to a VPC endpoint":    {Config{Host: vpce, ClusterID: testID, Transport: "websocket"}, "", vpce + ":443", private, "us-east-1"},
		"WebSocket, another port":        {Config{Host: public, Port: 8443, Transport: "websocket"}, "", public + ":8443", public, "us-east-1"},
		"WebSocket by a tunnel":          {Config{Host: public, DialAddress: "localhost:5432", Transport: "websocket"}, "", "localhost:5432", public, "us-east-1"},
		"WebSocket, DialAddress alone":   {Config{Host: public, DialAddress: "localhost", Transport: "websocket"}, "", "localhost:443", public, "us-east-1"},
		"auto":                           {Config{Host: public, Transport: "auto"}, "", public + ":5432", public, "us-east-1"},
		"own CNAME":                      {Config{Host: "db.example.com", ClusterID: testID}, "us-west-2", "db.example.com:5432", testID + ".dsql.us-west-2.on.aws", "us-west-2"},
		"ServerName elsewhere":           {Config{Host: "db.example.com", ServerName: testID + ".dsql.cn-north-1.example.cn", Region: "cn-north-1"}, "", "db.example.com:5432", testID + ".dsql.cn-north-1.example.cn", "cn-north-1"},
		"case, dots and space":           {Config{Host: " " + strings.ToUpper(public) + ". ", ClusterID: strings.ToUpper(testID), Region: " US-EAST-1 "}, "", public + ":5432", public, "us-east-1"},
		"port in Host":                   {Config{Host: public + ":6432"}, "", public + ":6432", public, "us-east-1"},
		"dot and port in Host":           {Config{Host: public + ".:6432"}, "", public + ":6432", public, "us-east-1"},
		"port in Host and Port":          {Config{Host: public + ":6432", Port: 6432}, "", public + ":6432", public, "us-east-1"},
		"cluster ID with a port":         {Config{Host: testID + ":6432", Region: "us-east-1"}, "", public + ":6432", public, "us-east-1"},
		"region of a government's cloud": {Config{Host: testID, Region: "us-gov-west-1"}, "", testID + ".dsql.us-gov-west-1.on.aws:5432", testID + ".dsql.us-gov-west-1.on.aws", "us-gov-west-1"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			e, err := resolveNames(c.config, regionIs(c.awsRegion))
			require.NoError(t, err)
			require.Equal(t, Endpoint{DialAddress: c.dial, ServerName: c.sni, Region: c.region, ClusterID: testID}, e)
		})
	}
}

func TestEndpointErrors(t *testing.T) {
	cases := map[string]struct {
		config Config
		says   []string // the field first, then the way out
	}{
		"no host":                     {Config{}, []string{"Host: is empty", "set it to the cluster endpoint"}},
		"blank host":                  {Config{Host: " "}, []string{"Host: is empty"}},
		"VPC endpoint, no cluster":    {Config{Host: vpce}, []string{"ClusterID: is empty", "VPC endpoint", "set ClusterID"}},
		"IP, no cluster":              {Config{Host: "10.1.2.3"}, []string{"ClusterID: is empty", "10.1.2.3", "set ClusterID and Region"}},
		"short ID":                    {Config{Host: vpce, ClusterID: "abc"}, []string{"ClusterID: ", `"abc"`, "26"}},
		"long ID":                     {Config{Host: vpce, ClusterID: testID + "x"}, []string{"ClusterID: ", "26"}},
		"endpoint as ID":              {Config{Host: vpce, ClusterID: public}, []string{"ClusterID: ", "26"}},
		"short ID in Host":            {Config{Host: "abc.dsql.us-east-1.on.aws"}, []string{"Host: ", `"abc"`, "26"}},
		"ID contradicts":              {Config{Host: public, ClusterID: otherID}, []string{"ClusterID: ", otherID, testID, "make them agree"}},
		"Region contradicts":          {Config{Host: public, Region: "eu-west-1"}, []string{"Region: ", "eu-west-1", "us-east-1", "make them agree"}},
		"Region contradicts a vpce":   {Config{Host: vpce, ClusterID: testID, Region: "eu-west-1"}, []string{"Region: ", "eu-west-1"}},
		"ServerName contradicts":      {Config{Host: public, ServerName: otherID + ".dsql.us-east-1.on.aws"}, []string{"ClusterID: ", "ServerName"}},
		"no region":                   {Config{Host: testID}, []string{"Region: is empty", "set Region, AWS_REGION"}},
		"no region for an IP":         {Config{Host: "10.1.2.3", ClusterID: testID}, []string{"Region: is empty"}},
		"bad region":                  {Config{Host: testID, Region: "Virginia"}, []string{"Region: ", "Virginia", "us-east-1"}},
		"ServerName is a vpce":        {Config{Host: public, ServerName: vpce}, []string{"ServerName: ", "<id>.dsql"}},
		"ServerName is an IP":         {Config{Host: public, ServerName: "10.1.2.3"}, []string{"ServerName: "}},
		"ServerName has a port":       {Config{Host: public, ServerName: public + ":5432"}, []string{"ServerName: ", "port"}},
		"ServerName is a bare ID":     {Config{Host: public, ServerName: testID}, []string{"ServerName: "}},
		"5432 for a WebSocket":        {Config{Host: public, Port: 5432, Transport: "websocket"}, []string{"Port: is 5432", "443"}},
		"ports contradict":            {Config{Host: public + ":6432", Port: 5432}, []string{"Port: ", "6432", "5432"}},
		"port 0":                      {Config{Host: public + ":0"}, []string{"Host: ", "1 to 65535"}},
		"port 70000":                  {Config{Host: public + ":70000"}, []string{"Host: ", "1 to 65535"}},
		"no port behind the colon":    {Config{Host: public + ":"}, []string{"Host: ", "1 to 65535"}},
		"URL":                         {Config{Host: "postgres://admin:hunter2@" + public}, []string{"Host: ", "ParseConfig"}},
		"path":                        {Config{Host: "/var/run/postgresql"}, []string{"Host: ", "slash"}},
		"two hosts":                   {Config{Host: public + "," + private}, []string{"Host: ", "more than one"}},
		"bracket":                     {Config{Host: "[::1"}, []string{"Host: ", "bracket"}},
		"IPv4 in brackets":            {Config{Host: "[10.0.0.1]:5432"}, []string{"Host: ", "IPv6"}},
		"junk behind the bracket":     {Config{Host: "[::1]x"}, []string{"Host: "}},
		"mistyped IPv4":               {Config{Host: "10.0.0.256", ClusterID: testID, Region: "us-east-1"}, []string{"Host: ", "IPv4"}},
		"two colons":                  {Config{Host: "a:b:c"}, []string{"Host: "}},
		"ARN":                         {Config{Host: "arn:aws:dsql:us-east-1:123456789012:cluster/" + testID}, []string{"Host: is an ARN", "<id>.dsql.<region>.on.aws"}},
		"ARN in capitals":             {Config{Host: "ARN:AWS:dsql:us-east-1:123456789012:cluster/" + testID}, []string{"Host: is an ARN"}},
		"a port alone":                {Config{Host: ":5432"}, []string{"Host: has no host", "localhost:15432"}},
		"space inside":                {Config{Host: "a b.example.com"}, []string{"Host: "}},
		"other service":               {Config{Host: testID + ".rds.us-east-1.on.aws"}, []string{"Host: ", "not a DSQL endpoint"}},
		"other VPC endpoint":          {Config{Host: "vpce-07acca8bd8980c621-nruuwp08.rds.us-east-1.vpce.amazonaws.com", ClusterID: testID}, []string{"Host: ", "not a VPC endpoint for DSQL"}},
		"control plane VPC endpoint":  {Config{Host: "vpce-07acca8bd8980c621-nruuwp08.dsql.us-east-1.vpce.amazonaws.com", ClusterID: testID}, []string{"Host: ", "not a VPC endpoint for DSQL"}},
		"DialAddress with a bad port": {Config{Host: public, DialAddress: "localhost:99999"}, []string{"DialAddress: ", "1 to 65535"}},
		"DialAddress is a URL":        {Config{Host: public, DialAddress: "tcp://hunter2@localhost:1"}, []string{"DialAddress: ", "host:port", "localhost:15432"}},
		"DialAddress has a user":      {Config{Host: public, DialAddress: "u:hunter2@localhost:1"}, []string{"DialAddress: ", "host:port", "localhost:15432"}},
		"DialAddress lacks its host":  {Config{Host: public, DialAddress: ":15432"}, []string{"DialAddress: has no host", "localhost:15432"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := resolveNames(c.config, regionIs(""))
			require.ErrorIs(t, err, ErrConfig)
			text := strings.TrimPrefix(err.Error(), ErrConfig.Error()+": ")
			require.True(t, strings.HasPrefix(text, c.says[0]), "%q begins with %q", text, c.says[0])
			for _, says := range c.says {
				require.Contains(t, text, says)
			}
			require.NotContains(t, text, "hunter2")
		})
	}
}

func TestEndpointRegionOnlyWhenNeeded(t *testing.T) {
	broken := func() (string, error) { return "", errors.New("asked") }
	_, err := resolveNames(Config{Host: public}, broken)
	require.NoError(t, err)
	_, err = resolveNames(Config{Host: testID}, broken)
	require.EqualError(t, err, "asked")
	_, err = resolveNames(Config{Host: testID}, regionIs("nowhere"))
	require.ErrorIs(t, err, ErrConfig)
}

// FuzzEndpoint: no input panics; what is accepted has a usable SNI; and what
// came out, put in again, comes out the same.
func FuzzEndpoint(f *testing.F) {
	for _, host := range []string{public, private, vpce, vpceZone, vpceCN, testID, "10.1.2.3", "[::1]:5432", "fe80::1%eth0", "db.example.com:1", "", "[", ":", "a:1:2", public + "."} {
		f.Add(host, "", "", "", "", uint16(0))
		f.Add(host, testID, "us-east-1", "", "", uint16(5432))
		f.Add(host, testID, "", "localhost:15432", private, uint16(1))
	}
	f.Fuzz(func(t *testing.T, host, id, region, dial, serverName string, port uint16) {
		c := Config{Host: host, ClusterID: id, Region: region, DialAddress: dial, ServerName: serverName, Port: port}
		e, err := resolveNames(c, regionIs("eu-west-1"))
		if err != nil {
			require.ErrorIs(t, err, ErrConfig)
			return
		}
		first, rest, _ := strings.Cut(e.ServerName, ".")
		require.Equal(t, e.ClusterID, first)
		require.NotEmpty(t, rest)
		require.Nil(t, net.ParseIP(e.ServerName))
		require.NotContains(t, e.ServerName, "vpce")
		require.Len(t, e.ClusterID, 26)
		_, dialPort, err := net.SplitHostPort(e.DialAddress)
		require.NoError(t, err)
		require.NotEqual(t, "0", dialPort)

		again, err := resolveNames(Config{Host: e.DialAddress, ClusterID: e.ClusterID, Region: e.Region, ServerName: e.ServerName}, regionIs(""))
		require.NoError(t, err)
		require.Equal(t, e, again)
	})
}
