package dsql

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/dsqlgo/dsql/internal/configerr"
	"github.com/dsqlgo/dsql/internal/connstring"
)

// Endpoint is what the names in a Config mean: the address to dial, and the name to send to the
// server. The two differ behind a VPC endpoint without private DNS, in a tunnel and behind a proxy.
type Endpoint struct {
	// DialAddress is the "host:port" that TCP connects to.
	DialAddress string
	// ServerName is the SNI, the name that the certificate must cover, and the host that the token
	// is signed for. Its first label is always the cluster ID, by which the server finds the
	// cluster. So it is never a vpce-… name, an IP address or empty.
	ServerName string
	// Region is the AWS region that the token is signed for.
	Region string
	// ClusterID is the cluster's 26-character ID.
	ClusterID string
}

// nameParts are the parts of a DSQL name. Parts that a name does not contain are empty.
type nameParts struct {
	clusterID string
	service   string // "dsql", or "dsql-<suffix>" behind PrivateLink
	region    string
}

// resolveNames decides what the names in c mean. It calls awsRegion, which returns the region of
// the AWS environment or profile, only if no name and no field says the region.
//
//	dial  DialAddress, else Host; for a bare cluster ID, the name sent
//	send  ServerName, else <id>.<service>.<region>.on.aws with the service of Host, else "dsql"
func resolveNames(c Config, awsRegion func() (string, error)) (Endpoint, error) {
	host, port, err := splitAddress("Host", c.Host)
	if err != nil {
		return Endpoint{}, err
	}
	if port != 0 && c.Port != 0 && port != c.Port {
		return Endpoint{}, configerr.New("Port", "is %d, but Host ends in :%d; set one of them, or both to the same port", c.Port, port)
	}
	port = max(port, c.Port)
	parts, err := parseName("Host", host)
	if err != nil {
		return Endpoint{}, err
	}
	dialHost := host
	bareID := host == parts.clusterID
	dialPortGiven := false

	serverName, err := resolveServerName(c, host, &parts, awsRegion)
	if err != nil {
		return Endpoint{}, err
	}
	if bareID {
		dialHost = serverName
	}
	if strings.TrimSpace(c.DialAddress) != "" {
		var dialPort uint16
		if dialHost, dialPort, err = splitAddress("DialAddress", c.DialAddress); err != nil {
			return Endpoint{}, err
		}
		if dialPort != 0 {
			port, dialPortGiven = dialPort, true
		}
	}
	if port == 0 {
		port = c.defaultPort()
	}
	if c.Transport == transportWebSocket && port == tcpPort && !dialPortGiven {
		return Endpoint{}, configerr.New("Port", "is 5432, where a cluster does not take WebSockets; remove it for 443")
	}
	return Endpoint{
		DialAddress: net.JoinHostPort(dialHost, strconv.Itoa(int(port))),
		ServerName:  serverName,
		Region:      parts.region,
		ClusterID:   parts.clusterID,
	}, nil
}

// resolveServerName returns the name to send. parts are those of host; it adds the cluster ID and
// region that the fields and the AWS environment say.
func resolveServerName(c Config, host string, parts *nameParts, awsRegion func() (string, error)) (serverName string, err error) {
	var override nameParts
	if strings.TrimSpace(c.ServerName) != "" {
		if serverName, override, err = parseServerName(c.ServerName); err != nil {
			return "", err
		}
	}
	clusterID := strings.ToLower(strings.TrimSpace(c.ClusterID))
	if clusterID != "" && !isClusterID(clusterID) {
		return "", configerr.New("ClusterID", "%q is not a cluster ID; set it to the 26 letters and digits that the cluster's endpoint begins with", c.ClusterID)
	}
	region := strings.ToLower(strings.TrimSpace(c.Region))
	if region != "" && !isRegion(region) {
		return "", configerr.New("Region", "%q is not an AWS region; write it like us-east-1", c.Region)
	}

	// The server would refuse a token for one cluster with the SNI of another, and give no reason.
	if parts.clusterID, err = reconcile("ClusterID", "cluster", clusterID, parts.clusterID, override.clusterID); err != nil {
		return "", err
	}
	if parts.region, err = reconcile("Region", "region", region, parts.region, override.region); err != nil {
		return "", err
	}
	if parts.clusterID == "" {
		if parts.service != "" {
			return "", configerr.New("ClusterID", "is empty, and Host %q is a VPC endpoint, which does not name the cluster; set ClusterID to the 26 letters and digits that the cluster's own endpoint begins with", host)
		}
		return "", configerr.New("ClusterID", "is empty, and Host %q does not name a cluster; set ClusterID and Region (or ServerName), or set Host to the cluster endpoint (<id>.dsql.<region>.on.aws)", host)
	}
	if parts.region == "" {
		if parts.region, err = regionFromAWS(host, awsRegion); err != nil {
			return "", err
		}
	}
	if serverName != "" {
		return serverName, nil
	}
	service := parts.service
	if service == "" {
		service = "dsql"
	}
	return parts.clusterID + "." + service + "." + parts.region + ".on.aws", nil
}

func regionFromAWS(host string, awsRegion func() (string, error)) (string, error) {
	region, err := awsRegion()
	if err != nil {
		return "", err
	}
	region = strings.ToLower(strings.TrimSpace(region))
	switch {
	case region == "":
		return "", configerr.New("Region", "is empty, and neither Host %q nor the AWS environment or profile says one; set Region, AWS_REGION, or Host to the full endpoint (<id>.dsql.<region>.on.aws)", host)
	case !isRegion(region):
		return "", configerr.New("Region", "the AWS environment or profile says %q, which is not a region; set Region", region)
	}
	return region, nil
}

// reconcile returns the value that a field, Host and ServerName agree on. Each may be empty.
func reconcile(field, what, fromField, fromHost, fromServerName string) (string, error) {
	value, source := fromField, field
	for _, other := range []struct{ source, value string }{{"Host", fromHost}, {"ServerName", fromServerName}} {
		switch {
		case other.value == "" || other.value == value:
		case value == "":
			value, source = other.value, other.source
		default:
			return "", configerr.New(field, "%s says %q, but %s names the %s %q; make them agree", source, value, other.source, what, other.value)
		}
	}
	return value, nil
}

// parseName parses the forms of a DSQL name. For an IP address and for any other name it returns no
// parts. A name under a domain of DSQL that has none of the forms is an error.
func parseName(field, host string) (nameParts, error) {
	if isClusterID(host) {
		return nameParts{clusterID: host}, nil
	}
	if rest, ok := strings.CutSuffix(host, ".on.aws"); ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 3 || !isService(labels[1]) || !isRegion(labels[2]) {
			return nameParts{}, configerr.New(field, "%q is not a DSQL endpoint; those are <id>.dsql.<region>.on.aws and, behind PrivateLink, <id>.dsql-<suffix>.<region>.on.aws", host)
		}
		if !isClusterID(labels[0]) {
			return nameParts{}, configerr.New(field, "%q begins with %q, which is not a cluster ID of 26 letters and digits; copy the endpoint from the console or `aws dsql get-cluster`", host, labels[0])
		}
		return nameParts{clusterID: labels[0], service: labels[1], region: labels[2]}, nil
	}
	rest, ok := strings.CutSuffix(host, ".vpce.amazonaws.com")
	if !ok {
		rest, ok = strings.CutSuffix(host, ".vpce.amazonaws.com.cn")
	}
	if ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 3 || !isVPCEndpoint(labels[0]) || !isService(labels[1]) || labels[1] == "dsql" || !isRegion(labels[2]) {
			return nameParts{}, configerr.New(field, "%q is not a VPC endpoint for DSQL connections; those are vpce-<id>-<id>.dsql-<suffix>.<region>.vpce.amazonaws.com", host)
		}
		return nameParts{service: labels[1], region: labels[2]}, nil
	}
	return nameParts{}, nil
}

// parseServerName parses Config.ServerName. It accepts any name whose first label is a cluster ID,
// since the server looks at nothing else, and partitions with other domains may come.
func parseServerName(s string) (string, nameParts, error) {
	name, port, err := splitAddress("ServerName", s)
	if err != nil {
		return "", nameParts{}, err
	}
	if port != 0 {
		return "", nameParts{}, configerr.New("ServerName", "%q ends in a port; set Port or DialAddress, and only the name here", s)
	}
	first, rest, _ := strings.Cut(name, ".")
	if !isClusterID(first) || rest == "" {
		return "", nameParts{}, configerr.New("ServerName", "%q does not begin with a cluster ID, by which the server finds the cluster; set it to <id>.dsql.<region>.on.aws or, behind PrivateLink, <id>.dsql-<suffix>.<region>.on.aws", name)
	}
	parts, err := parseName("ServerName", name)
	parts.clusterID = first
	return name, parts, err
}

// splitAddress splits "name", "name:port", "1.2.3.4", "::1" and "[::1]:port" into host and port. The
// host is in lower case and without a trailing dot. The port is 0 if there is none.
func splitAddress(field, s string) (host string, port uint16, err error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return "", 0, configerr.New(field, "is empty; set it to the cluster endpoint (<id>.dsql.<region>.on.aws) or another name or address that leads to it")
	case connstring.IsARN(s):
		return "", 0, configerr.New(field, connstring.HostIsARN)
	case strings.Contains(s, "://") || strings.ContainsAny(s, "@?"):
		// Not quoted: a URL may contain a password.
		if field == "DialAddress" {
			return "", 0, configerr.New(field, "looks like a URL; set it to host:port, like localhost:15432")
		}
		return "", 0, configerr.New(field, "looks like a connection string; pass it to ParseConfig, and only the host name here")
	case strings.Contains(s, "/"):
		return "", 0, configerr.New(field, "%q contains a slash; DSQL is reached by TCP only, so set a host name or an IP address", s)
	case strings.Contains(s, ","):
		return "", 0, configerr.New(field, "%q contains more than one host; a DSQL cluster has one endpoint", s)
	}

	portText, hasPort := "", false
	if inner, ok := strings.CutPrefix(s, "["); ok {
		var rest string
		if host, rest, ok = strings.Cut(inner, "]"); !ok {
			return "", 0, configerr.New(field, "%q lacks the closing bracket of an IPv6 address", s)
		}
		if portText, hasPort = strings.CutPrefix(rest, ":"); rest != "" && !hasPort {
			return "", 0, configerr.New(field, "%q has something other than :port after the bracket", s)
		}
		if ip, err := netip.ParseAddr(host); err != nil || !ip.Is6() {
			return "", 0, configerr.New(field, "%q has no IPv6 address in its brackets", s)
		}
	} else if host = s; strings.Count(s, ":") == 1 {
		host, portText, hasPort = strings.Cut(s, ":")
	}
	if hasPort {
		n, err := strconv.ParseUint(portText, 10, 16)
		if err != nil || n == 0 {
			// Not quoted: part of a badly written connection string may be here, with its password.
			return "", 0, configerr.New(field, "the port after the colon is not a number from 1 to 65535")
		}
		port = uint16(n)
		if host == "" {
			return "", 0, configerr.New(field, "has no host before its port; write it like localhost:15432")
		}
	}
	host, err = canonicalHost(field, host)
	return host, port, err
}

// canonicalHost checks a host name or IP address and returns it in its canonical form.
func canonicalHost(field, host string) (string, error) {
	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String(), nil
	}
	name := strings.ToLower(strings.TrimSuffix(host, "."))
	if len(name) > 253 {
		return "", configerr.New(field, "is longer than a host name can be (253 characters)")
	}
	if strings.Contains(name, ":") {
		return "", configerr.New(field, "has more than one colon, but is not an IPv6 address; write name:port or [address]:port")
	}
	labels := strings.Split(name, ".")
	for _, label := range labels {
		if !isLabel(label) {
			return "", configerr.New(field, "%q is neither a host name nor an IP address", host)
		}
	}
	// The highest label of a name is alphabetic (RFC 1123, 2.1), so this is a mistyped IPv4 address.
	if consistsOf(labels[len(labels)-1], digits) {
		return "", configerr.New(field, "%q looks like an IPv4 address, but is not one", host)
	}
	return name, nil
}

// No regular expressions: compiling them took nine tenths of the time that importing this package
// adds to the start of a program.
const (
	lowercase = "abcdefghijklmnopqrstuvwxyz"
	uppercase = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits    = "0123456789"
)

// consistsOf reports whether s is not empty and contains no other characters than these.
func consistsOf(s, characters string) bool { return s != "" && strings.Trim(s, characters) == "" }

func isClusterID(s string) bool { return len(s) == 26 && consistsOf(s, lowercase+digits) }

// isRegion accepts names such as "us-east-1" and "us-gov-west-1".
func isRegion(s string) bool {
	parts := strings.Split(s, "-")
	last := len(parts) - 1
	for _, part := range parts[:last] {
		if !consistsOf(part, lowercase) {
			return false
		}
	}
	return last >= 2 && len(parts[0]) >= 2 && consistsOf(parts[last], digits) && len(parts[last]) <= 2
}

// isVPCEndpoint accepts "vpce-<id>-<id>", with or without an availability zone after it.
func isVPCEndpoint(label string) bool {
	ids, ok := strings.CutPrefix(label, "vpce-")
	first, second, more := strings.Cut(ids, "-")
	return ok && more && consistsOf(first, lowercase+digits) && isLabel(second) && !strings.Contains(second, "_")
}

// isLabel reports whether s may be a label of a host name (RFC 1123, 2.1). It accepts underscores,
// as DNS does.
func isLabel(s string) bool {
	return len(s) <= 63 && consistsOf(s, lowercase+digits+"_-") && s[0] != '-' && s[len(s)-1] != '-'
}

// isService accepts "dsql" and "dsql-<suffix>".
func isService(label string) bool {
	if label == "dsql" {
		return true
	}
	suffix, ok := strings.CutPrefix(label, "dsql-")
	return ok && suffix != ""
}
