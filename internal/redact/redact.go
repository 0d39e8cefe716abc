// Package redact keeps secrets out of texts that people are shown.
package redact

import (
	"net/url"
	"regexp"
	"strings"
	"sync"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
)

const hidden = "[hidden]"

// Redactor hides secrets in texts: those that were added to it, and anything that looks like a part
// of a token. Errors of credentials providers, DialFuncs and servers may contain them. In the zero
// value no secret was added yet. A Redactor is not safe for concurrent use.
type Redactor struct{ replacements []string }

func (r *Redactor) add(secret, replacement string) {
	for _, s := range []string{secret, url.QueryEscape(secret)} {
		if len(s) > 3 {
			r.replacements = append(r.replacements, s, replacement)
		}
	}
}

// AddCredentials adds the secrets of c.
func (r *Redactor) AddCredentials(c aws.Credentials) {
	r.add(c.SecretAccessKey, hidden)
	r.add(c.SessionToken, hidden)
	r.add(c.AccessKeyID, AccessKeyID(c.AccessKeyID))
}

// AddToken adds a token and its signature.
func (r *Redactor) AddToken(token string) {
	r.replacements = append([]string{token, hidden}, r.replacements...) // first, as it contains the others
	if u, err := url.Parse("https://" + token); err == nil {
		r.add(u.Query().Get("X-Amz-Signature"), hidden)
	}
}

// These are compiled when they are needed, so that programs start faster.
var (
	signedParameter = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`X-Amz-(Signature|Security-Token|Credential)=[^&\s"']*`)
	})
	accessKeyID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\b(AKIA|ASIA)[A-Z0-9]{8,}([A-Z0-9]{4})\b`) })
)

// Redact returns text without secrets, as one line of printable characters. It cuts a text longer
// than 1,000 runes.
func (r *Redactor) Redact(text string) string {
	text = strings.NewReplacer(r.replacements...).Replace(text)
	text = signedParameter().ReplaceAllString(text, "X-Amz-$1="+hidden)
	text = accessKeyID().ReplaceAllString(text, "…$2")
	return Line(text)
}

// Line returns text as one line of printable characters, which is safe to show on a terminal. It
// cuts a text longer than 1,000 runes.
func Line(text string) string {
	const longest = 1000 // a server may send 16 KiB
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
	if runes := []rune(text); len(runes) > longest {
		text = string(runes[:longest]) + "…"
	}
	return text
}

// AccessKeyID shortens an access key ID to its last four characters, which are enough to tell one's
// own keys apart.
func AccessKeyID(id string) string {
	if len(id) < 8 {
		return "…"
	}
	return "…" + id[len(id)-4:]
}
