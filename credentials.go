package dsql

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/sts"
)

const (
	// An assumed role's session lasts an hour: the longest that every role allows and
	// that role chaining allows (IAM guide, "Methods to assume a role"). The SDK's own 15 minutes
	// would cut short every token but the first.
	roleSessionLifetime = time.Hour

	// The role's credentials are replaced this long before they end, so that a
	// token that seems good to its last second is so on a server whose clock is ahead.
	roleExpiryWindow = 30 * time.Second
)

// loadAWS reads the AWS environment and shared files. Nothing here asks for
// credentials yet. fallbackRegion is for the SDK's own calls (SSO, STS of a
// profile) where nothing else says a region.
func loadAWS(ctx context.Context, c Config, fallbackRegion string) (aws.Config, error) {
	options := []func(*config.LoadOptions) error{config.WithDefaultRegion(fallbackRegion), config.WithLogger(mutedLike(aws.Config{}.Logger))}
	if c.Profile != "" {
		options = append(options, config.WithSharedConfigProfile(c.Profile))
	}
	if c.Credentials != nil {
		options = append(options, config.WithCredentialsProvider(c.Credentials))
	}
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	var noProfile config.SharedConfigProfileNotExistError
	switch {
	case errors.As(err, &noProfile):
		return loaded, configError("Profile", "%q is not in the shared AWS files; add it with `aws configure --profile`, or name one that is there", noProfile.Profile)
	case err != nil:
		return loaded, fmt.Errorf("%w: reading the AWS environment and shared files: %w", ErrCredentials, err)
	}
	return loaded, nil
}

// muted is a logger that says nothing. The SDK's own would write to stderr what its errors say as well.
type muted[C any] struct{}

func (muted[C]) Logf(C, string, ...any) {}

// mutedLike makes one of the type that the SDK asks for: its package is none that this module requires.
func mutedLike[C any](interface{ Logf(C, string, ...any) }) muted[C] { return muted[C]{} }

// credentialsFor returns what signs the tokens. loaded may hold what loadAWS
// already read.
func credentialsFor(ctx context.Context, c Config, region string, loaded *aws.Config) (aws.CredentialsProvider, error) {
	if c.RoleARN == "" {
		switch {
		case c.RoleSessionName != "":
			return nil, configError("RoleSessionName", "is set, but RoleARN is not; set both or neither")
		case c.ExternalID != "":
			return nil, configError("ExternalID", "is set, but RoleARN is not; set both or neither")
		case c.Credentials != nil:
			return c.Credentials, nil
		}
	}
	if loaded == nil {
		read, err := loadAWS(ctx, c, region)
		if err != nil {
			return nil, err
		}
		loaded = &read
	}
	if c.RoleARN == "" {
		return loaded.Credentials, nil
	}
	// The cluster's region, not the profile's: that is where a VPC without a way
	// out has its STS endpoint.
	client := sts.NewFromConfig(*loaded, func(o *sts.Options) { o.Region = region })
	role := stscreds.NewAssumeRoleProvider(client, c.RoleARN, func(o *stscreds.AssumeRoleOptions) {
		o.Duration = roleSessionLifetime
		o.RoleSessionName = c.RoleSessionName
		if c.ExternalID != "" {
			o.ExternalID = aws.String(c.ExternalID)
		}
	})
	return aws.NewCredentialsCache(role, func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = roleExpiryWindow }), nil
}
