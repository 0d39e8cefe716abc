package login

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net"
	"os"
	"os/exec"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// handshakeError returns the error of a handshake with a server whose certificate organization issued.
func handshakeError(t *testing.T, organization string, roots *x509.CertPool) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"server.test"}, Subject: pkix.Name{Organization: []string{organization}},
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	require.NoError(t, err)
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	go func() {
		_ = tls.Server(far, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}}}).Handshake()
	}()
	return tls.Client(near, TLSConfig("server.test", roots)).Handshake()
}

func TestCertificateAdvice(t *testing.T) {
	advice := map[string]string{
		"Acme system":   "another server answered",
		"Amazon system": "is not among those of this host: install ca-certificates",
		"Acme set":      "another server answered",
		"Amazon set":    "leave RootCAs empty",
	}
	if os.Getenv("SSL_CERT_FILE") == "/nonexistent" { // in the child
		advice["Acme system"], advice["Amazon system"] = "this host has no root certificates", "this host has no root certificates"
	} else if SystemHasNoRoots() {
		t.Skip("this host has no root certificates")
	}
	for _, organization := range []string{"Acme", "Amazon"} {
		for name, roots := range map[string]*x509.CertPool{" system": nil, " set": x509.NewCertPool()} {
			err := handshakeError(t, organization, roots)
			require.Error(t, err)
			require.Contains(t, CertificateAdvice(err, roots), advice[organization+name], organization+name)
		}
	}
	require.Empty(t, CertificateAdvice(errors.New("reset"), nil))
	require.Contains(t, CertificateAdvice(x509.SystemRootsError{}, nil), "this host has no root certificates")
}

// On a host without root certificates, as in an image FROM scratch.
func TestCertificateAdviceWithoutRoots(t *testing.T) {
	if os.Getenv("SSL_CERT_FILE") == "/nonexistent" {
		t.Skip("in the child")
	}
	if runtime.GOOS != "linux" {
		t.Skip("SSL_CERT_FILE replaces the system's roots on Linux only")
	}
	child := exec.Command(os.Args[0], "-test.run=^TestCertificateAdvice$", "-test.v")
	child.Env = append(os.Environ(), "SSL_CERT_FILE=/nonexistent", "SSL_CERT_DIR=/nonexistent")
	out, err := child.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "PASS: TestCertificateAdvice")
}
