package dsqltest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// validity is how long certificates last. Apple's verifier, which clients in
// other languages use, takes no server certificate beyond 825 days
// (support.apple.com/103769).
const validity = 365 * 24 * time.Hour

// renewal is how long before its end an authority in a file is replaced: a server that
// starts with it may run for weeks.
const renewal = 30 * 24 * time.Hour

// authority is a certificate authority made for one server. Its methods are
// safe for concurrent use.
type authority struct {
	key  *ecdsa.PrivateKey
	root *x509.Certificate
}

// newAuthority makes an authority that is valid from an hour before now, for
// clients whose clock is behind.
func newAuthority(now time.Time) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{"dsqltest"}, CommonName: "dsqltest root"},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.Add(validity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &authority{key: key, root: root}, nil
}

// openAuthority returns the authority in file. Where there is none, or one that is about to end, it
// makes one and leaves it there, readable for its owner alone. "" is no file.
func openAuthority(file string, now time.Time) (*authority, error) {
	if file == "" {
		return newAuthority(now)
	}
	data, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if err == nil {
		pair, err := tls.X509KeyPair(data, data)
		if err != nil {
			return nil, fmt.Errorf("%s: %w; remove the file for a new one", file, err)
		}
		key, ok := pair.PrivateKey.(*ecdsa.PrivateKey)
		if !ok || !pair.Leaf.IsCA {
			return nil, fmt.Errorf("%s: not an authority with an ECDSA key; remove the file for a new one", file)
		}
		if pair.Leaf.NotAfter.Sub(now) > renewal {
			return &authority{key: key, root: pair.Leaf}, nil
		}
	}
	a, err := newAuthority(now)
	if err != nil {
		return nil, err
	}
	key, err := x509.MarshalPKCS8PrivateKey(a.key)
	if err != nil {
		return nil, err
	}
	return a, os.WriteFile(file, append(a.pem(), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})...), 0o600)
}

// issue returns a server certificate, with its chain, for DNS names such as
// "*.dsql.us-east-1.on.aws". It is valid for as long as the authority.
func (a *authority) issue(names ...string) (tls.Certificate, error) {
	if len(names) == 0 {
		return tls.Certificate{}, errors.New("no DNS name given")
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		// The names count, but a client may want a subject too.
		Subject:               pkix.Name{Organization: []string{"dsqltest"}, CommonName: "dsqltest server"},
		DNSNames:              names,
		NotBefore:             a.root.NotBefore,
		NotAfter:              a.root.NotAfter,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.root, key.Public(), a.key)
	if err != nil {
		return tls.Certificate{}, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.Certificate{Certificate: [][]byte{der, a.root.Raw}, PrivateKey: key, Leaf: leaf}, nil
}

// pool returns a new pool that holds the root and nothing else.
func (a *authority) pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.root)
	return pool
}

// pem returns the root as a PEM file holds it.
func (a *authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.root.Raw})
}
