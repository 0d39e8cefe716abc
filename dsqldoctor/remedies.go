package dsqldoctor

import (
	"fmt"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

var clockRemedies = []string{
	"Set this host's clock: timedatectl set-ntp true (Linux; on EC2, chrony with 169.254.169.123), sudo sntp -sS time.apple.com (macOS), w32tm /resync (Windows). A virtual machine or WSL that was suspended needs it too.",
}

// rootRemedies are for a host without Amazon's root certificate.
var rootRemedies = []string{
	"Install the system's root certificates: apt-get install ca-certificates, or apk add ca-certificates. In an image FROM scratch, a distroless one without them, or a custom Lambda runtime, copy /etc/ssl/certs/ca-certificates.crt into it.",
	"Or build them into the program: import _ \"golang.org/x/crypto/x509roots/fallback\".",
	"Or add https://www.amazontrust.com/repository/AmazonRootCA1.pem to Config.RootCAs (sslrootcert).",
}

func (f *findings) getClusterCommand() string {
	return fmt.Sprintf("aws dsql get-cluster --identifier %s --region %s", f.target.ClusterID, f.target.Region)
}

// nameRemedies are for an SNI by which the server finds no cluster.
func (f *findings) nameRemedies() []string {
	return []string{
		"Check that the cluster exists in this region: " + f.getClusterCommand(),
		"Check Host, ClusterID and ServerName: the SNI must be <cluster-id>.dsql.<region>.on.aws or, behind PrivateLink, <cluster-id>.dsql-<suffix>.<region>.on.aws, never a vpce-… name or an address.",
		fmt.Sprintf("Through a VPC endpoint: Config{Host: \"vpce-….dsql-<suffix>.%s.vpce.amazonaws.com\", ClusterID: %q}, without ServerName.", f.target.Region, f.target.ClusterID),
	}
}

// accessRemedies are for an identity that is denied access. The HINT tells which rule is more
// likely to deny it, but does not exclude the others.
func (f *findings) accessRemedies(hint string) []string {
	partition := "aws"
	if strings.HasPrefix(f.target.Region, "cn-") {
		partition = "aws-cn"
	}
	key := "Check which identity signs the token: aws sts get-caller-identity. If that fails with InvalidClientTokenId, the key was rotated or deleted: get the new one, and restart programs that keep the old one."
	policies := []string{
		fmt.Sprintf(`Allow the action in the identity's IAM policy: {"Effect": "Allow", "Action": "dsql:%s", "Resource": "arn:%s:dsql:%s:<account>:cluster/%s"}`,
			f.target.Action, partition, f.target.Region, f.target.ClusterID),
		fmt.Sprintf("Check the cluster's resource-based policy, which may deny other networks (aws:SourceVpc) or identities: aws dsql get-cluster-policy --identifier %s --region %s. A change takes about a minute to have an effect.",
			f.target.ClusterID, f.target.Region),
	}
	var mapping []string
	if f.target.User != adminUser {
		identity := f.assumedRole
		if identity == "" {
			identity = "arn:" + partition + ":iam::<account>:role/<name>"
		}
		role := pgx.Identifier{f.target.User}.Sanitize()
		mapping = []string{fmt.Sprintf("Map the database role to the identity, as admin: CREATE ROLE %s WITH LOGIN; AWS IAM GRANT %s TO '%s'; (SELECT * FROM sys.iam_pg_role_mappings lists the mappings)", role, role, identity)}
	}
	remedies := []string{key}
	switch hint = strings.ToLower(hint); {
	case strings.Contains(hint, "is not authorized to perform"): // the service knows the identity
		remedies = slices.Concat(policies, mapping, remedies)
	case strings.Contains(hint, "is not authorized to access"):
		remedies = slices.Concat(mapping, policies, remedies)
	default:
		remedies = slices.Concat(remedies, policies, mapping)
	}
	return append(remedies, "Check that the credentials belong to the cluster's account, that no SCP or permissions boundary denies the action, and that this host's clock is right: a token from a clock that is ahead is denied with the same message.")
}

// supportRemedy is for an error that only AWS can explain.
func supportRemedy(f finding) string {
	text := "If the error stays, send this report to AWS Support."
	if f.detail != "" {
		text += " It has what they ask for: " + f.detail + "."
	}
	return text
}

// workarounds reach the endpoint despite a network that blocks it.
func (f *findings) workarounds() []string {
	var remedies []string
	if f.webSocket.ok() {
		remedies = append(remedies, f.webSocketRemedy())
	}
	return append(remedies,
		"Try another network (a phone's hotspot is a quick test), or a VPN.",
		fmt.Sprintf("AWS CloudShell in %s is inside AWS's network: run the same command there.", f.target.Region),
		fmt.Sprintf("Tunnel through a jump host that reaches the endpoint: %s. Then set Config.DialAddress: \"localhost:15432\", and change nothing else.", f.sshCommand()),
		fmt.Sprintf("For a VPC that is reached by VPN or Direct Connect, create a VPC endpoint for the service that this names: aws dsql get-vpc-endpoint-service-name --identifier %s --region %s", f.target.ClusterID, f.target.Region),
	)
}

// sshCommand opens a tunnel to the endpoint itself, even if DialAddress is a tunnel already.
func (f *findings) sshCommand() string {
	far := f.target.DialAddress
	if f.dialsThisHost() {
		far = net.JoinHostPort(f.target.ServerName, defaultPort)
	}
	return "ssh -N -L 15432:" + far + " user@jump-host"
}
