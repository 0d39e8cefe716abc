package dsqldoctor

import (
	"context"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/internal/awsconfig"
	"github.com/dsqlgo/dsql/internal/redact"
)

// testCredentials gets the AWS credentials once. They sign the tokens of all later steps.
func (d *diagnosis) testCredentials(ctx context.Context) {
	settings := awsconfig.Settings{
		Credentials: d.config.Credentials, Profile: d.config.Profile,
		RoleARN: d.config.RoleARN, RoleSessionName: d.config.RoleSessionName, ExternalID: d.config.ExternalID,
	}
	credentials, f := start(ctx, d, d.limits.credentials, func(ctx context.Context) (aws.Credentials, finding) {
		provider, err := settings.Provider(ctx, d.target.Region, nil)
		if err != nil {
			return aws.Credentials{}, finding{outcome: outcomeFailed, err: err}
		}
		credentials, err := awsconfig.Retrieve(ctx, provider)
		if err != nil {
			return credentials, finding{outcome: outcomeFailed, err: err}
		}
		return credentials, newFinding("", nil)
	})()
	d.credentials = f
	d.redactor.AddCredentials(credentials)
	d.signer = describeCredentials(credentials)
	d.recordFinding(stepCredentials, f, d.signer)
	d.config = withCredentials(d.config, d.target.Region, credentials)
}

func describeCredentials(c aws.Credentials) string {
	kind := "long-term"
	if c.SessionToken != "" {
		kind = "temporary"
	}
	text := fmt.Sprintf("from %s, key %s, %s", awsconfig.SourceOf(c), redact.AccessKeyID(c.AccessKeyID), kind)
	if c.CanExpire {
		text += fmt.Sprintf(", until %s (%s left)", c.Expires.UTC().Format(time.RFC3339), time.Until(c.Expires).Round(time.Second))
	}
	return text
}

// testToken signs a token.
func (d *diagnosis) testToken(ctx context.Context) {
	if !d.credentials.ok() {
		d.skip(stepToken, "there are no credentials to sign with")
		return
	}
	var seen string
	d.signedToken, d.token = d.sign(ctx, d.config)
	if d.token.ok() {
		seen = describeToken(d.signedToken)
	}
	d.recordFinding(stepToken, d.token, seen)
}

// sign returns a new token for the Config c.
func (d *diagnosis) sign(ctx context.Context, c dsql.Config) (token string, f finding) {
	token, f = start(ctx, d, d.limits.step, func(ctx context.Context) (string, finding) {
		source, err := dsql.NewTokenSource(ctx, c)
		if err != nil {
			return "", newFinding("", err)
		}
		token, err := source.Token(ctx)
		return token.Reveal(), newFinding("", err)
	})()
	if f.ok() {
		d.redactor.AddToken(token)
	}
	return token, f
}

// describeToken says what a token allows, where and for how long. It leaves out who signed it.
func describeToken(token string) string {
	u, err := url.Parse("https://" + token)
	if err != nil {
		return "signed"
	}
	q := u.Query()
	signed := q.Get("X-Amz-Date")
	if at, err := time.Parse("20060102T150405Z", signed); err == nil {
		signed = at.Format(time.RFC3339)
	}
	lifetime, _ := time.ParseDuration(q.Get("X-Amz-Expires") + "s")
	region := ""
	if scope := strings.Split(q.Get("X-Amz-Credential"), "/"); len(scope) > 2 { // key/date/region/service/aws4_request
		region = scope[2]
	}
	security := "without"
	if q.Has("X-Amz-Security-Token") {
		security = "with"
	}
	return fmt.Sprintf("%s, %s for %s in %s, signed %s, good for %s, %s a security token",
		q.Get("X-Amz-Algorithm"), q.Get("Action"), u.Host, region, signed, lifetime, security)
}
