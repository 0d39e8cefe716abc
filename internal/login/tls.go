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

// alpnProtocol is required by direct TLS (PostgreSQL 17 docs, "SSL Session Encryption").
const alpnProtocol = "postgresql"

// SSLRequest asks a server that expects plaintext for TLS (PostgreSQL docs, "Message Formats").
var SSLRequest = []byte{0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f}

// ErrNoTLS is a server that answers an SSLRequest with a refusal.
var ErrNoTLS = errors.New("the server refused TLS")

// TLSConfig checks certificates in full against name. There is no weaker setting: the token is
// a password, and would go to whoever answers. Nil roots are the system's.
func TLSConfig(name string, roots *x509.CertPool) *tls.Config {
	return &tls.Config{
		ServerName: name,
		RootCAs:    roots,
		MinVersion: tls.VersionTLS12,
		NextProtos: []string{alpnProtocol},
	}
}

// RequestTLS sends an SSLRequest and waits for the answer, a single byte. It reads nothing
// beyond it: bytes that came before TLS could be an attacker's (CVE-2021-23222). When ctx ends
// first, conn is of no more use.
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

// Interruptible runs f, which reads and writes conn. When ctx ends first, f is cut short and
// conn is of no more use.
func Interruptible(ctx context.Context, conn net.Conn, f func() error) error {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(aLongTimeAgo) })
	err := f()
	if !stop() && err == nil {
		err = ctx.Err()
	}
	return err
}
