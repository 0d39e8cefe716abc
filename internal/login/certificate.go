package login

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
)

// CertificateAdvice says what to do if err means that the authority of the server's certificate is
// unknown. For other errors it is empty. roots are those of the TLS configuration; nil means the
// system's.
func CertificateAdvice(err error, roots *x509.CertPool) string {
	const install = "install ca-certificates, import golang.org/x/crypto/x509roots/fallback, or set RootCAs (sslrootcert)"
	var (
		unknown x509.UnknownAuthorityError
		noRoots x509.SystemRootsError
	)
	switch isUnknown := errors.As(err, &unknown); {
	case errors.As(err, &noRoots), isUnknown && roots == nil && SystemHasNoRoots():
		return "this host has no root certificates: " + install
	case !isUnknown:
		return ""
	case !issuedByAmazon(err):
		return "a cluster's certificate needs no RootCAs, so another server answered: for a local endpoint or a proxy set RootCAs (sslrootcert)"
	case roots != nil:
		return "the certificate is from Amazon, whose root is not in RootCAs (sslrootcert): add Amazon Root CA 1, or leave RootCAs empty for the system's roots"
	}
	return "the certificate is from Amazon, whose root is not among those of this host: " + install
}

// SystemHasNoRoots reports whether the system has no root certificates, as in an image FROM scratch.
// Fallback roots that the program sets with x509.SetFallbackRoots count.
func SystemHasNoRoots() bool {
	pool, err := x509.SystemCertPool()
	return err != nil || pool.Equal(x509.NewCertPool())
}

// issuedByAmazon reports whether one of the server's certificates says that Amazon issued it, as those
// of DSQL do. Anybody can write that, so it is good for advice only.
func issuedByAmazon(err error) bool {
	var verification *tls.CertificateVerificationError
	return errors.As(err, &verification) && slices.ContainsFunc(verification.UnverifiedCertificates, func(c *x509.Certificate) bool {
		return slices.ContainsFunc(c.Issuer.Organization, func(name string) bool { return strings.HasPrefix(name, "Amazon") })
	})
}
