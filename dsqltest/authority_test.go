package dsqltest

import (
	"crypto/tls"
	"crypto/x509"
	"net"
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
