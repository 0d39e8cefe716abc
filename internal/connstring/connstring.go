// Package connstring parses the two forms of connection strings, as libpq does: URLs, and
// keyword/value strings. It does not know what a parameter means.
package connstring

import (
	"net/netip"
	"net/url"
	"strings"

	"github.com/dsqlgo/dsql/internal/configerr"
)

// Setting is one parameter of a connection string.
type Setting struct{ Name, Value string }

const (
	space       = " \t\n\r\v\f" // the characters of C's isspace, which libpq uses
	wholeString = "connection string"
)

// Parse returns the parameters of a connection string in their order, with the names as written. A
// URL's user, password, host, port and path are parameters too, with empty values if they are
// missing. Errors are those of configerr.
func Parse(s string) ([]Setting, error) {
	s = strings.TrimLeft(s, space)
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok || strings.ContainsAny(scheme, "='"+space) {
		return parseKeywords(s)
	}
	switch strings.ToLower(scheme) {
	case "postgres", "postgresql", "dsql":
		return parseURL(strings.TrimRight(rest, space))
	}
	return nil, configerr.New(wholeString, "is a URL of another scheme; begin it with postgres://, postgresql:// or dsql://")
}

// parseURL parses the part of a URL after its scheme. net/url cannot be used: its errors quote the
// input, and it takes the text after a '#' for a fragment.
func parseURL(s string) ([]Setting, error) {
	authority, path, query := s, "", ""
	if i := strings.IndexAny(s, "/?"); i >= 0 {
		authority = s[:i]
		path, query, _ = strings.Cut(s[i:], "?")
	}
	// An unescaped '/', '?' or '#' in a password ends the authority early. Then the '@' after the
	// password comes later.
	first, _, colon := strings.Cut(authority, ":")
	if colon && !strings.Contains(first, "@") && strings.Contains(s[len(authority):], "@") {
		return nil, configerr.New(wholeString, "has an @ after the first slash or question mark; if a password is before it, remove that, since the IAM token is the password; otherwise write the @ as %%40")
	}
	if strings.Contains(s, "#") {
		return nil, configerr.New(wholeString, "has a #, which has no meaning here; write it as %%23 if it belongs to a value")
	}

	user, hostPort := "", authority
	var settings []Setting
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		var password string
		user, password, _ = strings.Cut(authority[:i], ":")
		hostPort = authority[i+1:]
		settings = append(settings, Setting{"password", password})
	}
	host, port, err := splitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	settings = append(settings, Setting{"user", user}, Setting{"host", host}, Setting{"port", port}, Setting{"database", strings.TrimPrefix(path, "/")})
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, configerr.New(wholeString, "has a parameter without =; write name=value, and an & inside a value as %%26")
		}
		settings = append(settings, Setting{name, value})
	}
	for i, s := range settings {
		if s.Name == "password" {
			continue // refused whatever its value is
		}
		name, err := url.PathUnescape(s.Name)
		if err == nil {
			s.Value, err = url.PathUnescape(s.Value)
		}
		if err != nil {
			return nil, configerr.New(wholeString, "has a %% without two hexadecimal digits after it; write it as %%25 if it belongs to a value")
		}
		settings[i] = Setting{name, s.Value}
	}
	return settings, nil
}

// splitHostPort splits the host and port of a URL. Its errors quote nothing: in "u:pa:ss", whose
// "@host" is missing, the password would be in the port.
func splitHostPort(s string) (host, port string, err error) {
	switch {
	case IsARN(s):
		return "", "", configerr.New("Host", HostIsARN)
	case strings.Contains(s, ","):
		return "", "", configerr.New("Host", "contains more than one host; a DSQL cluster has one endpoint")
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		host, rest, ok := strings.Cut(inner, "]")
		// RFC 6874: a zone's '%' is itself escaped.
		ip, err := netip.ParseAddr(strings.Replace(host, "%25", "%", 1))
		port, hasPort := strings.CutPrefix(rest, ":")
		if !ok || err != nil || !ip.Is6() || rest != "" && !hasPort {
			return "", "", configerr.New("Host", "has a bracket, but is not an IPv6 address in brackets; write it like [2001:db8::1]:5432")
		}
		return host, port, nil
	}
	host, port, _ = strings.Cut(s, ":")
	if strings.Contains(port, ":") {
		return "", "", configerr.New("Host", "has more than one colon; write an IPv6 address in brackets, like [2001:db8::1]:5432")
	}
	if strings.Contains(strings.ToLower(host), "%3a") {
		// "user:password" with its colon escaped, and no "@host".
		return "", "", configerr.New("Host", "has an escaped colon; write only the name, and the port after an unescaped colon")
	}
	return host, port, nil
}

// parseKeywords parses libpq's keyword/value form, as its conninfo_parse does. One thing differs: a
// missing value before another parameter is an error.
func parseKeywords(s string) ([]Setting, error) {
	if s != "" && !strings.Contains(s, "=") {
		// Not quoted: it may be "user:password@host".
		if IsARN(s) {
			return nil, configerr.New("Host", HostIsARN)
		}
		return nil, configerr.New(wholeString, "is neither a URL nor name=value; for a host name write dsql://<host> or host=<host>")
	}
	var settings []Setting
	for s != "" {
		name, rest, ok := strings.Cut(s, "=")
		name = strings.TrimRight(name, space)
		if !ok || name == "" || strings.ContainsAny(name, space) {
			return nil, configerr.New(wholeString, "has a word that is not name=value; quote a value that contains spaces, as in name='a b'")
		}
		start := strings.TrimLeft(rest, space)
		value, after, err := cutValue(start)
		if err != nil {
			return nil, err
		}
		// In "port= user=x", libpq would take "user=x" for the port.
		if len(start) < len(rest) && !strings.HasPrefix(start, "'") && strings.Contains(value, "=") {
			return nil, configerr.New(wholeString, "has a parameter whose value is missing, or has a = after a space; write an empty value as name='', and quote others")
		}
		settings = append(settings, Setting{name, value})
		s = strings.TrimLeft(after, space)
	}
	return settings, nil
}

// cutValue cuts a value off the beginning of s: a quoted one, or the text before the next space. A
// backslash escapes the next byte. At the end of an unquoted value it is dropped.
func cutValue(s string) (value, rest string, err error) {
	s, quoted := strings.CutPrefix(s, "'")
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		switch {
		case s[i] == '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		case quoted && s[i] == '\'':
			return b.String(), s[i+1:], nil
		case !quoted && strings.IndexByte(space, s[i]) >= 0:
			return b.String(), s[i:], nil
		default:
			b.WriteByte(s[i])
		}
	}
	if quoted {
		return "", "", configerr.New(wholeString, "has a quote that is not closed; write a quote inside a value as \\'")
	}
	return b.String(), "", nil
}

// HostIsARN is the error for an ARN in the place of a host name.
const HostIsARN = "is an ARN, which cannot be dialled; set the cluster's endpoint, <id>.dsql.<region>.on.aws, whose id and region the ARN names"

// IsARN reports whether s is an ARN, and not the host "arn" with a port: the name of every partition
// begins with "aws" (IAM guide, "Amazon Resource Names").
func IsARN(s string) bool { return strings.HasPrefix(strings.ToLower(s), "arn:aws") }
