package dsqldoctor

import (
	"context"
	"strings"

	"github.com/dsqlgo/dsql/internal/refusal"
)

// otherNameFinding is a login with the cluster's other name. A cluster that is reached by
// PrivateLink has two names that can be the SNI and the token host: its public endpoint, and the
// PrivateLink name.
type otherNameFinding struct {
	name string // empty if there is no other name, or if it was not tried
	kind string // "public name" or "PrivateLink name"
	finding
}

// testOtherName logs in with the other name, if the server refused the usual one for a reason that
// may be the name.
func (d *diagnosis) testOtherName(ctx context.Context, n negotiation) {
	refused := d.login.kind
	if refused == refusal.None {
		refused = d.startup.kind
	}
	name, kind := otherName(d.target)
	if name == "" || !d.token.ok() || refused != refusal.AccessDenied && refused != refusal.InvalidSNI {
		return
	}
	c := d.config
	c.ServerName = name
	token, f := d.sign(ctx, c)
	if f.ok() {
		conn, login := d.logIn(ctx, c, token, n)
		if f = login; conn != nil {
			d.closeConn(conn)
		}
	}
	d.otherName = otherNameFinding{name, kind, f}
	d.recordFinding(stepLogin+", "+kind, f, "logged in with "+name+" as SNI and token host")
}

// otherName returns the public name for a PrivateLink name, and the reverse. The suffix of a
// PrivateLink name is known only if Host or DialAddress has it.
func otherName(t ReportTarget) (name, kind string) {
	labels := strings.Split(t.ServerName, ".") // <cluster-id>.<service>.<region>.on.aws
	if len(labels) != 5 {
		return "", ""
	}
	with := func(service string) string { return labels[0] + "." + service + "." + strings.Join(labels[2:], ".") }
	if strings.HasPrefix(labels[1], "dsql-") {
		return with("dsql"), "public name"
	}
	for _, host := range []string{t.Host, hostOf(t.DialAddress)} {
		for label := range strings.SplitSeq(strings.ToLower(host), ".") {
			if strings.HasPrefix(label, "dsql-") {
				return with(label), "PrivateLink name"
			}
		}
	}
	return "", ""
}
