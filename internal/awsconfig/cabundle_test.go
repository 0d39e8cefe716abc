package awsconfig

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// A CA bundle that cannot be read matters only to credentials that come over the network.
func TestUnreadableCABundle(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing.pem")
	empty := filepath.Join(t.TempDir(), "empty.pem")
	require.NoError(t, os.WriteFile(empty, nil, 0o600))
	shared := filepath.Join(t.TempDir(), "config")
	require.NoError(t, os.WriteFile(shared, []byte("[default]\nca_bundle = "+missing+"\n"), 0o600))
	for name, test := range map[string]struct{ variable, value, want string }{
		"AWS_CA_BUNDLE is missing": {"AWS_CA_BUNDLE", missing, missing},
		"AWS_CA_BUNDLE is empty":   {"AWS_CA_BUNDLE", empty, "custom CA bundle PEM file"},
		"ca_bundle is missing":     {"AWS_CONFIG_FILE", shared, missing},
	} {
		t.Run(name, func(t *testing.T) {
			for name, value := range map[string]string{
				"AWS_ACCESS_KEY_ID": "AKIDEXAMPLE", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "", "AWS_PROFILE": "",
				"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_CA_BUNDLE": "",
				"AWS_ENDPOINT_URL_STS": "http://127.0.0.1:1", "AWS_MAX_ATTEMPTS": "1",
			} {
				t.Setenv(name, value)
			}
			t.Setenv(test.variable, test.value)
			provider, err := Settings{}.Provider(t.Context(), "us-east-1", nil)
			require.NoError(t, err)
			credentials, err := Retrieve(t.Context(), provider)
			require.NoError(t, err)
			require.Equal(t, "AKIDEXAMPLE", credentials.AccessKeyID)

			provider, err = Settings{RoleARN: "arn:aws:iam::123456789012:role/app"}.Provider(t.Context(), "us-east-1", nil)
			require.NoError(t, err)
			_, err = Retrieve(t.Context(), provider)
			require.ErrorIs(t, err, ErrCredentials)
			require.ErrorContains(t, err, test.want)
		})
	}
}
