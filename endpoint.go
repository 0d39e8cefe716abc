package dsql

import (
	"net"
	"net/netip"
	"strconv"
	"strings"

	"github.com/dsqlgo/dsql/internal/configerr"
)

const defaultPort = 5432

// Endpoint is what the names in a Config mean: where to dial, and which name
// the server is to hear. The two differ behind a VPC endpoint without private
// DNS, in a tunnel and behind a proxy.
type Endpoint struct {
	// DialAddress is the "host:port" that the TCP connection goes to.
	DialAddress string
	// ServerName is the SNI, the name that the certificate must cover, and the
	// host that the token is signed for. Its first label is always the cluster
	// ID, from which the server finds the cluster: it is never a vpce-… name,
	// an IP address or empty.
	ServerName string
	// Region is the AWS region that the token is signed for.
	Region string
	// ClusterID is the cluster's 26-character ID.
	ClusterID string
}

// hostName is what a host name says by itself; what it does not say is empty.
type hostName struct {
	clusterID string
	service   string // "dsql", or "dsql-<suffix>" behind PrivateLink
	region    string
}

// resolveNames decides what the Config's names mean. It is pure but for awsRegion, which it calls
// for the region of the AWS environment or profile only when no name and no field says one.
func resolveNames(c Config, awsRegion func() (string, error)) (Endpoint, error) {
	host, hostPort, err := splitAddress("Host", c.Host)
	if err != nil {
		return Endpoint{}, err
	}
	if hostPort != 0 && c.Port != 0 && hostPort != c.Port {
		return Endpoint{}, configerr.New("Port", "is %d, but Host ends in :%d; set one of them, or both to the same port", c.Port, hostPort)
	}
	port := max(c.Port, hostPort)
	if port == 0 {
		port = defaultPort
	}

	named, err := readName("Host", host)
	if err != nil {
		return Endpoint{}, err
	}
	bareID := host == named.clusterID

	var override hostName
	serverName := ""
	if strings.TrimSpace(c.ServerName) != "" {
		if serverName, override, err = readServerName(c.ServerName); err != nil {
			return Endpoint{}, err
		}
	}
	clusterID := strings.ToLower(strings.TrimSpace(c.ClusterID))
	if clusterID != "" && !isClusterID(clusterID) {
		return Endpoint{}, configerr.New("ClusterID", "%q is not a cluster ID; it is the 26 letters and digits that the cluster's endpoint begins with", c.ClusterID)
	}
	region := strings.ToLower(strings.TrimSpace(c.Region))
	if region != "" && !isRegion(region) {
		return Endpoint{}, configerr.New("Region", "%q is not an AWS region; write it like us-east-1", c.Region)
	}

	// What two places say must agree: a token for one cluster and an SNI for
	// another would only be refused later, without a reason.
	if clusterID, err = agree("ClusterID", "a cluster", clusterID, named.clusterID, override.clusterID); err != nil {
		return Endpoint{}, err
	}
	if region, err = agree("Region", "a region", region, named.region, override.region); err != nil {
		return Endpoint{}, err
	}

	if clusterID == "" {
		if named.service != "" {
			return Endpoint{}, configerr.New("ClusterID", "is empty, and Host %q is a VPC endpoint, which does not name the cluster; set ClusterID to the 26 letters and digits that the cluster's own endpoint begins with", host)
		}
		return Endpoint{}, configerr.New("ClusterID", "is empty, and Host %q does not name a cluster; set ClusterID and Region (or ServerName), or set Host to the cluster endpoint (<id>.dsql.<region>.on.aws)", host)
	}
	if region == "" {
		if region, err = awsRegion(); err != nil {
			return Endpoint{}, err
		}
		region = strings.ToLower(strings.TrimSpace(region))
		if region == "" {
			return Endpoint{}, configerr.New("Region", "is empty, and neither Host %q nor the AWS environment or profile says one; set Region, AWS_REGION, or Host to the full endpoint (<id>.dsql.<region>.on.aws)", host)
		}
		if !isRegion(region) {
			return Endpoint{}, configerr.New("Region", "the AWS environment or profile says %q, which is not a region; set Region", region)
		}
	}

	if serverName == "" {
		service := named.service
		if service == "" {
			service = "dsql"
		}
		serverName = clusterID + "." + service + "." + region + ".on.aws"
	}
	dialHost := host
	if bareID {
		dialHost = serverName
	}
	if strings.TrimSpace(c.DialAddress) != "" {
		var dialPort uint16
		if dialHost, dialPort, err = splitAddress("DialAddress", c.DialAddress); err != nil {
			return Endpoint{}, err
		}
		if dialPort != 0 {
			port = dialPort
		}
	}
	return Endpoint{
		DialAddress: net.JoinHostPort(dialHost, strconv.Itoa(int(port))),
		ServerName:  serverName,
		Region:      region,
		ClusterID:   clusterID,
	}, nil
}

// agree returns the one value that the field, Host and ServerName give
// between them.
func agree(field, what, fromField, fromHost, fromServerName string) (string, error) {
	value, source := fromField, field
	for _, other := range []struct{ source, value string }{{"Host", fromHost}, {"ServerName", fromServerName}} {
		switch {
		case other.value == "" || other.value == value:
		case value == "":
			value, source = other.value, other.source
		default:
			return "", configerr.New(field, "%s says %q, but %s names %s of its own, %q; make them agree", source, value, other.source, what, other.value)
		}
	}
	return value, nil
}

// readName reads the forms of a DSQL name, and says nothing of any other name
// or of an IP address. A name that can only be meant as DSQL's, but is none,
// is an error.
func readName(field, host string) (hostName, error) {
	if isClusterID(host) {
		return hostName{clusterID: host}, nil
	}
	if rest, ok := strings.CutSuffix(host, ".on.aws"); ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 3 || !isService(labels[1]) || !isRegion(labels[2]) {
			return hostName{}, configerr.New(field, "%q is not a DSQL endpoint; those are <id>.dsql.<region>.on.aws and, behind PrivateLink, <id>.dsql-<suffix>.<region>.on.aws", host)
		}
		if !isClusterID(labels[0]) {
			return hostName{}, configerr.New(field, "%q begins with %q, which is not a cluster ID of 26 letters and digits; copy the endpoint from the console or `aws dsql get-cluster`", host, labels[0])
		}
		return hostName{clusterID: labels[0], service: labels[1], region: labels[2]}, nil
	}
	rest, ok := strings.CutSuffix(host, ".vpce.amazonaws.com")
	if !ok {
		rest, ok = strings.CutSuffix(host, ".vpce.amazonaws.com.cn")
	}
	if ok {
		labels := strings.Split(rest, ".")
		if len(labels) != 3 || !isVPCEndpoint(labels[0]) || !isService(labels[1]) || labels[1] == "dsql" || !isRegion(labels[2]) {
			return hostName{}, configerr.New(field, "%q is not a VPC endpoint for DSQL connections; those are vpce-<id>-<id>.dsql-<suffix>.<region>.vpce.amazonaws.com", host)
		}
		return hostName{service: labels[1], region: labels[2]}, nil
	}
	return hostName{}, nil
}

// What names are made of is told without regular expressions: compiling those was nine
// tenths of what importing this package costs the start of a program.
const (
	letters  = "abcdefghijklmnopqrstuvwxyz"
	capitals = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits   = "0123456789"
)

// only tells whether s consists of these characters, and is not empty.
func only(s, characters string) bool { return s != "" && strings.Trim(s, characters) == "" }

func isClusterID(s string) bool { return len(s) == 26 && only(s, letters+digits) }

// isRegion tells "us-east-1" and "us-gov-west-1".
func isRegion(s string) bool {
	parts := strings.Split(s, "-")
	last := len(parts) - 1
	for _, part := range parts[:last] {
		if !only(part, letters) {
			return false
		}
	}
	return last >= 2 && len(parts[0]) >= 2 && only(parts[last], digits) && len(parts[last]) <= 2
}

// isVPCEndpoint tells "vpce-<id>-<id>", with or without an availability zone behind it.
func isVPCEndpoint(label string) bool {
	ids, ok := strings.CutPrefix(label, "vpce-")
	first, second, more := strings.Cut(ids, "-")
	return ok && more && only(first, letters+digits) && isLabel(second) && !strings.Contains(second, "_")
}

// isLabel tells a part of a host name (RFC 1123, 2.1, and the underscore that DNS takes as well).
func isLabel(s string) bool {
	return len(s) <= 63 && only(s, letters+digits+"_-") && s[0] != '-' && s[len(s)-1] != '-'
}

// isService tells "dsql" and "dsql-<suffix>".
func isService(label string) bool {
	if label == "dsql" {
		return true
	}
	suffix, ok := strings.CutPrefix(label, "dsql-")
	return ok && suffix != ""
}

// readServerName reads Config.ServerName. Any name will do whose first label
// is a cluster ID, since that is all the server looks at; so partitions with
// other domains are not shut out.
func readServerName(s string) (string, hostName, error) {
	name, port, err := splitAddress("ServerName", s)
	if err != nil {
		return "", hostName{}, err
	}
	if port != 0 {
		return "", hostName{}, configerr.New("ServerName", "%q ends in a port; set Port or DialAddress, and leave the name alone here", s)
	}
	first, rest, _ := strings.Cut(name, ".")
	if !isClusterID(first) || rest == "" {
		return "", hostName{}, configerr.New("ServerName", "%q does not begin with a cluster ID, so the server could not tell which cluster is meant; it is <id>.dsql.<region>.on.aws or, behind PrivateLink, <id>.dsql-<suffix>.<region>.on.aws", name)
	}
	named, err := readName("ServerName", name)
	named.clusterID = first
	return name, named, err
}

const hostIsARN = "is an ARN, which cannot be dialled; set the cluster's endpoint, <id>.dsql.<region>.on.aws, whose id and region the ARN names"

// isARN tells a resource's name (IAM guide, "Amazon Resource Names") from a host "arn" with a port,
// for every partition's name begins with "aws".
func isARN(s string) bool { return strings.HasPrefix(strings.ToLower(s), "arn:aws") }

// splitAddress takes "name", "name:port", "1.2.3.4", "::1" and "[::1]:port"
// apart and brings the name to its canonical form: lower case, no trailing
// dot. Port is 0 where there is none.
func splitAddress(field, s string) (host string, port uint16, err error) {
	s = strings.TrimSpace(s)
	switch {
	case s == "":
		return "", 0, configerr.New(field, "is empty; set it to the cluster endpoint (<id>.dsql.<region>.on.aws) or another name or address that leads to it")
	case isARN(s):
		return "", 0, configerr.New(field, hostIsARN)
	case strings.Contains(s, "://") || strings.ContainsAny(s, "@?"):
		// Not quoted: a URL may hold a password.
		if field == "DialAddress" {
			return "", 0, configerr.New(field, "looks like a URL; it takes host:port, like localhost:15432")
		}
		return "", 0, configerr.New(field, "looks like a connection string; pass it to ParseConfig, and only the host name here")
	case strings.Contains(s, "/"):
		return "", 0, configerr.New(field, "%q holds a slash; DSQL is reached by TCP only, so give a host name or an IP address", s)
	case strings.Contains(s, ","):
		return "", 0, configerr.New(field, "%q holds more than one host; a DSQL cluster has one endpoint", s)
	}

	portText, hasPort := "", false
	if inner, ok := strings.CutPrefix(s, "["); ok {
		var rest string
		if host, rest, ok = strings.Cut(inner, "]"); !ok {
			return "", 0, configerr.New(field, "%q lacks the closing bracket of an IPv6 address", s)
		}
		if portText, hasPort = strings.CutPrefix(rest, ":"); rest != "" && !hasPort {
			return "", 0, configerr.New(field, "%q has something other than :port behind the bracket", s)
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
			// Not quoted: a connection string taken apart wrongly may have left
			// a password here.
			return "", 0, configerr.New(field, "the port after the colon is not a number from 1 to 65535")
		}
		port = uint16(n)
		if host == "" {
			return "", 0, configerr.New(field, "has no host before its port; write it like localhost:15432")
		}
	}

	if ip, err := netip.ParseAddr(host); err == nil {
		return ip.String(), port, nil
	}
	host = strings.ToLower(strings.TrimSuffix(host, "."))
	if len(host) > 253 {
		return "", 0, configerr.New(field, "is longer than a host name can be (253 characters)")
	}
	if strings.Contains(host, ":") {
		return "", 0, configerr.New(field, "has more than one colon, but is no IPv6 address; give name:port or [address]:port")
	}
	labels := strings.Split(host, ".")
	for _, label := range labels {
		if !isLabel(label) {
			return "", 0, configerr.New(field, "%q is neither a host name nor an IP address", s)
		}
	}
	// RFC 1123, 2.1: the highest label is alphabetic, which is how a mistyped
	// IPv4 address shows.
	if only(labels[len(labels)-1], digits) {
		return "", 0, configerr.New(field, "%q looks like an IPv4 address, but is none", s)
	}
	return host, port, nil
}
