package dsql

import (
	"crypto/x509"
	"maps"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/dsqlgo/dsql/internal/configerr"
)

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
	noSetting       = "is set, but DSQL refuses this setting; remove it"
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

	"client_min_messages":           {refused: noSetting},
	"default_transaction_isolation": {refused: noSetting},

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
			return configerr.New(name, "%s cannot be had: %s", shown(value), advice)
		}
		return nil
	}
}

func setHost(c *Config, _, value string) error {
	switch {
	case isARN(value):
		return configerr.New("Host", hostIsARN)
	case strings.ContainsAny(value, "@/"):
		// Not quoted: this can be a URL with a password.
		return configerr.New("Host", "is neither a host name nor an IP address (it holds an @ or a slash); give the name alone")
	case strings.Contains(value, ","):
		return configerr.New("Host", "holds more than one host; a DSQL cluster has one endpoint")
	}
	c.Host = value
	return nil
}

// setPort never quotes the port: in a URL that lacks its "@host" it is a password.
func setPort(c *Config, name, value string) error {
	port, err := strconv.ParseUint(value, 10, 16)
	if err != nil || port == 0 {
		return configerr.New(name, "is not a number from 1 to 65535; leave it out for 5432")
	}
	c.Port = uint16(port)
	return nil
}

func setUser(c *Config, name, value string) error {
	if strings.Contains(value, ":") {
		// Percent-encoded or in a keyword, "user:password" arrives as one value.
		return configerr.New(name, "holds a colon; give the role's name alone, without a password: the IAM token is the password")
	}
	c.User = value
	return nil
}

func setDatabase(c *Config, name, value string) error {
	if strings.ContainsAny(value, "@:/") {
		// The rest of a URL whose password holds an unescaped slash, or a URL
		// in dbname, which libpq would expand.
		return configerr.New(name, "is not the name of a database (it holds an @, a colon or a slash); DSQL has one, postgres: leave it out")
	}
	c.Database = value
	return nil
}

func setEarlyAuth(c *Config, name, value string) error {
	early, err := strconv.ParseBool(value)
	if err != nil {
		return configerr.New(name, "%s is neither true nor false; set it to one of them", shown(value))
	}
	c.EarlyAuth = early
	return nil
}

func setConnectTimeout(c *Config, name, value string) error {
	d, err := parseDuration(value)
	if err != nil || d < 0 {
		return configerr.New(name, "%s is not a time to wait; write whole seconds or a Go duration such as 10s, or 0 for the default", shown(value))
	}
	c.ConnectTimeout = d
	return nil
}

func setConnectRate(c *Config, name, value string) error {
	rate, err := strconv.ParseFloat(value, 64)
	if err != nil || math.IsNaN(rate) || math.IsInf(rate, 0) {
		return configerr.New(name, "%s is not a number of connections a second; write it like 100 or 0.5, or -1 for no pacing", shown(value))
	}
	c.ConnectRate = rate
	return nil
}

func setConnectBurst(c *Config, name, value string) error {
	burst, err := strconv.Atoi(value)
	if err != nil || burst < 0 {
		return configerr.New(name, "%s is not a number of connections; write a whole number, or leave it out for 1000", shown(value))
	}
	c.ConnectBurst = burst
	return nil
}

func setTokenLifetime(c *Config, name, value string) error {
	d, err := parseDuration(value)
	if err != nil {
		return configerr.New(name, "%s is neither whole seconds nor a Go duration; write it like 900 or 15m", shown(value))
	}
	if err := validateTokenLifetime(d); err != nil {
		return err
	}
	if c.TokenLifetime != 0 && c.TokenLifetime != d {
		return configerr.New(name, "is given under two names with different values; give one of token_lifetime and tokenDurationSecs")
	}
	c.TokenLifetime = d
	return nil
}

func setTokenSeconds(c *Config, name, value string) error {
	if !only(value, digits) {
		return configerr.New(name, "%s is not a whole number of seconds; write it like 900, or use token_lifetime", shown(value))
	}
	return setTokenLifetime(c, name, value)
}

func setSSLMode(_ *Config, name, value string) error {
	switch value {
	case "require", "verify-ca", "verify-full":
		return nil
	case "disable", "allow", "prefer":
		return configerr.New(name, "%q allows a connection in plaintext, and the IAM token is a password: it would go to whoever answers; set verify-full, or leave it out, which means the same", value)
	}
	return configerr.New(name, "%s is not an sslmode; set verify-full, or leave it out, which means the same", shown(value))
}

func setSSLNegotiation(c *Config, name, value string) error {
	if value != "direct" && value != "postgres" {
		return configerr.New(name, "%s is neither direct nor postgres; leave it out for direct", shown(value))
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
		return configerr.New(name, "cannot be read (%v); give the path of a PEM file, or leave it out for the system's roots", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return configerr.New(name, "%q holds no certificate in PEM; give the roots' file, or leave it out for the system's roots", value)
	}
	c.RootCAs = roots
	return nil
}

func refuseOptions(_ *Config, name, value string) error {
	if strings.Contains(value, "amzn-cluster-id") {
		return configerr.New(name, "names the cluster by amzn-cluster-id; set cluster_id instead, which keeps the server's name verified")
	}
	return configerr.New(name, "is set, but DSQL refuses startup options; name settings as parameters of their own, such as search_path")
}

// unknownParameter names the parameter unless it cannot be a name: then it may
// hold a password that a missing quote or escape has left there.
func unknownParameter(name string) error {
	if len(name) > 63 || !only(name, letters+capitals+digits+"_.-") || !only(name[:1], letters+capitals+"_") {
		return configerr.New("connection string", "has a parameter that cannot be one, for its name has other characters than letters, digits, '_', '-' and '.'; check quotes and escapes, and remove any password")
	}
	hint := ""
	if known := closest(name); known != "" {
		hint = "did you mean " + known + "? If not, "
	}
	return configerr.New(name, "is not a parameter known here; %sset it in Config.Params if the server knows it, or remove it", hint)
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
