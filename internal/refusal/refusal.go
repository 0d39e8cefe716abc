// Package refusal knows the messages with which DSQL refuses a login, what they mean, and what to do.
package refusal

import (
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
)

// Kind is the meaning of a refusal.
type Kind string

// The kinds of refusals. None is any other error of the server.
const (
	None               Kind = ""
	InvalidSNI         Kind = "invalid SNI"
	ClusterWaking      Kind = "cluster is waking up"
	RateExceeded       Kind = "connection rate exceeded"
	TooManyConnections Kind = "too many connections"
	Unavailable        Kind = "server unavailable"
	TokenExpired       Kind = "token expired"
	WrongAction        Kind = "token for the wrong action"
	AccessDenied       Kind = "access denied"
)

// Transient reports whether the same login may succeed a little later.
func (k Kind) Transient() bool {
	switch k {
	case ClusterWaking, RateExceeded, TooManyConnections, Unavailable:
		return true
	}
	return false
}

// A rule matches an error whose message begins with prefix and contains words after it. If no message
// matches, it matches by the SQLSTATE. Either way the HINT must contain hint. Case does not matter.
//
// The message decides before the SQLSTATE, since clusters changed the latter: access denied had 28000
// and now has 08006, which is also the code of any other failed connection.
type rule struct {
	prefix, words, hint string
	code                string
	kind                Kind
	advice              string
}

const (
	notAccepted = "unable to accept connection"
	denied      = "access denied"

	checkPolicy = "check that the IAM policy allows dsql:DbConnectAdmin for admin, or dsql:DbConnect for every other role"
)

// rules is what the server says, what it means, and what to do. The first match counts. The sources
// of the messages are in docs/troubleshooting.md.
var rules = []rule{
	{prefix: notAccepted, words: "sni", kind: InvalidSNI,
		advice: "check Host, ClusterID and ServerName"},
	{prefix: notAccepted, words: "waking up", kind: ClusterWaking,
		advice: "it starts within seconds: allow a longer ConnectTimeout or context deadline"},
	{prefix: notAccepted, words: "rate exceeded", code: "53400", kind: RateExceeded,
		advice: "open fewer connections a second, allow a longer ConnectTimeout or deadline, or have the quota raised"},
	{prefix: notAccepted, words: "too many open connections", code: "53300", kind: TooManyConnections,
		advice: "use smaller pools, or have the quota raised"},
	{prefix: "server unavailable", kind: Unavailable,
		advice: "this passes by itself: allow a longer ConnectTimeout or context deadline, and give AWS support the session ID if it lasts"},
	{prefix: notAccepted, words: denied, hint: "signature expired", code: "28000", kind: TokenExpired}, // see Classify
	{prefix: notAccepted, words: denied, hint: "wrong user to action mapping", code: "28000", kind: WrongAction,
		advice: "admin needs a token for DbConnectAdmin, every other role one for DbConnect"},
	{prefix: notAccepted, words: denied, hint: "is not authorized to perform", code: "28000", kind: AccessDenied,
		advice: checkPolicy + " on this cluster, and that no resource-based policy of the cluster denies it (a change takes about a minute)"},
	{prefix: notAccepted, words: denied, hint: "is not authorized to access", code: "28000", kind: AccessDenied,
		advice: "check the role mapping (AWS IAM GRANT), and the resource-based policy of the cluster (a change takes about a minute)"},
	{prefix: notAccepted, words: denied, code: "28000", kind: AccessDenied,
		advice: checkPolicy + ", the role mapping (AWS IAM GRANT), the resource-based policy of the cluster (a change takes about a minute), the region, and that the credentials are current: a rotated key is denied as well"},
}

// Classify returns what a refusal means, and what the user can do.
func Classify(e *pgconn.PgError) (kind Kind, advice string) {
	message, hint := strings.ToLower(e.Message), strings.ToLower(e.Hint)
	for _, byCode := range []bool{false, true} {
		for _, r := range rules {
			rest, ok := strings.CutPrefix(message, r.prefix)
			ok = ok && strings.Contains(rest, r.words)
			if byCode {
				ok = r.code != "" && e.Code == r.code
			}
			if !ok || !strings.Contains(hint, r.hint) {
				continue
			}
			if r.kind == TokenExpired {
				return r.kind, "the token was new, so this host's clock is wrong" + ClockSkew(hint, time.Now()) + ": set it"
			}
			return r.kind, r.advice
		}
	}
	return None, ""
}

// ClockSkew returns how far this host's clock is off, in parentheses and after a space. The HINT
// "Signature expired" ends with the server's time, as in "… is now earlier than 20261122T204500Z". Its
// wording is not recorded in full, so the result is empty if there is no such time.
func ClockSkew(hint string, now time.Time) string {
	times := hintTime().FindAllString(strings.ToLower(hint), -1)
	if len(times) == 0 {
		return ""
	}
	server, err := time.Parse("20060102t150405z", times[len(times)-1])
	if err != nil {
		return ""
	}
	switch off := server.Sub(now).Round(time.Second); {
	case off > 0:
		return fmt.Sprintf(" (%s behind the server's)", off)
	case off < 0:
		return fmt.Sprintf(" (%s ahead of the server's)", -off)
	}
	return ""
}

// hintTime is compiled when it is needed, so that programs start faster.
var hintTime = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[0-9]{8}t[0-9]{6}z`) })
