package dsqltest

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestAuthorityIssue(t *testing.T) {
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	ca, err := newAuthority(now)
	require.NoError(t, err)
	other, err := newAuthority(now)
	require.NoError(t, err)
	cert, err := ca.issue("*.dsql.us-east-1.on.aws", "localhost")
	require.NoError(t, err)

	for _, tt := range []struct {
		name string
		host string
		at   time.Time
		pool *x509.CertPool
		want string
	}{
		{name: "wildcard", host: "abc.dsql.us-east-1.on.aws", at: now, pool: ca.pool()},
		{name: "plain name", host: "localhost", at: now, pool: ca.pool()},
		{name: "clock 59 min behind", host: "localhost", at: now.Add(-59 * time.Minute), pool: ca.pool()},
		{name: "clock 61 min behind", host: "localhost", at: now.Add(-61 * time.Minute), pool: ca.pool(), want: "not yet valid"},
		{name: "after a year", host: "localhost", at: now.Add(validity + time.Second), pool: ca.pool(), want: "expired"},
		{name: "another region", host: "abc.dsql.eu-west-1.on.aws", at: now, pool: ca.pool(), want: "not abc.dsql.eu-west-1.on.aws"},
		{name: "two labels", host: "a.b.dsql.us-east-1.on.aws", at: now, pool: ca.pool(), want: "not a.b.dsql"},
		{name: "another authority", host: "localhost", at: now, pool: other.pool(), want: "unknown authority"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := cert.Leaf.Verify(x509.VerifyOptions{DNSName: tt.host, CurrentTime: tt.at, Roots: tt.pool})
			if tt.want == "" {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, tt.want)
		})
	}

	_, err = ca.issue()
	require.ErrorContains(t, err, "no DNS name given")
}

// A client that knows the root from its PEM file alone completes a handshake.
func TestAuthorityHandshake(t *testing.T) {
	ca, err := newAuthority(time.Now())
	require.NoError(t, err)
	cert, err := ca.issue("*.dsql.us-east-1.on.aws")
	require.NoError(t, err)
	roots := x509.NewCertPool()
	require.True(t, roots.AppendCertsFromPEM(ca.pem()))

	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	served := make(chan error, 1)
	go func() {
		served <- tls.Server(far, &tls.Config{Certificates: []tls.Certificate{cert}}).Handshake()
	}()
	client := tls.Client(near, &tls.Config{RootCAs: roots, ServerName: "abc.dsql.us-east-1.on.aws"})
	require.NoError(t, client.Handshake())
	require.NoError(t, <-served)
	require.Len(t, client.ConnectionState().PeerCertificates, 2, "the chain is sent whole")
}

// What strict verifiers (Python 3.13, for one) ask of a root, from RFC 5280,
// section 4.2.1.
func TestAuthorityRoot(t *testing.T) {
	ca, err := newAuthority(time.Now())
	require.NoError(t, err)
	require.True(t, ca.root.IsCA)
	require.True(t, ca.root.MaxPathLenZero)
	require.Equal(t, x509.KeyUsageCertSign|x509.KeyUsageCRLSign, ca.root.KeyUsage)
	require.NotEmpty(t, ca.root.SubjectKeyId)
	cert, err := ca.issue("localhost")
	require.NoError(t, err)
	require.Equal(t, ca.root.SubjectKeyId, cert.Leaf.AuthorityKeyId)
	require.Equal(t, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, cert.Leaf.ExtKeyUsage)
	require.False(t, cert.Leaf.IsCA)
}

// An authority in a file stays the same until its end comes near, and nobody else reads its key.
func TestAuthorityFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "authority.pem")
	now := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	first, err := openAuthority(file, now)
	require.NoError(t, err)
	info, err := os.Stat(file)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())

	again, err := openAuthority(file, now.Add(validity-renewal-time.Second))
	require.NoError(t, err)
	require.Equal(t, first.pem(), again.pem())
	cert, err := again.issue("localhost")
	require.NoError(t, err)
	_, err = cert.Leaf.Verify(x509.VerifyOptions{DNSName: "localhost", CurrentTime: now, Roots: first.pool()})
	require.NoError(t, err)

	renewed, err := openAuthority(file, now.Add(validity-renewal))
	require.NoError(t, err)
	require.NotEqual(t, first.pem(), renewed.pem())
	kept, err := openAuthority(file, now.Add(validity))
	require.NoError(t, err)
	require.Equal(t, renewed.pem(), kept.pem())

	require.NoError(t, os.WriteFile(file, first.pem(), 0o600)) // no key
	_, err = openAuthority(file, now)
	require.ErrorContains(t, err, "remove the file for a new one")
	require.NoError(t, os.Remove(file))
	_, err = openAuthority(filepath.Join(file, "below", "nothing"), now)
	require.Error(t, err)
}
