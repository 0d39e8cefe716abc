package dsqldoctor_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqldoctor"
)

func TestDiagnoseConfig(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*dsql.Config)
		says   string
		dials  bool
	}{
		"no host":        {func(c *dsql.Config) { c.Host = "" }, "Host is empty", false},
		"a password":     {func(c *dsql.Config) { c.Host = "postgres://u:" + diagnoseSessionToken + "@h/" }, "connection string", false},
		"no cluster":     {func(c *dsql.Config) { c.Host = reportHost }, "VPC endpoint, which does not name the cluster", false},
		"database":       {func(c *dsql.Config) { c.Database = "car_entities" }, `Database is "car_entities", and DSQL has one database, postgres`, true},
		"negotiation":    {func(c *dsql.Config) { c.SSLNegotiation = "none" }, "SSLNegotiation", true},
		"token lifetime": {func(c *dsql.Config) { c.TokenLifetime = time.Hour * 24 * 30 }, "TokenLifetime", true},
		"params":         {func(c *dsql.Config) { c.Params = map[string]string{"sslmode": "disable"} }, "Params contains", true},
		"role session":   {func(c *dsql.Config) { c.RoleSessionName = "x" }, "RoleSessionName is set, but RoleARN is not", true},
	} {
		t.Run(name, func(t *testing.T) {
			c := temporary(server)
			test.change(&c)
			r := diagnose(t, c)
			requireVerdict(t, dsqldoctor.VerdictConfig, r)
			require.Contains(t, r.Summary, test.says)
			want := dsqldoctor.StepSkipped
			if test.dials {
				want = dsqldoctor.StepOK
			}
			require.Equal(t, want, stepOf(t, r, "login").Result, r)
		})
	}
}
