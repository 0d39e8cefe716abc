package dsqldoctor_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqldoctor"
	"github.com/dsqlgo/dsql/internal/nettest"
)

// A listener whose queue is full ignores connection requests, as a firewall does.
func TestDiagnoseBlackHole(t *testing.T) {
	_, port, err := net.SplitHostPort(server.Addr())
	require.NoError(t, err)
	blackHole(t, port)

	c := temporary(server)
	c.DialAddress = "[::1]:" + port
	h := hooks
	h.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		if address == "[::1]:"+port {
			return dialUnanswered(dial)(ctx, network, address)
		}
		return dial(ctx, network, address)
	}
	r := diagnoseWith(t, c, h)
	requireVerdict(t, dsqldoctor.VerdictPort, r)
	require.Contains(t, r.Summary, "The port is filtered")
	require.Contains(t, fmt.Sprint(r.Remedies), "security group")
	require.Contains(t, stepOf(t, r, "tcp [::1]:"+port).Seen, "no answer to the connection request within")

	// Another address of the same name works.
	nettest.NameServer(t, func(kind uint16) (byte, []netip.Addr) {
		if kind == 28 {
			return 0, []netip.Addr{netip.IPv6Loopback()}
		}
		return 0, []netip.Addr{netip.MustParseAddr("127.0.0.1")}
	})
	c.DialAddress = "both.example.com:" + port
	r = diagnoseWith(t, c, h)
	requireVerdict(t, dsqldoctor.VerdictOK, r)
	require.Equal(t, dsqldoctor.StepFailed, stepOf(t, r, "tcp [::1]:"+port).Result)
	require.Contains(t, fmt.Sprint(r.Evidence), "another address works")
}

// A name that has an unreachable IPv6 address only. Linux reports "network is unreachable" for TCP
// to a multicast address on any host, whatever routes it has.
func TestDiagnoseIPv6Only(t *testing.T) {
	nettest.NameServer(t, func(kind uint16) (byte, []netip.Addr) {
		if kind == 28 {
			return 0, []netip.Addr{netip.MustParseAddr("ff0e::d5:1")}
		}
		return 0, nil
	})
	c := temporary(server)
	c.DialAddress = ""
	r := diagnose(t, c)
	requireVerdict(t, dsqldoctor.VerdictIPv6, r)
	require.Contains(t, r.Summary, publicName)
	require.Equal(t, dsqldoctor.StepFailed, stepOf(t, r, "tcp [ff0e::d5:1]:5432").Result)
}

// A network namespace is a host of its own: without IPv6, without a route to one network, and with
// a route to another that drops every packet.
func TestDiagnoseNamespace(t *testing.T) {
	dial := namespace(t,
		"link set lo up",
		"addr add 10.76.0.1/32 dev lo",
		// A packet sent here comes back in for an address that is not the host's, and is dropped.
		"route add 10.77.0.0/24 dev lo src 10.76.0.1")
	for address, want := range map[string]struct {
		verdict dsqldoctor.Verdict
		says    string
	}{
		"10.77.0.2":   {dsqldoctor.VerdictPort, "The port is filtered"},
		"10.78.0.2":   {dsqldoctor.VerdictPort, "There is no route to 10.78.0.2:5432"},
		"2001:db8::1": {dsqldoctor.VerdictIPv6, "IPv6 addresses only"},
	} {
		t.Run(address, func(t *testing.T) {
			c := temporary(server)
			c.DialAddress, c.DialFunc = address, dialUnanswered(dial)
			r := diagnose(t, c)
			requireVerdict(t, want.verdict, r)
			require.Contains(t, r.Summary, want.says)
		})
	}
}

// namespace makes a network namespace, set up by arguments of ip(8), and returns what dials in it.
// It skips the test where the machine does not allow that.
func namespace(t *testing.T, setup ...string) func(ctx context.Context, network, address string) (net.Conn, error) {
	calls := make(chan func())
	ready := make(chan error)
	go func() {
		// Sockets and commands made on this thread belong to the namespace. It ends with the
		// goroutine, since it is not unlocked.
		runtime.LockOSThread()
		ready <- func() error {
			if err := syscall.Unshare(syscall.CLONE_NEWNET); err != nil {
				return err
			}
			for _, arguments := range setup {
				if out, err := exec.Command("sh", "-c", "ip "+arguments).CombinedOutput(); err != nil {
					return fmt.Errorf("ip %s: %w: %s", arguments, err, out)
				}
			}
			return nil
		}()
		for call := range calls {
			call()
		}
	}()
	t.Cleanup(func() { close(calls) })
	if err := <-ready; err != nil {
		t.Skipf("no network namespace: %v", err)
	}
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		done := make(chan struct{})
		calls <- func() {
			defer close(done)
			// An address needs no look-up, so the dialer does it all on this goroutine.
			conn, err = new(net.Dialer).DialContext(ctx, network, address)
		}
		<-done
		return conn, err
	}
}

// blackHole makes [::1]:port a listener whose queue is full. Linux drops connection requests to it.
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
		t.Skipf("[::1]:%s is not available: %v", port, err)
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
