// Package refusal knows the messages with which DSQL refuses a login, and what they mean.
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

// The kinds of refusals. None is an error that no rule knows.
const (
	None               Kind = ""
	InvalidSNI         Kind = "invalid SNI"
	ClusterWaking      Kind = "cluster is waking up"
	RateExceeded       Kind = "connection rate exceeded"
	TooManyConnections Kind = "too many connections"
	TokenExpired       Kind = "token expired"
	WrongAction        Kind = "token for the wrong action"
	AccessDenied       Kind = "access denied"
)

// Transient tells whether the same login may succeed a little later.
func (k Kind) Transient() bool {
	return k == RateExceeded || k == TooManyConnections || k == ClusterWaking
}

// A rule is met by an error whose message contains text behind "unable to accept connection" and
// whose HINT contains hint, or whose SQLSTATE is code. The message decides before the SQLSTATE,
// which is not recorded for all of them. Of several rules that are met, the first counts.
type rule struct {
	text, hint string
	code       string
	kind       Kind
	advice     string
}

const denied = "access denied"

var rules = []rule{
	{text: "sni", kind: InvalidSNI, advice: "check Host, ClusterID and ServerName"},
	{text: "waking up", kind: ClusterWaking, advice: "it starts within seconds: allow a longer ConnectTimeout or context deadline"},
	{text: "rate exceeded", code: "53400", kind: RateExceeded, advice: "open fewer connections a second, allow a longer ConnectTimeout or deadline, or have the quota raised"},
	{text: "too many open connections", code: "53300", kind: TooManyConnections, advice: "use smaller pools, or have the quota raised"},
	{text: denied, hint: "signature expired", code: "28000", kind: TokenExpired},
	{text: denied, hint: "wrong user to action mapping", code: "28000", kind: WrongAction, advice: "admin needs a token for DbConnectAdmin, every other role one for DbConnect"},
	{text: denied, code: "28000", kind: AccessDenied, advice: "check the IAM policy (dsql:DbConnectAdmin for admin, dsql:DbConnect for every other role), the role mapping (AWS IAM GRANT), the region and the credentials"},
}

// Classify returns what a refusal means, and what the reader can do about it.
func Classify(e *pgconn.PgError) (kind Kind, advice string) {
	message, refused := strings.CutPrefix(strings.ToLower(e.Message), "unable to accept connection")
	hint := strings.ToLower(e.Hint)
	for _, r := range rules {
		byMessage := refused && strings.Contains(message, r.text)
		byCode := r.code != "" && e.Code == r.code
		if !byMessage && !byCode || !strings.Contains(hint, r.hint) {
			continue
		}
		if r.kind == TokenExpired {
			return r.kind, "the token was fresh, so this host's clock is wrong" + ClockSkew(hint, time.Now()) + ": set it"
		}
		return r.kind, r.advice
	}
	return None, ""
}

// ClockSkew says how far off this host's clock is, where the HINT "Signature expired" tells, in
// parentheses and with a space before them. The HINT's last time is the server's (it reads like
// "… is now earlier than 20261122T204500Z"). Its wording is not recorded in full, so the result is
// empty where there is no such time.
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

// Compiled at the first need, since every start of a program would pay for it.
var hintTime = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`[0-9]{8}t[0-9]{6}z`) })
