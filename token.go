package dsql

import (
	"fmt"
	"io"
	"log/slog"
	"net/url"
	"strconv"
	"time"
)

const (
	defaultTokenLifetime = 15 * time.Minute

	// A token is replaced in the background after this share of its lifetime. With the default of 15
	// minutes, three are left, in which an outage of STS goes unnoticed.
	refreshShare = 0.8

	// A token is not used when less than its margin is left: a tenth of its lifetime, at most 30 s.
	// With the default ConnectTimeout, so much time may pass until the server checks the token.
	marginShare = 0.1
	maxMargin   = 30 * time.Second
)

// Token is a signed IAM token. Printing, logging or marshalling one shows no secret; only Reveal
// does.
type Token struct {
	// A func, since printers that show unexported fields do not call funcs.
	reveal func() string

	// Unix times in nanoseconds: when it was signed, is to be refreshed, is no longer used, and
	// expires. They are wall-clock times, since the monotonic clock stops while a laptop sleeps or
	// a Lambda is frozen.
	signed, refreshAt, unusableAt, expires int64
}

// Reveal returns the token itself, which is the password for the server until it expires. Keep it
// out of logs, URLs and command lines.
func (t Token) Reveal() string {
	if t.reveal == nil {
		return ""
	}
	return t.reveal()
}

// Expires returns when the token expires, to the second. Then the server refuses it for new
// connections; open connections are not affected.
func (t Token) Expires() time.Time { return time.Unix(0, t.expires) }

// String says when the token expires. It does not contain the token.
func (t Token) String() string {
	if t.reveal == nil {
		return "no DSQL token"
	}
	return "DSQL token, expires " + t.Expires().UTC().Format(time.RFC3339)
}

// Format prints String for every verb.
func (t Token) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, t.String()) }

// MarshalText returns String, for encoding/json and the like.
func (t Token) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// LogValue returns String.
func (t Token) LogValue() slog.Value { return slog.StringValue(t.String()) }

func (t Token) lifetime() time.Duration { return time.Duration(t.expires - t.signed) }

// usable reports whether the token may be used at now. It may not if the clock was set back to
// before the signing: then the token is not valid yet.
func (t *Token) usable(now int64) bool { return t.signed <= now && now < t.unusableAt }

// newToken takes a token's times from its text, since the signer shortens its lifetime to that of
// the credentials. Its errors do not contain the text.
func newToken(text string) (Token, error) {
	u, err := url.Parse("https://" + text)
	if err != nil {
		return Token{}, fmt.Errorf("dsql: the signer returned something other than a token")
	}
	query := u.Query()
	signed, dateErr := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
	seconds, expiresErr := strconv.Atoi(query.Get("X-Amz-Expires"))
	// Times beyond SigV4's seven days, or outside the years that Unix nanoseconds reach, would
	// overflow. The lifetime is 0 if the credentials expired during the signing.
	if dateErr != nil || expiresErr != nil || seconds < 0 || seconds > int(maxTokenLifetime/time.Second) || signed.Year() < 1970 || signed.Year() > 2200 {
		return Token{}, fmt.Errorf("dsql: the signer returned a token without a date and a lifetime")
	}
	life := time.Duration(seconds) * time.Second
	expires := signed.Add(life)
	return Token{
		reveal:     func() string { return text },
		signed:     signed.UnixNano(),
		refreshAt:  signed.Add(fraction(refreshShare, life)).UnixNano(),
		unusableAt: expires.Add(-min(fraction(marginShare, life), maxMargin)).UnixNano(),
		expires:    expires.UnixNano(),
	}, nil
}

func fraction(f float64, d time.Duration) time.Duration { return time.Duration(f * float64(d)) }
