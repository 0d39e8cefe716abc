package dsql

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"time"
)

var aLongTimeAgo = time.Unix(1, 0)

// alpnProtocol is required by direct TLS (PostgreSQL 17 docs, "SSL Session Encryption").
const alpnProtocol = "postgresql"

// sslRequest asks a server that expects plaintext for TLS (PostgreSQL docs, "Message Formats").
var sslRequest = []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}

// newTLSConfig checks certificates in full against name. There is no weaker
// setting: the token is a password, and would go to whoever answers.
func newTLSConfig(name string, roots *x509.CertPool) *tls.Config {
	return &tls.Config{
		ServerName: name,
		RootCAs:    roots,
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{alpnProtocol},
	}
}

// checkTLSConfig looks at what a user made of the TLS configuration in a
// ConnConfig, just before it is used.
func checkTLSConfig(c *tls.Config) error {
	switch {
	case c == nil:
		return configError("ConnConfig.TLSConfig", "was set to nil, but DSQL takes TLS only; leave it as ConnConfig returned it, or change fields in it")
	case c.InsecureSkipVerify:
		return configError("ConnConfig.TLSConfig", "skips verification, which would hand the token to whoever answers; add the missing root to Config.RootCAs")
	case c.MinVersion != 0 && c.MinVersion < tls.VersionTLS12:
		return configError("ConnConfig.TLSConfig", "allows TLS below 1.2, which DSQL does not take; leave MinVersion as ConnConfig returned it")
	case c.ServerName == "":
		return configError("ConnConfig.TLSConfig", "has no ServerName, from which the server finds the cluster; change fields of the one that ConnConfig returned")
	}
	return nil
}

// negotiateTLS asks for TLS with an SSLRequest where that is wanted. The
// answer is a single byte, and nothing may be read beyond it: bytes that came before TLS
// could be an attacker's (CVE-2021-23222).
func negotiateTLS(conn net.Conn) error {
	if _, err := conn.Write(sslRequest); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil {
		return err
	}
	if answer[0] != 'S' {
		return fmt.Errorf("%w: the answer is %q", errNoTLS, answer[0])
	}
	return nil
}

// during runs f, which reads and writes conn. When ctx ends first, f is cut
// short and conn is of no more use.
func during(ctx context.Context, conn net.Conn, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(aLongTimeAgo) })
	err := f()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	return err
}
