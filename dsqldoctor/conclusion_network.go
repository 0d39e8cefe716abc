package dsqldoctor

import (
	"fmt"
	"net/netip"
	"strings"
)

// concludeNetwork is about everything up to a verified TLS connection. It returns nil if there is
// one, or if it was not tested.
func (f *findings) concludeNetwork() *conclusion {
	switch {
	case f.transport == transportAuto && f.webSocket.ok():
		return nil
	case f.transport == transportWebSocket && f.webSocket.tried():
		return f.concludeWebSocket()
	}
	c := f.concludeTCP()
	if c != nil && f.webSocket.failed() {
		c.evidence = append(c.evidence, "WebSocket: "+f.webSocket.describe())
	}
	return c
}

// concludeTCP is about TCP, and TLS on the port of PostgreSQL.
func (f *findings) concludeTCP() *conclusion {
	if f.dns.failed() {
		c := f.dnsProblem()
		if f.webSocket.ok() { // by a proxy, which resolves the name
			c.remedies = append([]string{f.webSocketRemedy()}, c.remedies...)
		}
		return c
	}
	tried, connected := false, false
	for _, t := range f.tcp {
		tried = tried || t.tried()
		connected = connected || t.ok()
	}
	switch {
	case connected:
		return f.concludeTLS()
	case tried:
		return f.tcpProblem()
	}
	return nil
}

func (f *findings) dnsProblem() *conclusion {
	name := hostOf(f.target.DialAddress)
	c := &conclusion{verdict: VerdictDNS, evidence: []string{f.dns.description()}}
	if f.dns.outcome != outcomeUnknownName {
		c.summary = fmt.Sprintf("The resolver does not answer for %s.", name)
		c.remedies = []string{
			fmt.Sprintf("Look up the name by hand, with this host's resolver and with another: dig %s; dig @1.1.1.1 %s", name, name),
			"Check this host's resolver (/etc/resolv.conf), and that the firewall allows outgoing connections to port 53.",
		}
		return c
	}
	c.summary = fmt.Sprintf("The name %s does not resolve.", name)
	c.remedies = []string{"Compare it with the endpoint that AWS states: " + f.getClusterCommand()}
	if strings.Contains(name, ".dsql-") {
		c.remedies = append(c.remedies,
			"PrivateLink names resolve only inside the VPC, and only with private DNS: aws ec2 modify-vpc-endpoint --vpc-endpoint-id <vpce-id> --private-dns-enabled (the VPC needs DNS support and DNS host names).")
		if !strings.Contains(name, "vpce") {
			c.remedies = append(c.remedies,
				fmt.Sprintf("Without private DNS, dial the VPC endpoint by its own name: Config{Host: \"vpce-….%s.%s.vpce.amazonaws.com\", ClusterID: %q}",
					strings.Split(name, ".")[1], f.target.Region, f.target.ClusterID))
		}
	}
	c.remedies = append(c.remedies, "If the address is known, dial it: Config.DialAddress: \"<address>:5432\". TLS and the token still use the name.")
	return c
}

func (f *findings) tcpProblem() *conclusion {
	address := f.target.DialAddress
	c := &conclusion{verdict: VerdictPort}
	count := map[outcome]int{}
	onlyIPv6 := true
	for _, t := range f.tcp {
		if t.tried() {
			count[t.outcome]++
			onlyIPv6 = onlyIPv6 && isIPv6(t.address)
			c.evidence = append(c.evidence, t.address+": "+t.description())
		}
	}
	switch {
	case onlyIPv6 && count[outcomeNoRoute] > 0 && count[outcomePortClosed] == 0:
		return f.ipv6Problem(c)
	case f.dialsThisHost() && count[outcomeReset] > 0:
		return f.tunnelProblem(c)
	case f.dialsThisHost() && count[outcomePortClosed] > 0:
		c.summary = fmt.Sprintf("Nothing listens on %s, where a tunnel or proxy is expected.", address)
		c.remedies = []string{"Start the tunnel and keep it running: " + f.sshCommand(), "Check the port in Config.DialAddress."}
		return c
	case count[outcomePortClosed] > 0:
		c.summary = fmt.Sprintf("The port is closed: %s refuses TCP connections.", address)
		c.remedies = []string{"Check the port: DSQL's is 5432.", "Check the address: an old DNS entry or /etc/hosts may lead to another host."}
	case count[outcomeNoRoute] > 0 && count[outcomeTimeout] == 0:
		c.summary = fmt.Sprintf("There is no route to %s.", address)
		c.remedies = []string{"If the address is private, connect to its VPC first (VPN, peering, transit gateway)."}
	case count[outcomeTimeout] > 0:
		c.summary = fmt.Sprintf("The port is filtered: nothing answers at %s.", address)
		c.remedies = []string{
			"In AWS: allow port 5432 in the outbound rules of this host's security group, and in the inbound rules of the VPC endpoint's security group. Check the network ACLs and the route to the internet (NAT) as well.",
			"Elsewhere: ask for outgoing TCP connections to port 5432 to be allowed.",
		}
	default:
		c.summary = fmt.Sprintf("No TCP connection to %s can be opened.", address)
	}
	c.remedies = append(c.remedies, f.workarounds()...)
	return c
}

func isIPv6(address string) bool {
	a, err := netip.ParseAddrPort(address)
	return err == nil && a.Addr().Is6()
}

func (f *findings) ipv6Problem(c *conclusion) *conclusion {
	host := hostOf(f.target.DialAddress)
	c.verdict = VerdictIPv6
	c.summary = fmt.Sprintf("%s leads to IPv6 addresses only, and this host has no route to them.", host)
	c.remedies = []string{
		"Give the host or container IPv6: a subnet with an IPv6 range and a route ::/0; in Docker, a network with --ipv6.",
		"Or use a resolver that returns the IPv4 addresses too. DSQL's public names have both: dig A " + host,
		"Or dial an IPv4 address: Config.DialAddress: \"<address>:5432\".",
	}
	return c
}

// tunnelProblem is for a near end that accepts connections and then ends all of them.
func (f *findings) tunnelProblem(c *conclusion) *conclusion {
	c.verdict = VerdictTunnel
	c.summary = fmt.Sprintf("The tunnel or proxy at %s accepts connections, but does not reach its far end.", f.target.DialAddress)
	c.remedies = []string{
		"Read the tunnel's own messages. Its far end must be the endpoint, by a name or address that works on the host it runs through: " + f.sshCommand(),
		"Check that this host resolves the name and may connect to port 5432.",
	}
	return c
}
