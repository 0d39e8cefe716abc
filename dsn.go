package dsql

import (
	"net/netip"
	"net/url"
	"strings"

	"github.com/dsqlgo/dsql/internal/configerr"
)

// ParseConfig parses a connection string: a URL,
//
//	postgres://admin@<id>.dsql.us-east-1.on.aws/postgres?token_lifetime=5m
//
// whose scheme is postgres, postgresql or dsql, or libpq's keyword/value form,
//
//	host=<id>.dsql.us-east-1.on.aws user=admin token_lifetime=5m
//
// Both are parsed as libpq does: URLs with percent-decoding (a "+" stays a plus) and IPv6 addresses
// in brackets, keyword/value strings with quotes and backslashes. Case does not matter in the names
// of parameters. A parameter without a value is ignored, unless it is a session setting or one of
// pgx.
//
// These parameters set Config fields:
//
//	host               Host; required
//	port               Port; 1 to 65535
//	user               User
//	dbname, database   Database
//	cluster_id, region, dial_address, server_name
//	transport          Transport; tcp, websocket or auto
//	profile, role_arn, role_session_name, external_id
//	token_lifetime     TokenLifetime; a Go duration or whole seconds, 1 s to 7 days
//	sslrootcert        RootCAs; a PEM file, which ParseConfig reads, or "system"
//	sslnegotiation     SSLNegotiation; direct or postgres
//	early_auth         EarlyAuth; true or false
//	connect_timeout    ConnectTimeout; a Go duration or whole seconds, 0 is the default
//	connect_rate, connect_burst
//	application_name
//
// Connection strings of AWS's connectors work as they are: tokenDurationSecs, token_duration_secs and
// token-duration-secs are token_lifetime in seconds, and queryExecMode is default_query_exec_mode.
// The settings of pgx and pgxpool (pool_max_conns, default_query_exec_mode, …) and the common session
// settings (search_path, timezone, …) go to Config.Params.
//
// The sslmodes require, verify-ca and verify-full all mean verify-full; weaker ones are errors. These
// are errors as well: a password (the token is the password), an unknown parameter, a setting that
// DSQL refuses, a parameter given twice with different values, more than one host, and parameters
// that name other files.
//
// ParseConfig reads neither the PG* nor the AWS environment, and does not check host names; their
// first use does. Every error is an ErrConfig that names the parameter or field. No error contains a
// password, even if a missing escape made it part of something else.
func ParseConfig(connString string) (Config, error) {
	settings, err := parseSettings(connString)
	if err != nil {
		return Config{}, err
	}

	// Look for passwords first. Without its quotes, the rest of a password looks like more
	// parameters, which errors must not name.
	for _, s := range settings {
		if s.value != "" && parameters[strings.ToLower(s.name)].refused == tokenIsPassword {
			return Config{}, configerr.New(s.name, tokenIsPassword)
		}
		if containsPassword(s.value) {
			return Config{}, configerr.New("password", tokenIsPassword)
		}
	}

	var c Config
	given := make(map[string]string, len(settings))
	for _, s := range settings {
		name := strings.ToLower(s.name)
		p, known := parameters[name]
		if !known {
			return Config{}, unknownParameter(s.name)
		}
		if p.aliasOf != "" {
			name = p.aliasOf
			p = parameters[name]
		}
		if s.value == "" && !p.toParams {
			continue
		}
		if strings.Contains(s.value, "\x00") {
			return Config{}, configerr.New(s.name, "contains a NUL character, which ends a value in the protocol; remove it")
		}
		if value, twice := given[name]; twice {
			if value != s.value {
				return Config{}, configerr.New(s.name, "is given twice with different values; give it once")
			}
			continue
		}
		given[name] = s.value

		switch {
		case p.refused != "":
			err = configerr.New(s.name, "%s", p.refused)
		case p.toParams:
			if c.Params == nil {
				c.Params = make(map[string]string)
			}
			c.Params[name] = s.value
		default:
			err = p.set(&c, s.name, s.value)
		}
		if err != nil {
			return Config{}, err
		}
	}
	if strings.TrimSpace(c.Host) == "" {
		return Config{}, configerr.New("Host", "is empty; the connection string needs a host, the cluster's endpoint (<id>.dsql.<region>.on.aws) or another name that leads to it")
	}
	return c, nil
}

// containsPassword finds a password inside another value: in "Host=h;Password=x" libpq sees one host,
// and it parses the value of "dbname='host=h password=x'" as another connection string.
func containsPassword(value string) bool {
	names := strings.Split(strings.ToLower(value), "=")
	for _, name := range names[:len(names)-1] {
		name = strings.TrimRight(name, " \t")
		if strings.HasSuffix(name, "password") || strings.HasSuffix(name, "passwd") || strings.HasSuffix(name, "pwd") {
			return true
		}
	}
	return false
}

// setting is one parameter of a connection string.
type setting struct{ name, value string }

const (
	space       = " \t\n\r\v\f" // the characters of C's isspace, which libpq uses
	wholeString = "connection string"
)

func parseSettings(s string) ([]setting, error) {
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
func parseURL(s string) ([]setting, error) {
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
	var settings []setting
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		var password string
		user, password, _ = strings.Cut(authority[:i], ":")
		hostPort = authority[i+1:]
		settings = append(settings, setting{"password", password})
	}
	host, port, err := splitHostPort(hostPort)
	if err != nil {
		return nil, err
	}
	settings = append(settings, setting{"user", user}, setting{"host", host}, setting{"port", port}, setting{"database", strings.TrimPrefix(path, "/")})
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, configerr.New(wholeString, "has a parameter without =; write name=value, and an & inside a value as %%26")
		}
		settings = append(settings, setting{name, value})
	}
	for i, s := range settings {
		if s.name == "password" {
			continue // refused whatever its value is
		}
		name, err := url.PathUnescape(s.name)
		if err == nil {
			s.value, err = url.PathUnescape(s.value)
		}
		if err != nil {
			return nil, configerr.New(wholeString, "has a %% without two hexadecimal digits after it; write it as %%25 if it belongs to a value")
		}
		settings[i] = setting{name, s.value}
	}
	return settings, nil
}

// splitHostPort splits the host and port of a URL. Its errors quote nothing: in "u:pa:ss", whose
// "@host" is missing, the password would be in the port.
func splitHostPort(s string) (host, port string, err error) {
	switch {
	case isARN(s):
		return "", "", configerr.New("Host", hostIsARN)
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
func parseKeywords(s string) ([]setting, error) {
	if s != "" && !strings.Contains(s, "=") {
		// Not quoted: it may be "user:password@host".
		if isARN(s) {
			return nil, configerr.New("Host", hostIsARN)
		}
		return nil, configerr.New(wholeString, "is neither a URL nor name=value; for a host name write dsql://<host> or host=<host>")
	}
	var settings []setting
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
		settings = append(settings, setting{name, value})
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
