package dsql

import (
	"net/netip"
	"net/url"
	"strings"

	"github.com/dsqlgo/dsql/internal/configerr"
)

// ParseConfig reads a connection string: a URL,
//
//	postgres://admin@<id>.dsql.us-east-1.on.aws/postgres?token_lifetime=5m
//
// with the scheme postgres, postgresql or dsql, or libpq's keyword/value form,
//
//	host=<id>.dsql.us-east-1.on.aws user=admin token_lifetime=5m
//
// Both are read as libpq reads them: percent-decoding (a "+" stays a plus) and
// IPv6 addresses in brackets in the one, quotes and backslashes in the other.
// Names of parameters are compared without case. A parameter without a value
// counts as absent, but for session settings and those of pgx.
//
// The parameters are host (required), port (1 to 65535), user, dbname or
// database, and for the Config fields of the same meaning cluster_id, region,
// dial_address, server_name, profile, role_arn, role_session_name,
// external_id, token_lifetime (a Go duration, or whole seconds; 1 s to 7 days),
// early_auth (true or false), sslnegotiation (direct or postgres), sslrootcert
// (a PEM file, read now, or "system"), connect_timeout (whole seconds or a Go
// duration; 0 is the default), connect_rate, connect_burst and
// application_name. tokenDurationSecs, token_duration_secs and
// token-duration-secs are TokenLifetime in seconds, and queryExecMode is
// default_query_exec_mode, as AWS's connectors write them. Those of pgx and pgxpool (pool_max_conns, default_query_exec_mode, …) and
// the common session settings (search_path, timezone, …) go to Config.Params.
//
// sslmode is always verify-full: require and verify-ca are taken for it, and
// anything weaker is an error. So are a password (the token is the password),
// an unknown parameter, a setting that DSQL refuses, a parameter given twice with
// different values, more than one host, and what would read further files.
//
// ParseConfig looks at neither the PG* nor the AWS environment, and leaves to
// the first use what the host name means. Every error is an ErrConfig that
// names the parameter or field, and none shows a password, wherever a missing
// escape has left it.
func ParseConfig(connString string) (Config, error) {
	settings, err := parseSettings(connString)
	if err != nil {
		return Config{}, err
	}

	// Passwords come first: what follows one that lacks its quotes reads like
	// further parameters, and must not be named.
	for _, s := range settings {
		if s.value != "" && parameters[strings.ToLower(s.name)].refused == tokenIsPassword {
			return Config{}, configerr.New(s.name, tokenIsPassword)
		}
		if holdsPassword(s.value) {
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
		if p.as != "" {
			name = p.as
			p = parameters[name]
		}
		if s.value == "" && !p.toParams {
			continue
		}
		if strings.Contains(s.value, "\x00") {
			return Config{}, configerr.New(s.name, "holds a NUL byte, which the protocol cannot carry; remove it")
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

// holdsPassword finds a password inside another value: "Host=h;Password=x" is
// one host by libpq's rules, and libpq expands "dbname='host=h password=x'".
func holdsPassword(value string) bool {
	names := strings.Split(strings.ToLower(value), "=")
	for _, name := range names[:len(names)-1] {
		name = strings.TrimRight(name, " \t")
		if strings.HasSuffix(name, "password") || strings.HasSuffix(name, "passwd") || strings.HasSuffix(name, "pwd") {
			return true
		}
	}
	return false
}

// setting is one parameter of a connection string, in the order it was written.
type setting struct{ name, value string }

const (
	space       = " \t\n\r\v\f" // what libpq's isspace takes for one
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

// parseURL reads what follows the scheme. It does not use net/url's parser,
// whose errors quote the input and which takes what stands behind a '#' for a
// fragment.
func parseURL(s string) ([]setting, error) {
	authority, path, query := s, "", ""
	if i := strings.IndexAny(s, "/?"); i >= 0 {
		authority = s[:i]
		path, query, _ = strings.Cut(s[i:], "?")
	}
	// A '/', '?' or '#' that a password holds unescaped ends the authority in
	// the middle of it. The '@' that was to end the password comes later then.
	first, _, colon := strings.Cut(authority, ":")
	if colon && !strings.Contains(first, "@") && strings.Contains(s[len(authority):], "@") {
		return nil, configerr.New(wholeString, "has an @ behind the first slash or question mark; if a password stands before it, remove that: the IAM token is the password; else write the @ as %%40")
	}
	if strings.Contains(s, "#") {
		return nil, configerr.New(wholeString, "has a #, which means nothing in it; write it as %%23 if it belongs to a value")
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
			continue // refused whatever it says
		}
		name, err := url.PathUnescape(s.name)
		if err == nil {
			s.value, err = url.PathUnescape(s.value)
		}
		if err != nil {
			return nil, configerr.New(wholeString, "has a %% that two hexadecimal digits do not follow; write it as %%25 if it belongs to a value")
		}
		settings[i] = setting{name, s.value}
	}
	return settings, nil
}

// splitHostPort takes the authority behind the user apart. It quotes nothing,
// for "u:pa:ss" without its "@host" is a host with two ports.
func splitHostPort(s string) (host, port string, err error) {
	switch {
	case isARN(s):
		return "", "", configerr.New("Host", hostIsARN)
	case strings.Contains(s, ","):
		return "", "", configerr.New("Host", "holds more than one host; a DSQL cluster has one endpoint")
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
		return "", "", configerr.New("Host", "has an escaped colon; give the name alone, and the port after a plain colon")
	}
	return host, port, nil
}

// parseKeywords reads libpq's keyword/value form as conninfo_parse does, but
// for a value that is left out before another parameter: that is an error.
func parseKeywords(s string) ([]setting, error) {
	if s != "" && !strings.Contains(s, "=") {
		// Not quoted: it can be "user:password@host".
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
			return nil, configerr.New(wholeString, "has a word that is not name=value; quote a value that holds spaces, as in name='a b'")
		}
		start := strings.TrimLeft(rest, space)
		value, after, err := cutValue(start)
		if err != nil {
			return nil, err
		}
		// libpq would make "user=x" the port here: "port= user=x".
		if len(start) < len(rest) && !strings.HasPrefix(start, "'") && strings.Contains(value, "=") {
			return nil, configerr.New(wholeString, "has a parameter whose value is missing, or holds a = behind a space; write an empty value as name='', and quote others")
		}
		settings = append(settings, setting{name, value})
		s = strings.TrimLeft(after, space)
	}
	return settings, nil
}

// cutValue takes a value off s, quoted or up to the next space. A backslash
// takes the next byte as it is; one at the end of an unquoted value is dropped.
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
