// Package awsconfig finds the region and the credentials of a dsql.Config, as the AWS SDK does.
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

// ErrCredentials is wrapped by all errors of this package but those that wrap configerr.Err. Package
// dsql exports it.
var ErrCredentials = errors.New("dsql: AWS credentials are not available")

// Settings are the fields of a dsql.Config that say whose credentials sign the tokens.
type Settings struct {
	Credentials     aws.CredentialsProvider
	Profile         string
	RoleARN         string
	RoleSessionName string
	ExternalID      string
}

const (
	// An assumed role's session lasts an hour, the most that every role and role chaining allow
	// (IAM guide, "Methods to assume a role"). With the SDK's default of 15 minutes, every token
	// but the first would expire early, together with its session.
	roleSessionLifetime = time.Hour

	// The role's credentials are replaced this long before they expire, so that a token stays valid
	// for all of its lifetime even if the server's clock is ahead.
	roleExpiryWindow = 30 * time.Second
)

// Load reads the AWS environment and shared files. It does not retrieve credentials. The SDK uses
// fallbackRegion for its own calls (SSO, STS of a profile) if nothing else says a region.
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
		if loaded, ok := loadWithoutNetwork(ctx, err, options); ok {
			return loaded, nil
		}
		return loaded, fmt.Errorf("%w: reading the AWS environment and shared files: %w", ErrCredentials, err)
	}
	return loaded, nil
}

// silentLogger discards what the SDK would write to stderr. The SDK returns the same as errors.
type silentLogger[C any] struct{}

func (silentLogger[C]) Logf(C, string, ...any) {}

// silentLike returns a silentLogger whose type C is that of logger. Type inference finds it; to name
// it, this module would have to depend on the package of the SDK that defines it.
func silentLike[C any](logger interface{ Logf(C, string, ...any) }) silentLogger[C] {
	return silentLogger[C]{}
}

// Provider returns the provider of the credentials that sign tokens for region. loaded is the result
// of Load, or nil if Load was not called yet.
func (s Settings) Provider(ctx context.Context, region string, loaded *aws.Config) (aws.CredentialsProvider, error) {
	if s.RoleARN == "" && s.Credentials != nil {
		return s.Credentials, nil
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
	// STS is called in the cluster's region, not the profile's: a VPC without internet access has its
	// endpoint for STS there.
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

// Retrieve returns provider's credentials if they can sign. Otherwise the error is ErrCredentials and
// says what to do.
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

// SourceOf returns the name of the provider that made c, such as "StaticCredentials".
func SourceOf(c aws.Credentials) string {
	if c.Source == "" {
		return "Config.Credentials"
	}
	return c.Source
}
