package login

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// alpnProtocol is required for direct TLS (PostgreSQL 17 docs, "SSL Session Encryption").
const alpnProtocol = "postgresql"

// SSLRequest asks a server that expects plaintext for TLS (PostgreSQL docs, "Message Formats").
var SSLRequest = []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}

// ErrNoTLS means that the server refused an SSLRequest.
var ErrNoTLS = errors.New("the server refused TLS")

// TLSConfig returns a configuration that verifies certificates in full, for the server name. There
// is no weaker setting: the token is a password, and any server could get it. Nil roots mean the
// system's.
func TLSConfig(name string, roots *x509.CertPool) *tls.Config {
	return &tls.Config{
		ServerName: name,
		RootCAs:    roots,
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{alpnProtocol},
	}
}

// RequestTLS sends an SSLRequest and waits for the answer, a single byte. It reads no further,
// since bytes that come before TLS may be an attacker's (CVE-2021-23222). If ctx ends first, conn
// cannot be used any more.
func RequestTLS(ctx context.Context, conn net.Conn) error {
	return Interruptible(ctx, conn, func() error {
		if _, err := conn.Write(SSLRequest); err != nil {
			return err
		}
		var answer [1]byte
		if _, err := io.ReadFull(conn, answer[:]); err != nil {
			return err
		}
		if answer[0] != 'S' {
			return fmt.Errorf("%w: the answer is %q", ErrNoTLS, answer[0])
		}
		return nil
	})
}

var aLongTimeAgo = time.Unix(1, 0)

// Interruptible runs f, which reads from and writes to conn. If ctx ends first, f's reads and
// writes fail, and conn cannot be used any more.
func Interruptible(ctx context.Context, conn net.Conn, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(aLongTimeAgo) })
	err := f()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	return err
}
