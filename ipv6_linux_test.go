package dsql_test

import (
	"bytes"
	"context"
	"net"
	"net/netip"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
)

// A name has an IPv6 address that swallows everything: the dialer turns to the
// IPv4 address after its fallback delay, in the same attempt.
func TestConnectIPv6LeadsNowhere(t *testing.T) {
	s := dsqltest.New(t)
	_, port, err := net.SplitHostPort(s.Addr())
	require.NoError(t, err)
	blackHole(t, port)

	resolveBoth(t)

	c := s.Config()
	c.DialAddress = "both.example.com:" + port
	retries := 0
	c.OnRetry = func(dsql.RetryEvent) { retries++ }
	conn, err := dsql.Connect(t.Context(), c)
	require.NoError(t, err)
	require.NoError(t, conn.Close(t.Context()))
	require.Zero(t, retries)
	require.Len(t, s.Attempts(), 1)
}

// blackHole makes [::1]:port a listener whose queue is full: Linux drops what
// comes then.
func blackHole(t *testing.T, port string) {
	fd, err := syscall.Socket(syscall.AF_INET6, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skip("no IPv6 here")
	}
	t.Cleanup(func() { syscall.Close(fd) })
	n, err := strconv.Atoi(port)
	require.NoError(t, err)
	address := &syscall.SockaddrInet6{Port: n, Addr: netip.IPv6Loopback().As16()}
	if err := syscall.Bind(fd, address); err != nil {
		t.Skipf("[::1]:%s is not to be had: %v", port, err)
	}
	require.NoError(t, syscall.Listen(fd, 0))
	for range 10 {
		conn, err := net.DialTimeout("tcp6", net.JoinHostPort("::1", port), 200*time.Millisecond)
		if err != nil {
			return // full
		}
		t.Cleanup(func() { conn.Close() })
	}
	t.Fatal("the queue does not fill")
}

// resolveBoth has every name resolve to ::1 and 127.0.0.1 until the test ends,
// by a name server of a few lines (RFC 1035, 4.1).
func resolveBoth(t *testing.T) {
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
			end := 12 + bytes.IndexByte(query[12:n], 0) + 1 + 4 // of the question
			question := query[12:end]
			address := []byte(nil)
			switch question[len(question)-3] {
			case 1: // A
				address = []byte{127, 0, 0, 1}
			case 28: // AAAA
				loopback := netip.IPv6Loopback().As16()
				address = loopback[:]
			}
			answer := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, question...)
			if address != nil {
				answer[7] = 1
				answer = append(answer, 0xc0, 12, 0, question[len(question)-3], 0, 1, 0, 0, 0, 60, 0, byte(len(address)))
				answer = append(answer, address...)
			}
			_, _ = names.WriteTo(answer, from)
		}
	}()
	usual := net.DefaultResolver
	net.DefaultResolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{Resolver: usual}).DialContext(ctx, "udp", names.LocalAddr().String())
	}}
	t.Cleanup(func() {
		net.DefaultResolver = usual
		names.Close()
		<-done
	})
}
