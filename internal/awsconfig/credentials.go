// Package awsconfig gets regions and credentials as the AWS SDK does, for a Config of package dsql.
package awsconfig

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/dsqlgo/dsql/internal/configerr"
)

// ErrCredentials is what errors of this package wrap that are no configerr.Err. Package dsql
// exports it.
var ErrCredentials = errors.New("dsql: AWS credentials are not available")

// Settings are the fields of a Config that say whose credentials sign the tokens.
type Settings struct {
	Credentials     aws.CredentialsProvider
	Profile         string
	RoleARN         string
	RoleSessionName string
	ExternalID      string
}

const (
	// An assumed role's session lasts an hour: the longest that every role allows and
	// that role chaining allows (IAM guide, "Methods to assume a role"). The SDK's own 15 minutes
	// would cut short every token but the first.
	roleSessionLifetime = time.Hour

	// The role's credentials are replaced this long before they end, so that a token is good to
	// its last second also on a server whose clock is ahead.
	roleExpiryWindow = 30 * time.Second
)

// Load reads the AWS environment and shared files. It asks for no credentials yet. fallbackRegion is
// for the SDK's own calls (SSO, STS of a profile) where nothing else says a region.
func (s Settings) Load(ctx context.Context, fallbackRegion string) (aws.Config, error) {
	options := []func(*config.LoadOptions) error{
		config.WithDefaultRegion(fallbackRegion),
		config.WithLogger(silentLike(aws.Config{}.Logger)),
	}
	if s.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(s.Profile))
	}
	if s.Credentials != nil {
		options = append(options, config.WithCredentialsProvider(s.Credentials))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	var noProfile config.SharedConfigProfileNotExistError
	switch {
	case errors.As(err, &noProfile):
		return loaded, configerr.New("Profile", "%q is not in the shared AWS files; add it with `aws configure --profile`, or name one that is there", noProfile.Profile)
	case err != nil:
		return loaded, fmt.Errorf("%w: reading the AWS environment and shared files: %w", ErrCredentials, err)
	}
	return loaded, nil
}

// silentLogger drops what the SDK would write to stderr; the SDK's errors say the same.
type silentLogger[C any] struct{}

func (silentLogger[C]) Logf(C, string, ...any) {}

// silentLike returns a silentLogger for the type C that the SDK's logger takes. The type is
// inferred from one, since its package is not among this module's dependencies.
func silentLike[C any](interface{ Logf(C, string, ...any) }) silentLogger[C] {
	return silentLogger[C]{}
}

// Provider returns the provider of the credentials that sign tokens for region. loaded is what
// Load returned, or nil if it was not called yet.
func (s Settings) Provider(ctx context.Context, region string, loaded *aws.Config) (aws.CredentialsProvider, error) {
	if s.RoleARN == "" {
		switch {
		case s.RoleSessionName != "":
			return nil, configerr.New("RoleSessionName", "is set, but RoleARN is not; set both or neither")
		case s.ExternalID != "":
			return nil, configerr.New("ExternalID", "is set, but RoleARN is not; set both or neither")
		case s.Credentials != nil:
			return s.Credentials, nil
		}
	}
	if loaded == nil {
		read, err := s.Load(ctx, region)
		if err != nil {
			return nil, err
		}
		loaded = &read
	}
	if s.RoleARN == "" {
		return loaded.Credentials, nil
	}
	// The cluster's region, not the profile's: a VPC without internet has its STS endpoint there.
	client := sts.NewFromConfig(*loaded, func(o *sts.Options) { o.Region = region })
	role := stscreds.NewAssumeRoleProvider(client, s.RoleARN, func(o *stscreds.AssumeRoleOptions) {
		o.Duration = roleSessionLifetime
		o.RoleSessionName = s.RoleSessionName
		if s.ExternalID != "" {
			o.ExternalID = aws.String(s.ExternalID)
		}
	})
	return aws.NewCredentialsCache(role, func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = roleExpiryWindow }), nil
}

// Retrieve asks provider for credentials and returns those that can sign. Otherwise the error is
// ErrCredentials and says what to do.
func Retrieve(ctx context.Context, provider aws.CredentialsProvider) (aws.Credentials, error) {
	credentials, err := provider.Retrieve(ctx)
	switch {
	case err != nil:
		return credentials, fmt.Errorf("%w: %w; check them with aws sts get-caller-identity, or set Config.Credentials or Config.Profile", ErrCredentials, err)
	case credentials.AccessKeyID == "" || credentials.SecretAccessKey == "":
		return credentials, fmt.Errorf("%w: the provider returned empty ones; check Config.Credentials or the AWS environment", ErrCredentials)
	case credentials.CanExpire && !time.Now().Before(credentials.Expires):
		return credentials, fmt.Errorf("%w: those from %s expired at %s; renew them", ErrCredentials, SourceOf(credentials), credentials.Expires.UTC().Format(time.RFC3339))
	}
	return credentials, nil
}

// SourceOf names the provider that the credentials come from, such as "StaticCredentials".
func SourceOf(c aws.Credentials) string {
	if c.Source == "" {
		return "Config.Credentials"
	}
	return c.Source
}
