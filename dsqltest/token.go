package dsqltest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A token is a SigV4 query-signed request without its scheme, see "Create a
// signed AWS API request" in the IAM user guide. It is recomputed here by
// hand: a check that ran the signer's own code would agree with its mistakes.
const (
	signingAlgorithm  = "AWS4-HMAC-SHA256"
	signingService    = "dsql"
	signingTerminator = "aws4_request"
	signingTime       = "20060102T150405Z"
	signingDate       = "20060102"

	actionAdmin = "DbConnectAdmin"
	actionOther = "DbConnect"

	maxExpires = 604_800 // seconds: the service's limit, one week
	maxAhead   = 5 * time.Minute
)

// key is a key pair that may sign tokens.
type key struct {
	secret       string
	sessionToken string // "" when none may be sent
}

type token struct {
	host          string
	action        string
	accessKeyID   string
	scopeDate     string
	region        string
	service       string
	terminator    string
	date          time.Time
	expires       time.Duration
	securityToken string
	signature     string
	query         string // canonical, without the signature
}

// parseToken takes a token apart. Its errors hold nothing of the input.
func parseToken(text string) (token, error) {
	// AWS's signers write the root path as "/", but for the one for Go, which
	// leaves it out. What is signed is "/" either way.
	host, query, ok := strings.Cut(text, "?")
	host = strings.TrimSuffix(host, "/")
	if !ok || !hostPattern.MatchString(host) {
		return token{}, errors.New("the password is not a token: <host>/?<query> is expected")
	}
	parameters, canonical, err := parseQuery(query)
	if err != nil {
		return token{}, err
	}
	t := token{
		host:          host,
		action:        parameters["Action"],
		securityToken: parameters["X-Amz-Security-Token"],
		signature:     parameters["X-Amz-Signature"],
		query:         canonical,
	}
	// The action appears in a HINT and in Attempts: only a known one gets so far.
	if t.action != actionAdmin && t.action != actionOther {
		return token{}, errors.New("the action is neither DbConnect nor DbConnectAdmin")
	}
	if parameters["X-Amz-Algorithm"] != signingAlgorithm {
		return token{}, errors.New("X-Amz-Algorithm is not " + signingAlgorithm)
	}
	if parameters["X-Amz-SignedHeaders"] != "host" {
		return token{}, errors.New("X-Amz-SignedHeaders is not host")
	}
	scope := strings.Split(parameters["X-Amz-Credential"], "/")
	if len(scope) != 5 || !labelPattern.MatchString(scope[2]) {
		return token{}, errors.New("X-Amz-Credential is not <key>/<date>/<region>/<service>/<terminator>")
	}
	t.accessKeyID, t.scopeDate, t.region, t.service, t.terminator = scope[0], scope[1], scope[2], scope[3], scope[4]
	if t.date, err = time.Parse(signingTime, parameters["X-Amz-Date"]); err != nil {
		return token{}, errors.New("X-Amz-Date is not a time such as 20060102T150405Z")
	}
	expires, err := strconv.ParseUint(parameters["X-Amz-Expires"], 10, 32)
	if err != nil || expires < 1 || expires > maxExpires {
		return token{}, fmt.Errorf("X-Amz-Expires is not within 1 to %d seconds", maxExpires)
	}
	t.expires = time.Duration(expires) * time.Second
	return t, nil
}

// hostPattern also keeps a password that merely looks like a token out of Attempts.
var hostPattern = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,252}$`)

// parseQuery returns the parameters and the canonical form of all but the signature.
func parseQuery(query string) (map[string]string, string, error) {
	parameters := make(map[string]string)
	var canonical []string
	for pair := range strings.SplitSeq(query, "&") {
		rawName, rawValue, ok := strings.Cut(pair, "=")
		// PathUnescape leaves "+" alone: SigV4 writes a space as %20.
		name, nameErr := url.PathUnescape(rawName)
		value, valueErr := url.PathUnescape(rawValue)
		if !ok || nameErr != nil || valueErr != nil {
			return nil, "", errors.New("the query is not a list of percent-encoded name=value pairs")
		}
		if _, twice := parameters[name]; twice {
			return nil, "", errors.New("a query parameter appears twice")
		}
		parameters[name] = value
		if name != "X-Amz-Signature" {
			canonical = append(canonical, escape(name)+"="+escape(value))
		}
	}
	slices.Sort(canonical)
	return parameters, strings.Join(canonical, "&"), nil
}

// escape is SigV4's UriEncode: everything but RFC 3986's unreserved characters,
// byte by byte, in upper-case hexadecimal. None in net/url does the same.
func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', '0' <= c && c <= '9', strings.IndexByte("-._~", c) >= 0:
			b.WriteByte(c)
		default:
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

// signedWith recomputes the signature and compares in constant time.
func (t token) signedWith(secret string) bool {
	date := t.date.Format(signingTime)
	payload := sha256.Sum256(nil)
	request := sha256.Sum256([]byte(strings.Join([]string{
		"GET", "/", t.query, "host:" + t.host, "", "host", hex.EncodeToString(payload[:]),
	}, "\n")))
	scope := strings.Join([]string{t.scopeDate, t.region, t.service, t.terminator}, "/")
	toSign := strings.Join([]string{signingAlgorithm, date, scope, hex.EncodeToString(request[:])}, "\n")

	signingKey := []byte("AWS4" + secret)
	for _, part := range []string{t.scopeDate, t.region, t.service, t.terminator} {
		signingKey = mac(signingKey, part)
	}
	return hmac.Equal([]byte(t.signature), []byte(hex.EncodeToString(mac(signingKey, toSign))))
}

func mac(key []byte, data string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(data))
	return h.Sum(nil)
}

// tokenID tells tokens apart and gives nothing of them away.
func tokenID(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:8])
}

// verifyToken decides whether t lets user in. serverName is the SNI by which
// the client was routed, or "" when it was routed by amzn-cluster-id.
func (s *Server) verifyToken(t token, user, serverName string) error {
	s.mu.Lock()
	k, known := s.keys[t.accessKeyID]
	s.mu.Unlock()
	if !known {
		return denied("", "the access key is not known; add it with AllowKey")
	}
	if t.region != s.region || t.service != signingService || t.terminator != signingTerminator || t.scopeDate != t.date.Format(signingDate) {
		return denied("", fmt.Sprintf("the credential scope is not <date>/%s/%s/%s", s.region, signingService, signingTerminator))
	}
	if !hmac.Equal([]byte(t.securityToken), []byte(k.sessionToken)) {
		return denied("", "X-Amz-Security-Token is not the one that belongs to the access key")
	}
	if !t.signedWith(k.secret) {
		return denied("", "the signature does not match")
	}

	now := s.now().UTC()
	if t.date.Sub(now) > maxAhead {
		return denied("", fmt.Sprintf("the token is signed for more than %v ahead of the server's clock", maxAhead))
	}
	if end := t.date.Add(t.expires); now.After(end) {
		// Which two times the service names is not recorded. Here they are the
		// token's end and the server's clock.
		return denied(fmt.Sprintf("Signature expired: %s is now earlier than %s", end.Format(signingTime), now.Format(signingTime)), "the token has expired")
	}

	if serverName != "" && !strings.EqualFold(t.host, serverName) || !s.isEndpoint(t.host) {
		return denied("", "the token is for another host than the server name sent")
	}
	action := actionOther
	if user == adminRole {
		action = actionAdmin
	}
	if t.action != action {
		return denied(fmt.Sprintf("Wrong user to action mapping. user: %s, action: %s", user, t.action), "the user needs "+action)
	}
	if user != adminRole && !slices.Contains(s.roles, user) {
		return denied("", "the role does not exist; add it with WithRoles")
	}
	return nil
}

func denied(hint, reason string) error {
	r := RefuseAccess.refusal()
	r.response.Hint = hint
	r.reason = reason
	return r
}
