package dsqldoctor

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/internal/configerr"
)

// testConfig resolves the names in the Config and checks its other fields. It returns false if
// there is nothing to connect to. Wrong fields that a connection does not need are dropped, so that
// the later steps work.
func (d *diagnosis) testConfig(ctx context.Context) bool {
	c := &d.config
	d.target.User, d.target.Database, d.target.Action = cmp.Or(c.User, adminUser), cmp.Or(c.Database, defaultDatabase), "DbConnect"
	if d.target.User == adminUser {
		d.target.Action = "DbConnectAdmin"
	}
	if c.Transport == transportWebSocket || c.Transport == transportAuto {
		d.transport = c.Transport
	}
	d.directTLS, d.ownRoots, d.assumedRole = c.SSLNegotiation != "postgres", c.RootCAs != nil, c.RoleARN

	e, f := start(ctx, d, d.limits.step, func(ctx context.Context) (dsql.Endpoint, finding) {
		e, err := c.Endpoint(ctx)
		return e, newFinding("", err)
	})()
	if !f.ok() {
		d.configErr = f.err // nil if there was no time
		d.recordFinding(stepConfig, f, "")
		return false
	}
	d.target.Host, d.target.DialAddress, d.target.ServerName = strings.TrimSpace(c.Host), e.DialAddress, e.ServerName
	d.target.Region, d.target.ClusterID = e.Region, e.ClusterID
	d.prober.serverName, d.prober.user = e.ServerName, d.target.User

	_, err := withCredentials(*c, e.Region, aws.Credentials{}).PoolConfig(ctx)
	switch {
	case err != nil:
		*c = withoutOptions(*c)
	case d.target.Database != defaultDatabase:
		err = configerr.New("Database", "is %q, and DSQL has one database, postgres; leave it empty, and use schemas to keep applications apart (search_path)", c.Database)
	}
	d.resolveWebSocket(ctx, *c)
	c.Database, c.Transport = "", ""
	d.configErr = err
	s := Step{Name: stepConfig, Result: StepOK, Took: f.took}
	s.Seen = fmt.Sprintf("dials %s%s, sends %s as SNI and token host; region %s, user %s, action %s",
		e.DialAddress, d.describeTransport(), e.ServerName, e.Region, d.target.User, d.target.Action)
	if err != nil {
		s.Result, s.Means = StepFailed, strings.TrimPrefix(err.Error(), dsql.ErrConfig.Error()+": ")
	}
	d.record(s)
	return true
}

// describeTransport says which transport the Config asks for, if that is not TCP.
func (d *diagnosis) describeTransport() string {
	switch d.transport {
	case transportWebSocket:
		return " for a WebSocket"
	case transportAuto:
		return ", or " + d.webSocket.address + " for a WebSocket"
	}
	return ""
}

// withoutOptions keeps the fields of c that a connection needs.
func withoutOptions(c dsql.Config) dsql.Config {
	kept := dsql.Config{
		Host: c.Host, Port: c.Port, ClusterID: c.ClusterID, Region: c.Region,
		DialAddress: c.DialAddress, ServerName: c.ServerName, User: c.User,
		Credentials: c.Credentials, Profile: c.Profile, RoleARN: c.RoleARN,
		RootCAs: c.RootCAs, DialFunc: c.DialFunc,
	}
	if c.RoleARN != "" {
		kept.RoleSessionName, kept.ExternalID = c.RoleSessionName, c.ExternalID
	}
	return kept
}

// withCredentials returns a Config that needs nothing from the AWS environment. It opens
// connections without pacing, since a pacer would be shared with the connections of this process.
func withCredentials(c dsql.Config, region string, credentials aws.Credentials) dsql.Config {
	c.Region = region
	c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return credentials, nil })
	if c.RoleARN != "" {
		c.RoleARN, c.RoleSessionName, c.ExternalID = "", "", ""
	} // else the other two are errors, which must show
	c.Profile = ""
	if !math.IsNaN(c.ConnectRate) && !math.IsInf(c.ConnectRate, 0) { // errors as well
		c.ConnectRate = -1
	}
	return c
}
