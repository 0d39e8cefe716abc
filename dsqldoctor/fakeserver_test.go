package dsqldoctor_test

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/dsqlgo/dsql/internal/nettest"
)

// proxy decrypts TLS with a certificate that its own authority issued. It asks for the password and
// sends it back in an error.
type proxy struct {
	address  string
	roots    *x509.CertPool
	mu       sync.Mutex
	received bytes.Buffer
}

// decrypted returns what clients sent inside TLS.
func (p *proxy) decrypted() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.received.String()
}

func newProxy(t *testing.T, authority string, names ...string) *proxy {
	certificate, roots := nettest.Issue(t, authority, names...)
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"postgresql"}}
	p := &proxy{roots: roots}
	p.address = nettest.Listen(t, func(conn *net.TCPConn) { p.serve(conn, config) })
	return p
}

func (p *proxy) serve(raw *net.TCPConn, config *tls.Config) {
	r := bufio.NewReader(raw)
	head, err := r.Peek(8)
	if err != nil {
		return
	}
	if head[0] != 0x16 {
		if !isSSLRequest(head) {
			return
		}
		_, _ = r.Discard(8)
		_, _ = raw.Write([]byte("S"))
	}
	conn := tls.Server(&peeked{raw, r}, config)
	backend := pgproto3.NewBackend(io.TeeReader(conn, lockedWriter{p}), conn)
	if _, err := backend.ReceiveStartupMessage(); err != nil {
		return
	}
	backend.Send(&pgproto3.AuthenticationCleartextPassword{})
	_ = backend.Flush()
	_ = backend.SetAuthType(pgproto3.AuthTypeCleartextPassword)
	message, err := backend.Receive()
	if password, ok := message.(*pgproto3.PasswordMessage); ok && err == nil {
		backend.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "XX000", Message: "your password is " + password.Password})
		_ = backend.Flush()
		_, _ = io.Copy(io.Discard, conn)
	}
}

type peeked struct {
	net.Conn
	r io.Reader
}

func (p *peeked) Read(b []byte) (int, error) { return p.r.Read(b) }

type lockedWriter struct{ p *proxy }

func (w lockedWriter) Write(b []byte) (int, error) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	return w.p.received.Write(b)
}

// plainPostgres answers as a PostgreSQL without TLS does.
func plainPostgres(t *testing.T) (address string) {
	return nettest.Listen(t, func(conn *net.TCPConn) {
		backend := pgproto3.NewBackend(conn, conn)
		for {
			message, err := backend.ReceiveStartupMessage()
			if err != nil {
				return
			}
			if _, ok := message.(*pgproto3.SSLRequest); !ok {
				break
			}
			_, _ = conn.Write([]byte("N"))
		}
		backend.Send(&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}})
		_ = backend.Flush()
		_, _ = io.Copy(io.Discard, conn)
	})
}

// fakeServer is a server that refuses what dsqltest does not. It answers no query.
type fakeServer struct {
	address string
	roots   *x509.CertPool
}

// newFakeServer starts one that has a certificate for names. refuse decides about a startup, with an
// empty token, and about a token.
func newFakeServer(t *testing.T, refuse func(serverName, token string) *pgproto3.ErrorResponse, names ...string) fakeServer {
	certificate, roots := nettest.Issue(t, "fake", names...)
	config := &tls.Config{Certificates: []tls.Certificate{certificate}, NextProtos: []string{"postgresql"}}
	address := nettest.Listen(t, func(raw *net.TCPConn) {
		r := bufio.NewReader(raw)
		if head, err := r.Peek(8); err != nil || head[0] != 0x16 {
			if err != nil || !isSSLRequest(head) {
				return
			}
			_, _ = r.Discard(8)
			_, _ = raw.Write([]byte("S"))
		}
		conn := tls.Server(&peeked{raw, r}, config)
		backend := pgproto3.NewBackend(conn, conn)
		if _, err := backend.ReceiveStartupMessage(); err != nil {
			return
		}
		answer := func(token string) (refused bool) {
			if response := refuse(conn.ConnectionState().ServerName, token); response != nil {
				backend.Send(response)
				refused = true
			}
			return refused
		}
		if !answer("") {
			backend.Send(&pgproto3.AuthenticationCleartextPassword{})
			_ = backend.Flush()
			_ = backend.SetAuthType(pgproto3.AuthTypeCleartextPassword)
			message, err := backend.Receive()
			password, ok := message.(*pgproto3.PasswordMessage)
			if err != nil || !ok {
				return
			}
			if !answer(password.Password) {
				backend.Send(&pgproto3.AuthenticationOk{})
				backend.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
			}
		}
		_ = backend.Flush()
		if _, err := backend.Receive(); err == nil { // a query, while no other probe runs
			timeOutAll()
		}
		_, _ = io.Copy(io.Discard, conn)
	})
	return fakeServer{address, roots}
}
