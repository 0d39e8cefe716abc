package dsqldoctor

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// maxAddresses bounds how many addresses of a name are tested. More would tell nothing new.
const maxAddresses = 8

// testDNS returns the addresses to dial.
func (d *diagnosis) testDNS(ctx context.Context) (addresses []string) {
	host, port := hostOf(d.target.DialAddress), portOf(d.target.DialAddress)
	switch {
	case d.transport == transportWebSocket && d.webSocket.proxy != "":
		d.skip(stepDNS, "the HTTP proxy "+d.webSocket.proxy+" resolves the name")
		return nil
	case !isName(host):
		d.skip(stepDNS, "the address is given")
		return []string{d.target.DialAddress}
	case d.config.DialFunc != nil:
		d.skip(stepDNS, "Config.DialFunc resolves the name")
		return []string{d.target.DialAddress}
	}
	found, f := start(ctx, d, d.limits.step, func(ctx context.Context) ([]netip.Addr, finding) {
		found, err := lookup(ctx, host)
		return found, newFinding("", err)
	})()
	d.dns = f
	var seen []string
	for _, a := range found {
		seen = append(seen, fmt.Sprintf("%s (%s)", a, addressKind(a)))
		if len(addresses) < maxAddresses {
			addresses = append(addresses, net.JoinHostPort(a.String(), port))
		}
	}
	d.recordFinding(stepDNS, f, host+" is "+strings.Join(seen, ", "))
	return addresses
}

// lookup asks the system's resolver for IPv4 and IPv6 addresses.
func lookup(ctx context.Context, host string) ([]netip.Addr, error) {
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	for i, a := range addresses {
		addresses[i] = a.Unmap()
	}
	return slices.Compact(addresses), err
}

func addressKind(a netip.Addr) string {
	switch {
	case a.IsLoopback():
		return "this host"
	case a.IsPrivate(), a.IsLinkLocalUnicast():
		return "private"
	}
	return "public"
}

// testTCP connects to each address. The later steps dial the first one that answers.
func (d *diagnosis) testTCP(ctx context.Context, addresses []string) {
	if len(addresses) == 0 {
		reason := "there is no address to dial"
		if d.transport == transportWebSocket && d.webSocket.proxy != "" {
			reason = "the HTTP proxy " + d.webSocket.proxy + " connects"
		}
		d.skip(stepTCP, reason)
		return
	}
	waits := make([]func() finding, len(addresses))
	for i, address := range addresses {
		waits[i] = startProbe(ctx, d, d.limits.step, func(ctx context.Context) finding { return d.prober.connectTCP(ctx, address) })
	}
	for i, wait := range waits {
		f := wait()
		d.tcp = append(d.tcp, tcpFinding{addresses[i], f})
		d.recordFinding(stepTCP+" "+addresses[i], f, "connected")
		if f.ok() && d.prober.address == "" {
			d.prober.address = addresses[i]
		}
	}
}
