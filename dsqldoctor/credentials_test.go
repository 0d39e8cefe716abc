package dsqldoctor_test

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqldoctor"
	"github.com/dsqlgo/dsql/internal/nettest"
)

var noCredentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
	return aws.Credentials{}, errors.New("GET https://sts/?X-Amz-Security-Token=" + url.QueryEscape(diagnoseSessionToken) + "&X-Amz-Signature=0123abcd: no route")
})

func TestDiagnoseCredentials(t *testing.T) {
	expired := aws.Credentials{AccessKeyID: diagnoseKey, SecretAccessKey: "some secret key", CanExpire: true, Expires: time.Now().Add(-time.Minute)}
	for name, test := range map[string]struct {
		change func(*dsql.Config)
		want   dsqldoctor.Verdict
		says   string
	}{
		"none in the environment": {func(c *dsql.Config) { c.Credentials = nil }, dsqldoctor.VerdictCredentials, "There are no AWS credentials"},
		"the provider fails":      {func(c *dsql.Config) { c.Credentials = noCredentials }, dsqldoctor.VerdictCredentials, "no route"},
		"empty":                   {func(c *dsql.Config) { c.Credentials = credentials.NewStaticCredentialsProvider("", "", "") }, dsqldoctor.VerdictCredentials, ""},
		"expired": {func(c *dsql.Config) {
			c.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) { return expired, nil })
		}, dsqldoctor.VerdictCredentials, "have expired"},
		"no such profile": {func(c *dsql.Config) { c.Credentials, c.Profile = nil, "nobody" }, dsqldoctor.VerdictConfig, `Profile "nobody"`},
	} {
		t.Run(name, func(t *testing.T) {
			c := server.Config()
			test.change(&c)
			r := diagnose(t, c)
			requireVerdict(t, test.want, r)
			require.Contains(t, r.String(), test.says)
			require.Equal(t, dsqldoctor.StepSkipped, stepOf(t, r, "login").Result)
			require.Equal(t, dsqldoctor.StepOK, stepOf(t, r, "startup").Result, "which needs no credentials")
		})
	}
}

// The remedies for a role that cannot be assumed differ from those for missing credentials.
func TestDiagnoseRole(t *testing.T) {
	const role = "arn:aws:iam::123456789012:role/app"
	denies := func(code string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "<ErrorResponse><Error><Type>Sender</Type><Code>%[1]s</Code><Message>%[1]s</Message></Error></ErrorResponse>", code)
		}
	}
	for name, test := range map[string]struct {
		sts     http.HandlerFunc // nil: nobody listens
		base    aws.CredentialsProvider
		summary string
		not     string // a remedy for another problem
	}{
		"denied":              {denies("AccessDenied"), nil, "The role " + role + " cannot be assumed", "sso login"},
		"STS is not reached":  {nil, nil, "The role " + role + " cannot be assumed", "sso login"},
		"expired":             {denies("ExpiredToken"), nil, "have expired", "trust policy"},
		"no base credentials": {denies("AccessDenied"), noCredentials, "There are no AWS credentials", "trust policy"},
	} {
		t.Run(name, func(t *testing.T) {
			url := "http://" + nettest.ClosedAddress
			if test.sts != nil {
				sts := httptest.NewServer(test.sts)
				defer sts.Close()
				url = sts.URL
			}
			t.Setenv("AWS_ENDPOINT_URL_STS", url)
			t.Setenv("AWS_MAX_ATTEMPTS", "1")
			c := temporary(server)
			c.RoleARN, c.ExternalID = role, "customer"
			if test.base != nil {
				c.Credentials = test.base
			}
			r := diagnose(t, c)
			requireVerdict(t, dsqldoctor.VerdictCredentials, r)
			require.Contains(t, r.Summary, test.summary)
			advice := fmt.Sprint(r.Remedies)
			require.NotContains(t, advice, test.not)
			if test.not != "sso login" {
				return
			}
			for _, says := range []string{"sts:AssumeRole", "trust policy", "ExternalID", "interface endpoint for sts in us-east-1", "aws sts get-caller-identity"} {
				require.Contains(t, advice, says)
			}
		})
	}
}
