package awsconfig

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net"
	"net/http"
	"slices"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
)

// loadWithoutNetwork loads the AWS environment after that failed with loadErr. It succeeds if the
// reason was the CA bundle (AWS_CA_BUNDLE, or ca_bundle in the shared files), which the SDK reads at
// once. Signing needs no network, and neither do most credentials. Those that do need it fail with
// loadErr.
func loadWithoutNetwork(ctx context.Context, loadErr error, options []func(*config.LoadOptions) error) (aws.Config, bool) {
	bundle, err := placeholderBundle()
	if err != nil {
		return aws.Config{}, false
	}
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.DialContext = func(context.Context, string, string) (net.Conn, error) { return nil, loadErr }
	})
	options = append(slices.Clone(options), config.WithHTTPClient(client), config.WithCustomCABundle(bytes.NewReader(bundle)))
	loaded, err := config.LoadDefaultConfig(ctx, options...)
	return loaded, err == nil
}

// placeholderBundle returns a new certificate in PEM. The SDK has no option to ignore the CA bundle of
// the environment, only one to replace it.
func placeholderBundle() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
