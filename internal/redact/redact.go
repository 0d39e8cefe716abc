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

// Redactor replaces the secrets that it was told of, and what looks like a part of a token,
// wherever the text comes from: providers, DialFuncs and servers say what they like. Its zero value
// knows no secret yet. It is not safe for concurrent use.
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

// Compiled at the first need, since every start of a program would pay for them.
var (
	signedParameter = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`X-Amz-(Signature|Security-Token|Credential)=[^&\s"']*`)
	})
	accessKeyID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\b(AKIA|ASIA)[A-Z0-9]{8,}([A-Z0-9]{4})\b`) })
)

// Redact returns text without secrets, as one line of printable characters. Of a text longer than
// 1,000 runes it keeps the first ones.
func (r *Redactor) Redact(text string) string {
	text = strings.NewReplacer(r.replacements...).Replace(text)
	text = signedParameter().ReplaceAllString(text, "X-Amz-$1="+hidden)
	text = accessKeyID().ReplaceAllString(text, "…$2")
	return Line(text)
}

// Line returns text as one line of printable characters, which are safe to show on a terminal. Of a
// text longer than 1,000 runes it keeps the first ones.
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

// AccessKeyID shortens an access key ID to what tells one's own keys apart.
func AccessKeyID(id string) string {
	if len(id) < 8 {
		return "…"
	}
	return "…" + id[len(id)-4:]
}
