package dsqldoctor

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// certificateProblem decides why a certificate was not accepted.
func (f *findings) certificateProblem(handshake finding) *conclusion {
	leaf := handshake.tls.PeerCertificates[0]
	c := &conclusion{verdict: VerdictCertificate, evidence: []string{handshake.err.Error(), describeChain(handshake.tls)}}
	var (
		host    x509.HostnameError
		invalid x509.CertificateInvalidError
	)
	switch {
	case f.noSystemRoots:
		c.summary = "This host has no root certificates, so it cannot verify any server's certificate."
		c.remedies = rootRemedies
	case errors.As(handshake.err, &invalid) && invalid.Reason == x509.Expired:
		c.summary = fmt.Sprintf("The certificate is valid from %s to %s, and this host's clock says %s.",
			leaf.NotBefore.UTC().Format(time.DateOnly), leaf.NotAfter.UTC().Format(time.DateOnly), time.Now().UTC().Format(time.DateOnly))
		c.remedies = append([]string{"Compare this host's clock with another one. AWS renews its certificates before they expire."}, clockRemedies...)
	case errors.As(handshake.err, &host):
		c.summary = fmt.Sprintf("The server's certificate is not for %s, but for %s.", f.target.ServerName, namesIn(leaf))
		c.remedies = []string{
			"Check the region in Host, Region or ServerName, and that DialAddress leads to the same endpoint.",
			"Behind a VPC endpoint, set Host to its vpce-… name and ClusterID to the cluster's ID. The name for TLS follows from both.",
		}
	case isAmazonChain(handshake.tls):
		f.missingRoot(c)
	default:
		c.summary = fmt.Sprintf("The certificate is not Amazon's: a proxy that decrypts TLS, or another server, presents one issued by %s.", leaf.Issuer)
		c.remedies = []string{
			fmt.Sprintf("Ask whoever runs the proxy to exempt %s from TLS inspection: it can read the token and all data.", f.target.ServerName),
			"If you trust that issuer with both, add its root certificate to Config.RootCAs (sslrootcert).",
		}
		c.remedies = append(c.remedies, f.workarounds()...)
	}
	return c
}

// missingRoot is for Amazon's certificate on a host that does not know Amazon's root.
func (f *findings) missingRoot(c *conclusion) {
	c.summary = "The certificate is Amazon's, but Amazon Root CA 1 is not among the root certificates to check it with."
	if f.ownRoots {
		c.remedies = []string{"Leave Config.RootCAs (sslrootcert) empty to use the system's root certificates, or add https://www.amazontrust.com/repository/AmazonRootCA1.pem to it."}
		return
	}
	c.remedies = rootRemedies
}

// isAmazonChain tells by the names in a chain whether it is meant to be Amazon's. It proves
// nothing.
func isAmazonChain(state *tls.ConnectionState) bool {
	for _, c := range state.PeerCertificates {
		for _, o := range c.Issuer.Organization {
			if o == "Amazon" || strings.HasPrefix(o, "Starfield ") {
				return true
			}
		}
	}
	return false
}

// describeChain says whom a certificate is for and who issued it.
func describeChain(state *tls.ConnectionState) string {
	leaf := state.PeerCertificates[0]
	var issuers []string
	for _, c := range state.PeerCertificates {
		if issuer := c.Issuer.String(); !slices.Contains(issuers, issuer) {
			issuers = append(issuers, issuer)
		}
	}
	subject := leaf.Subject.String()
	if subject == "" {
		subject = "an empty subject"
	}
	return fmt.Sprintf("certificate of %s for %s, until %s, issued by %s",
		subject, namesIn(leaf), leaf.NotAfter.UTC().Format(time.DateOnly), strings.Join(issuers, ", which was issued by "))
}

func namesIn(c *x509.Certificate) string {
	names := slices.Clone(c.DNSNames)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	if len(names) == 0 {
		return "no name"
	}
	return strings.Join(names, ", ")
}
