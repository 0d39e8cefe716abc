package dsql

import (
	"crypto/x509"
	"maps"
	"math"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
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
// an unknown parameter, a parameter given twice with different values, more
// than one host, and what would read further files.
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
			return Config{}, configError(s.name, tokenIsPassword)
		}
		if holdsPassword(s.value) {
			return Config{}, configError("password", tokenIsPassword)
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
			return Config{}, configError(s.name, "holds a NUL byte, which the protocol cannot carry; remove it")
		}
		if value, twice := given[name]; twice {
			if value != s.value {
				return Config{}, configError(s.name, "is given twice with different values; give it once")
			}
			continue
		}
		given[name] = s.value

		switch {
		case p.refused != "":
			err = configError(s.name, "%s", p.refused)
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
		return Config{}, configError("Host", "is empty; the connection string needs a host, the cluster's endpoint (<id>.dsql.<region>.on.aws) or another name that leads to it")
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

// parameter is what becomes of a parameter: one of its fields is set.
type parameter struct {
	set      func(c *Config, name, value string) error
	as       string // it is another name of this parameter
	toParams bool   // it goes to Config.Params as it is
	refused  string // why it cannot be set, and what to do instead
}

const (
	tokenIsPassword = "is set, but the IAM token is the password, and a new one is signed for each connection; remove it"
	noFiles         = "is set, but nothing is read from service files; write its parameters into the connection string"
	noClientCert    = "is set, but DSQL takes no client certificates; remove it"
	noKerberos      = "is set, but DSQL takes IAM tokens only; remove it"
)

// parameters holds every parameter that is known, in lower case. pgx's own are
// those of pgconn.ParseConfig, pgx.ParseConfig and pgxpool.ParseConfig in v5.12.
var parameters = map[string]parameter{
	"host":              {set: setHost},
	"port":              {set: setPort},
	"user":              {set: setUser},
	"database":          {set: setDatabase},
	"dbname":            {as: "database"},
	"cluster_id":        {set: text(func(c *Config) *string { return &c.ClusterID })},
	"region":            {set: text(func(c *Config) *string { return &c.Region })},
	"dial_address":      {set: text(func(c *Config) *string { return &c.DialAddress })},
	"server_name":       {set: text(func(c *Config) *string { return &c.ServerName })},
	"profile":           {set: text(func(c *Config) *string { return &c.Profile })},
	"role_arn":          {set: text(func(c *Config) *string { return &c.RoleARN })},
	"role_session_name": {set: text(func(c *Config) *string { return &c.RoleSessionName })},
	"external_id":       {set: text(func(c *Config) *string { return &c.ExternalID })},
	"application_name":  {set: text(func(c *Config) *string { return &c.ApplicationName })},
	"early_auth":        {set: setEarlyAuth},
	"connect_timeout":   {set: setConnectTimeout},
	"connect_rate":      {set: setConnectRate},
	"connect_burst":     {set: setConnectBurst},

	"token_lifetime":      {set: setTokenLifetime},
	"token_duration_secs": {set: setTokenSeconds},
	"token-duration-secs": {as: "token_duration_secs"},
	"tokendurationsecs":   {as: "token_duration_secs"},
	"queryexecmode":       {as: "default_query_exec_mode"},

	"sslmode":        {set: setSSLMode},
	"ssl":            {set: oneOf("TLS is always on and verified in full; leave it out", "true")},
	"sslnegotiation": {set: setSSLNegotiation},
	"sslrootcert":    {set: setRootCAs},
	"sslsni":         {set: oneOf("the server tells clusters apart by the SNI, so it is always sent; leave it out", "1")},
	"sslcert":        {refused: noClientCert},
	"sslkey":         {refused: noClientCert},
	"sslcertmode":    {set: oneOf("DSQL takes no client certificates; leave it out", "disable", "allow")},
	"sslcrl":         {refused: "is set, but revocation lists are not read; remove it"},
	"sslcrldir":      {refused: "is set, but revocation lists are not read; remove it"},

	"password":    {refused: tokenIsPassword},
	"passwd":      {refused: tokenIsPassword},
	"pwd":         {refused: tokenIsPassword},
	"passfile":    {refused: tokenIsPassword},
	"sslpassword": {refused: tokenIsPassword},

	"require_auth":    {set: oneOf("DSQL asks for the token as a password; leave it out", "password")},
	"channel_binding": {set: oneOf("it needs SCRAM, and DSQL asks for a token; leave it out", "disable", "prefer")},
	"gssencmode":      {set: oneOf("DSQL encrypts with TLS, not GSSAPI; leave it out", "disable", "prefer")},
	"krbsrvname":      {refused: noKerberos},
	"krbspn":          {refused: noKerberos},
	"hostaddr":        {refused: "is set, but the address to dial instead of the host goes into dial_address"},
	"service":         {refused: noFiles},
	"servicefile":     {refused: noFiles},
	"options":         {set: refuseOptions},

	"default_query_exec_mode":       {toParams: true},
	"description_cache_capacity":    {toParams: true},
	"max_protocol_version":          {toParams: true},
	"min_protocol_version":          {toParams: true},
	"pool_health_check_period":      {toParams: true},
	"pool_max_conn_idle_time":       {toParams: true},
	"pool_max_conn_lifetime":        {toParams: true},
	"pool_max_conn_lifetime_jitter": {toParams: true},
	"pool_max_conns":                {toParams: true},
	"pool_min_conns":                {toParams: true},
	"pool_min_idle_conns":           {toParams: true},
	"pool_ping_timeout":             {toParams: true},
	"statement_cache_capacity":      {toParams: true},
	"target_session_attrs":          {toParams: true},

	// Session settings that clients commonly send at startup. Which of them it
	// takes is for the server to say.
	"bytea_output":                        {toParams: true},
	"client_encoding":                     {toParams: true},
	"datestyle":                           {toParams: true},
	"extra_float_digits":                  {toParams: true},
	"idle_in_transaction_session_timeout": {toParams: true},
	"intervalstyle":                       {toParams: true},
	"lock_timeout":                        {toParams: true},
	"search_path":                         {toParams: true},
	"statement_timeout":                   {toParams: true},
	"timezone":                            {toParams: true},
}

func text(field func(*Config) *string) func(*Config, string, string) error {
	return func(c *Config, _, value string) error {
		*field(c) = value
		return nil
	}
}

// oneOf takes and drops the values that ask for nothing else than what happens anyway.
func oneOf(advice string, harmless ...string) func(*Config, string, string) error {
	return func(_ *Config, name, value string) error {
		if !slices.Contains(harmless, value) {
			return configError(name, "%s cannot be had: %s", shown(value), advice)
		}
		return nil
	}
}

func setHost(c *Config, _, value string) error {
	switch {
	case strings.ContainsAny(value, "@/"):
		// Not quoted: this can be a URL with a password.
		return configError("Host", "is neither a host name nor an IP address (it holds an @ or a slash); give the name alone")
	case strings.Contains(value, ","):
		return configError("Host", "holds more than one host; a DSQL cluster has one endpoint")
	}
	c.Host = value
	return nil
}

// setPort never quotes the port: in a URL that lacks its "@host" it is a password.
func setPort(c *Config, name, value string) error {
	port, err := strconv.ParseUint(value, 10, 16)
	if err != nil || port == 0 {
		return configError(name, "is not a number from 1 to 65535; leave it out for 5432")
	}
	c.Port = uint16(port)
	return nil
}

func setUser(c *Config, name, value string) error {
	if strings.Contains(value, ":") {
		// Percent-encoded or in a keyword, "user:password" arrives as one value.
		return configError(name, "holds a colon; give the role's name alone, without a password: the IAM token is the password")
	}
	c.User = value
	return nil
}

func setDatabase(c *Config, name, value string) error {
	if strings.ContainsAny(value, "@:/") {
		// The rest of a URL whose password holds an unescaped slash, or a URL
		// in dbname, which libpq would expand.
		return configError(name, "is not the name of a database (it holds an @, a colon or a slash); DSQL has one, postgres: leave it out")
	}
	c.Database = value
	return nil
}

func setEarlyAuth(c *Config, name, value string) error {
	early, err := strconv.ParseBool(value)
	if err != nil {
		return configError(name, "%s is neither true nor false; set it to one of them", shown(value))
	}
	c.EarlyAuth = early
	return nil
}

func setConnectTimeout(c *Config, name, value string) error {
	d, err := parseDuration(value)
	if err != nil || d < 0 {
		return configError(name, "%s is not a time to wait; write whole seconds or a Go duration such as 10s, or 0 for the default", shown(value))
	}
	c.ConnectTimeout = d
	return nil
}

func setConnectRate(c *Config, name, value string) error {
	rate, err := strconv.ParseFloat(value, 64)
	if err != nil || math.IsNaN(rate) || math.IsInf(rate, 0) {
		return configError(name, "%s is not a number of connections a second; write it like 100 or 0.5, or -1 for no pacing", shown(value))
	}
	c.ConnectRate = rate
	return nil
}

func setConnectBurst(c *Config, name, value string) error {
	burst, err := strconv.Atoi(value)
	if err != nil || burst < 0 {
		return configError(name, "%s is not a number of connections; write a whole number, or leave it out for 1000", shown(value))
	}
	c.ConnectBurst = burst
	return nil
}

func setTokenLifetime(c *Config, name, value string) error {
	d, err := parseDuration(value)
	if err != nil {
		return configError(name, "%s is neither whole seconds nor a Go duration; write it like 900 or 15m", shown(value))
	}
	if err := checkTokenLifetime(d); err != nil {
		return err
	}
	if c.TokenLifetime != 0 && c.TokenLifetime != d {
		return configError(name, "is given under two names with different values; give one of token_lifetime and tokenDurationSecs")
	}
	c.TokenLifetime = d
	return nil
}

func setTokenSeconds(c *Config, name, value string) error {
	if !only(value, digits) {
		return configError(name, "%s is not a whole number of seconds; write it like 900, or use token_lifetime", shown(value))
	}
	return setTokenLifetime(c, name, value)
}

// maxTokenLifetime is SigV4's limit for a presigned request (AWS guide,
// "Generating an authentication token": at most 604,800 s).
const maxTokenLifetime = 7 * 24 * time.Hour

// checkTokenLifetime checks a TokenLifetime that is set: 0 is out of range here.
// Seconds are whole because X-Amz-Expires counts them.
func checkTokenLifetime(d time.Duration) error {
	if d < time.Second || d > maxTokenLifetime || d%time.Second != 0 {
		return configError("TokenLifetime", "is %v; set it to whole seconds from 1 s to 7 days (604800 s)", d)
	}
	return nil
}

func setSSLMode(_ *Config, name, value string) error {
	switch value {
	case "require", "verify-ca", "verify-full":
		return nil
	case "disable", "allow", "prefer":
		return configError(name, "%q allows a connection in plaintext, and the IAM token is a password: it would go to whoever answers; set verify-full, or leave it out, which means the same", value)
	}
	return configError(name, "%s is not an sslmode; set verify-full, or leave it out, which means the same", shown(value))
}

func setSSLNegotiation(c *Config, name, value string) error {
	if value != "direct" && value != "postgres" {
		return configError(name, "%s is neither direct nor postgres; leave it out for direct", shown(value))
	}
	c.SSLNegotiation = value
	return nil
}

func setRootCAs(c *Config, name, value string) error {
	if value == "system" {
		return nil
	}
	pem, err := os.ReadFile(value)
	if err != nil {
		return configError(name, "cannot be read (%v); give the path of a PEM file, or leave it out for the system's roots", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return configError(name, "%q holds no certificate in PEM; give the roots' file, or leave it out for the system's roots", value)
	}
	c.RootCAs = roots
	return nil
}

func refuseOptions(_ *Config, name, value string) error {
	if strings.Contains(value, "amzn-cluster-id") {
		return configError(name, "names the cluster by amzn-cluster-id; set cluster_id instead, which keeps the server's name verified")
	}
	return configError(name, "is set, but DSQL refuses startup options; name settings as parameters of their own, such as search_path")
}

// unknownParameter names the parameter unless it cannot be a name: then it may
// hold a password that a missing quote or escape has left there.
func unknownParameter(name string) error {
	if len(name) > 63 || !only(name, letters+capitals+digits+"_.-") || !only(name[:1], letters+capitals+"_") {
		return configError("connection string", "has a parameter that cannot be one, for its name has other characters than letters, digits, '_', '-' and '.'; check quotes and escapes, and remove any password")
	}
	hint := ""
	if known := closest(name); known != "" {
		hint = "did you mean " + known + "? If not, "
	}
	return configError(name, "is not a parameter known here; %sset it in Config.Params if the server knows it, or remove it", hint)
}

// closest returns the accepted parameter that name was probably meant to be, or "".
func closest(name string) string {
	bare := strings.NewReplacer("_", "", "-", "")
	name = strings.ToLower(name)
	best, least := "", 3
	for _, known := range slices.Sorted(maps.Keys(parameters)) {
		if parameters[known].refused != "" {
			continue
		}
		d := editDistance(name, known)
		if bare.Replace(name) == bare.Replace(known) {
			d = 0
		}
		if d < least {
			best, least = known, d
		}
	}
	return best
}

// editDistance is Levenshtein's, in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substituted := diagonal
			if a[i] != b[j] {
				substituted++
			}
			diagonal = row[j+1]
			row[j+1] = min(substituted, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// shown quotes a value for an error, but not one that looks like a piece of a
// URL, since such a piece may hold a password.
func shown(value string) string {
	if len(value) > 40 || strings.ContainsAny(value, "@:/") {
		return "the value given"
	}
	return strconv.Quote(value)
}

// parseDuration reads whole seconds or a Go duration.
func parseDuration(value string) (time.Duration, error) {
	if only(value, digits) {
		value += "s"
	}
	return time.ParseDuration(value)
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
	return nil, configError(wholeString, "is a URL of another scheme; begin it with postgres://, postgresql:// or dsql://")
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
		return nil, configError(wholeString, "has an @ behind the first slash or question mark; if a password stands before it, remove that: the IAM token is the password; else write the @ as %%40")
	}
	if strings.Contains(s, "#") {
		return nil, configError(wholeString, "has a #, which means nothing in it; write it as %%23 if it belongs to a value")
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
			return nil, configError(wholeString, "has a parameter without =; write name=value, and an & inside a value as %%26")
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
			return nil, configError(wholeString, "has a %% that two hexadecimal digits do not follow; write it as %%25 if it belongs to a value")
		}
		settings[i] = setting{name, s.value}
	}
	return settings, nil
}

// splitHostPort takes the authority behind the user apart. It quotes nothing,
// for "u:pa:ss" without its "@host" is a host with two ports.
func splitHostPort(s string) (host, port string, err error) {
	if strings.Contains(s, ",") {
		return "", "", configError("Host", "holds more than one host; a DSQL cluster has one endpoint")
	}
	if inner, ok := strings.CutPrefix(s, "["); ok {
		host, rest, ok := strings.Cut(inner, "]")
		// RFC 6874: a zone's '%' is itself escaped.
		ip, err := netip.ParseAddr(strings.Replace(host, "%25", "%", 1))
		port, hasPort := strings.CutPrefix(rest, ":")
		if !ok || err != nil || !ip.Is6() || rest != "" && !hasPort {
			return "", "", configError("Host", "has a bracket, but is not an IPv6 address in brackets; write it like [2001:db8::1]:5432")
		}
		return host, port, nil
	}
	host, port, _ = strings.Cut(s, ":")
	if strings.Contains(port, ":") {
		return "", "", configError("Host", "has more than one colon; write an IPv6 address in brackets, like [2001:db8::1]:5432")
	}
	if strings.Contains(strings.ToLower(host), "%3a") {
		// "user:password" with its colon escaped, and no "@host".
		return "", "", configError("Host", "has an escaped colon; give the name alone, and the port after a plain colon")
	}
	return host, port, nil
}

// parseKeywords reads libpq's keyword/value form as conninfo_parse does, but
// for a value that is left out before another parameter: that is an error.
func parseKeywords(s string) ([]setting, error) {
	var settings []setting
	for s != "" {
		name, rest, ok := strings.Cut(s, "=")
		name = strings.TrimRight(name, space)
		if !ok || name == "" || strings.ContainsAny(name, space) {
			return nil, configError(wholeString, "has a word that is not name=value; quote a value that holds spaces, as in name='a b'")
		}
		start := strings.TrimLeft(rest, space)
		value, after, err := cutValue(start)
		if err != nil {
			return nil, err
		}
		// libpq would make "user=x" the port here: "port= user=x".
		if len(start) < len(rest) && !strings.HasPrefix(start, "'") && strings.Contains(value, "=") {
			return nil, configError(wholeString, "has a parameter whose value is missing, or holds a = behind a space; write an empty value as name='', and quote others")
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
		return "", "", configError(wholeString, "has a quote that is not closed; write a quote inside a value as \\'")
	}
	return b.String(), "", nil
}
