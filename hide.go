package dsql

import (
	"net/url"
	"regexp"
	"strings"
	"sync"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// hider keeps secrets out of texts, wherever these come from: providers, DialFuncs and servers say what
// they like.
type hider struct{ pairs []string }

func (h *hider) add(secret, instead string) {
	for _, s := range []string{secret, url.QueryEscape(secret)} {
		if len(s) > 3 {
			h.pairs = append(h.pairs, s, instead)
		}
	}
}

func (h *hider) credentials(c aws.Credentials) {
	h.add(c.SecretAccessKey, "[hidden]")
	h.add(c.SessionToken, "[hidden]")
	h.add(c.AccessKeyID, lastOf(c.AccessKeyID))
}

func (h *hider) token(t *Token) {
	h.pairs = append([]string{t.Reveal(), "[hidden]"}, h.pairs...) // the rest is part of it
	if u, err := url.Parse("https://" + t.Reveal()); err == nil {
		h.add(u.Query().Get("X-Amz-Signature"), "[hidden]")
	}
}

// Compiled at the first need, since every start of a program would pay for them.
var (
	signedParameter = sync.OnceValue(func() *regexp.Regexp {
		return regexp.MustCompile(`X-Amz-(Signature|Security-Token|Credential)=[^&\s"']*`)
	})
	accessKeyID = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`\b(AKIA|ASIA)[A-Z0-9]{8,}([A-Z0-9]{4})\b`) })
)

// from returns text without secrets, as one line of printable characters, which a terminal shows
// and JSON carries as they are.
func (h *hider) from(text string) string {
	const longest = 1000 // runes; a server may send 16 KiB
	text = strings.NewReplacer(h.pairs...).Replace(text)
	text = signedParameter().ReplaceAllString(text, "X-Amz-$1=[hidden]")
	text = accessKeyID().ReplaceAllString(text, "…$2")
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

// lastOf shows as much of an access key ID as tells one's own keys apart.
func lastOf(id string) string {
	if len(id) < 8 {
		return "…"
	}
	return "…" + id[len(id)-4:]
}
