package dsqldoctor_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqldoctor"
)

const accessDenied = "unable to accept connection, access denied"

// Behind a VPC endpoint, the server takes one of the cluster's two names only.
func TestDiagnoseOtherName(t *testing.T) {
	refuseAll := func(serverName, token string) *pgproto3.ErrorResponse {
		if token == "" {
			return nil
		}
		return &pgproto3.ErrorResponse{Severity: "FATAL", Code: "08006", Message: accessDenied}
	}
	// accepts takes one name, as SNI and as the token's host.
	accepts := func(name string) func(serverName, token string) *pgproto3.ErrorResponse {
		return func(serverName, token string) *pgproto3.ErrorResponse {
			if serverName != name || token != "" && !strings.HasPrefix(token, name+"/") {
				return refuseAll(serverName, token)
			}
			return nil
		}
	}
	// routes refuses other names by their SNI.
	routes := func(name string) func(serverName, token string) *pgproto3.ErrorResponse {
		return func(serverName, token string) *pgproto3.ErrorResponse {
			if serverName != name {
				return &pgproto3.ErrorResponse{Severity: "FATAL", Code: "08006", Message: "unable to accept connection, invalid sni"}
			}
			return nil
		}
	}
	for name, test := range map[string]struct {
		refuse     func(serverName, token string) *pgproto3.ErrorResponse
		serverName string // of the Config
		want       dsqldoctor.Verdict
		step       string
		result     dsqldoctor.StepResult
		remedy     string
	}{
		"the token must be for the public name":      {accepts(publicName), "", dsqldoctor.VerdictAccess, "login, public name", dsqldoctor.StepOK, fmt.Sprintf("Config.ServerName: %q", publicName)},
		"the token must be for the PrivateLink name": {accepts(privateName), publicName, dsqldoctor.VerdictAccess, "login, PrivateLink name", dsqldoctor.StepOK, fmt.Sprintf("Config.ServerName: %q", privateName)},
		"the SNI must be the public name":            {routes(publicName), "", dsqldoctor.VerdictSNI, "login, public name", dsqldoctor.StepOK, fmt.Sprintf("Config.ServerName: %q", publicName)},
		"the identity is denied by either name":      {refuseAll, "", dsqldoctor.VerdictAccess, "login, public name", dsqldoctor.StepFailed, "get-caller-identity"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newFakeServer(t, test.refuse, publicName, privateName)
			c := temporary(server)
			c.Host, c.ClusterID, c.DialAddress, c.ServerName, c.RootCAs = reportHost, reportID, s.address, test.serverName, s.roots
			r := diagnose(t, c)
			requireVerdict(t, test.want, r)
			require.Equal(t, test.result, stepOf(t, r, test.step).Result, r)
			require.Contains(t, fmt.Sprint(r.Remedies), test.remedy)

			if test.result == dsqldoctor.StepOK { // then the remedy works
				require.Len(t, r.Remedies, 1)
				c.ServerName = publicName
				if test.serverName == publicName {
					c.ServerName = privateName
				}
				require.Equal(t, dsqldoctor.StepOK, stepOf(t, diagnose(t, c), "login").Result)
			}
		})
	}
}
