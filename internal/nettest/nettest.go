// Package nettest has what tests of connections need of a network: listeners, certificates and name
// servers.
package nettest

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// ClosedAddress refuses TCP connections. No system hands out port 1 to a process that asks for any
// port. The port of a listener that was closed may soon belong to another process.
const ClosedAddress = "127.0.0.1:1"

// Listen serves TCP connections on loopback until the test ends, each by a call of serve.
func Listen(t *testing.T, serve func(*net.TCPConn)) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var (
		wg    sync.WaitGroup
		conns openConns
	)
	wg.Go(func() {
		for {
			conn, err := conns.add(l.Accept())
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				serve(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		conns.close()
		wg.Wait()
	})
	return l.Addr().String()
}

// Issue makes an authority and a certificate of it for names. The pool trusts that authority.
func Issue(t *testing.T, authority string, names ...string) (tls.Certificate, *x509.CertPool) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	make := func(template, parent *x509.Certificate) *x509.Certificate {
		template.SerialNumber, template.NotBefore, template.NotAfter = big.NewInt(1), time.Now().Add(-time.Hour), time.Now().Add(time.Hour)
		der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), key)
		require.NoError(t, err)
		made, err := x509.ParseCertificate(der)
		require.NoError(t, err)
		return made
	}
	root := &x509.Certificate{Subject: pkix.Name{CommonName: authority, Organization: []string{authority}}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	root = make(root, root)
	leaf := make(&x509.Certificate{Subject: pkix.Name{CommonName: names[0]}, DNSNames: names}, root)
	roots := x509.NewCertPool()
	roots.AddCert(root)
	return tls.Certificate{Certificate: [][]byte{leaf.Raw, root.Raw}, PrivateKey: key}, roots
}

// NameServer makes answer the resolver of the process until the test ends: it decides what every
// name resolves to, by the kind of record (1 for A, 28 for AAAA). A nil answer is silence. See
// RFC 1035, 4.1.
func NameServer(t *testing.T, answer func(kind uint16) (rcode byte, addresses []netip.Addr)) {
	names, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		query := make([]byte, 512)
		for {
			n, from, err := names.ReadFrom(query)
			if err != nil {
				return
			}
			if answer == nil {
				continue
			}
			end := 12 + bytes.IndexByte(query[12:n], 0) + 1 + 4 // of the question
			question := query[12:end]
			kind := binary.BigEndian.Uint16(question[len(question)-4:])
			rcode, addresses := answer(kind)
			reply := append([]byte{query[0], query[1], 0x81, 0x80 | rcode, 0, 1, 0, byte(len(addresses)), 0, 0, 0, 0}, question...)
			for _, a := range addresses {
				reply = append(reply, 0xc0, 12, 0, byte(kind), 0, 1, 0, 0, 0, 60, 0, byte(a.BitLen()/8))
				reply = append(reply, a.AsSlice()...)
			}
			_, _ = names.WriteTo(reply, from)
		}
	}()
	usual := net.DefaultResolver
	clients := &openConns{}
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		// Its own Resolver, since it would read net.DefaultResolver, maybe after the test.
		conn, err := (&net.Dialer{Resolver: usual}).DialContext(ctx, "udp", names.LocalAddr().String())
		return clients.add(conn, err)
	}}
	t.Cleanup(func() {
		net.DefaultResolver = usual
		clients.close() // a lookup that was given up goes on in the background
		names.Close()
		<-done
	})
}

// openConns are connections to close together. There are no new ones after that.
type openConns struct {
	mu     sync.Mutex // guards what follows
	conns  []net.Conn
	closed bool
}

func (o *openConns) add(conn net.Conn, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		conn.Close()
		return nil, net.ErrClosed
	}
	o.conns = append(o.conns, conn)
	return conn, nil
}

func (o *openConns) close() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.closed = true
	for _, conn := range o.conns {
		conn.Close()
	}
}
