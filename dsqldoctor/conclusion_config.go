package dsqldoctor

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/dsqlgo/dsql"
)

// concludeConfig is about fields of the Config that are wrong by themselves. It returns nil if
// there are none.
func (f *findings) concludeConfig() *conclusion {
	err := f.configErr
	if err == nil && errors.Is(f.credentials.err, dsql.ErrConfig) {
		err = f.credentials.err // such as a profile that does not exist
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, dsql.ErrCredentials):
		return f.credentialsProblem(err)
	}
	// An ErrConfig reads "<prefix>: <field>: <problem>; <what to do>".
	problem, remedy, _ := strings.Cut(strings.TrimPrefix(err.Error(), dsql.ErrConfig.Error()+": "), "; ")
	c := &conclusion{verdict: VerdictConfig, summary: "The configuration cannot work: " + strings.Replace(problem, ": ", " ", 1) + "."}
	if remedy != "" {
		c.remedies = []string{strings.ToUpper(remedy[:1]) + remedy[1:] + "."}
	}
	if f.login.ok() {
		c.evidence = []string{"without that setting, the login works"}
	}
	return c
}

// concludeCredentials is about credentials that are missing or cannot sign. It returns nil if they
// can.
func (f *findings) concludeCredentials() *conclusion {
	for _, probe := range []finding{f.credentials, f.token} {
		if probe.failed() && !errors.Is(probe.err, dsql.ErrConfig) {
			return f.credentialsProblem(probe.err)
		}
	}
	return nil
}

func (f *findings) credentialsProblem(err error) *conclusion {
	c := &conclusion{verdict: VerdictCredentials, evidence: []string{err.Error()}}
	expired := strings.Contains(strings.ToLower(err.Error()), "expired")
	if f.assumedRole != "" && !expired && isRoleFailure(err) {
		c.summary = fmt.Sprintf("The role %s cannot be assumed.", f.assumedRole)
		c.remedies = []string{
			"Check which identity asks for the role, and that it has credentials: aws sts get-caller-identity",
			"Allow sts:AssumeRole on the role in that identity's IAM policy, and name the identity in the role's trust policy. If the trust policy asks for an external ID, set Config.ExternalID to it.",
			fmt.Sprintf("Open a route to STS: HTTPS to sts.%s.amazonaws.com. A VPC without internet access needs an interface endpoint for sts in %s, with private DNS.", f.target.Region, f.target.Region),
		}
		return c
	}
	c.summary = "There are no AWS credentials to sign a token with."
	if expired {
		c.summary = "The AWS credentials have expired."
	}
	c.remedies = []string{
		"Check which credentials are found: aws sts get-caller-identity",
		"Renew or set them: aws sso login, aws configure, or the AWS_* variables; or give the program an IAM role. Config.Profile names a profile, and Config.Credentials takes a provider.",
	}
	return c
}

// isRoleFailure tells whether STS refused the role, as opposed to a lack of credentials to ask
// with. The SDK tells these apart in its text only. If the time ran out, STS is the more likely
// reason.
func isRoleFailure(err error) bool {
	text := err.Error()
	return !strings.Contains(text, "get identity") &&
		(strings.Contains(text, "STS: AssumeRole,") || errors.Is(err, context.DeadlineExceeded))
}
