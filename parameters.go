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
	"github.com/dsqlgo/dsql/internal/connstring"
)

// parameter says what ParseConfig does with a parameter. Exactly one field is set.
type parameter struct {
	set      func(c *Config, name, value string) error
	aliasOf  string // the name of the parameter that it is another name for
	toParams bool   // put into Config.Params unchanged
	refused  string // why it is an error, and what to do instead
}

const (
	tokenIsPassword = "is set, but the IAM token is the password, and a new one is signed for each connection; remove it"
	noFiles         = "is set, but service files are not read; write their parameters into the connection string"
	noClientCert    = "is set, but DSQL accepts no client certificates; remove it"
	noKerberos      = "is set, but DSQL accepts only IAM tokens; remove it"
	noSetting       = "is set, but DSQL refuses this setting; remove it"
)

// parameters are all known parameters, in lower case. Those of pgx are the ones that
// pgconn.ParseConfig, pgx.ParseConfig and pgxpool.ParseConfig know in v5.12.
var parameters = map[string]parameter{
	"host":              {set: setHost},
	"port":              {set: setPort},
	"user":              {set: setUser},
	"database":          {set: setDatabase},
	"dbname":            {aliasOf: "database"},
	"cluster_id":        {set: setString(func(c *Config) *string { return &c.ClusterID })},
	"region":            {set: setString(func(c *Config) *string { return &c.Region })},
	"dial_address":      {set: setString(func(c *Config) *string { return &c.DialAddress })},
	"server_name":       {set: setString(func(c *Config) *string { return &c.ServerName })},
	"transport":         {set: setTransport},
	"profile":           {set: setString(func(c *Config) *string { return &c.Profile })},
	"role_arn":          {set: setString(func(c *Config) *string { return &c.RoleARN })},
	"role_session_name": {set: setString(func(c *Config) *string { return &c.RoleSessionName })},
	"external_id":       {set: setString(func(c *Config) *string { return &c.ExternalID })},
	"application_name":  {set: setString(func(c *Config) *string { return &c.ApplicationName })},
	"early_auth":        {set: setEarlyAuth},
	"connect_timeout":   {set: setConnectTimeout},
	"connect_rate":      {set: setConnectRate},
	"connect_burst":     {set: setConnectBurst},

	"token_lifetime":      {set: setTokenLifetime},
	"token_duration_secs": {set: setTokenSeconds},
	"token-duration-secs": {aliasOf: "token_duration_secs"},
	"tokendurationsecs":   {aliasOf: "token_duration_secs"},
	"queryexecmode":       {aliasOf: "default_query_exec_mode"},

	"sslmode":        {set: setSSLMode},
	"ssl":            {set: acceptOnly("TLS is always on and verified in full; remove it", "true")},
	"sslnegotiation": {set: setSSLNegotiation},
	"sslrootcert":    {set: setRootCAs},
	"sslsni":         {set: acceptOnly("the server finds the cluster by the SNI, so it is always sent; remove it", "1")},
	"sslcert":        {refused: noClientCert},
	"sslkey":         {refused: noClientCert},
	"sslcertmode":    {set: acceptOnly("DSQL accepts no client certificates; remove it", "disable", "allow")},
	"sslcrl":         {refused: "is set, but revocation lists are not read; remove it"},
	"sslcrldir":      {refused: "is set, but revocation lists are not read; remove it"},

	"password":    {refused: tokenIsPassword},
	"passwd":      {refused: tokenIsPassword},
	"pwd":         {refused: tokenIsPassword},
	"passfile":    {refused: tokenIsPassword},
	"sslpassword": {refused: tokenIsPassword},

	"require_auth":    {set: acceptOnly("DSQL asks for the token as a password; remove it", "password")},
	"channel_binding": {set: acceptOnly("it needs SCRAM, and DSQL asks for a token; remove it", "disable", "prefer")},
	"gssencmode":      {set: acceptOnly("DSQL encrypts with TLS, not GSSAPI; remove it", "disable", "prefer")},
	"krbsrvname":      {refused: noKerberos},
	"krbspn":          {refused: noKerberos},
	"hostaddr":        {refused: "is set; for an address to dial instead of the host, set dial_address"},
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

	// Session settings that clients commonly send at startup. The server decides which it accepts.
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

func setString(field func(*Config) *string) func(*Config, string, string) error {
	return func(c *Config, _, value string) error {
		*field(c) = value
		return nil
	}
}

// acceptOnly ignores the values that ask for what this package does anyway, and refuses others.
func acceptOnly(advice string, accepted ...string) func(*Config, string, string) error {
	return func(_ *Config, name, value string) error {
		if !slices.Contains(accepted, value) {
			return configerr.New(name, "%s is not possible: %s", quoteSafe(value), advice)
		}
		return nil
	}
}

func setHost(c *Config, _, value string) error {
	switch {
	case connstring.IsARN(value):
		return configerr.New("Host", connstring.HostIsARN)
	case strings.ContainsAny(value, "@/"):
		// Not quoted: this may be a URL with a password.
		return configerr.New("Host", "is neither a host name nor an IP address (it contains an @ or a slash); write only the name")
	case strings.Contains(value, ","):
		return configerr.New("Host", "contains more than one host; a DSQL cluster has one endpoint")
	}
	c.Host = value
	return nil
}

// setPort never quotes the port: in a URL whose "@host" is missing, it is a password.
func setPort(c *Config, name, value string) error {
	port, err := strconv.ParseUint(value, 10, 16)
	if err != nil || port == 0 {
		return configerr.New(name, "is not a number from 1 to 65535; remove it for the default")
	}
	c.Port = uint16(port)
	return nil
}

func setUser(c *Config, name, value string) error {
	if strings.Contains(value, ":") {
		// "user:password" is one value if it is percent-encoded or after a keyword.
		return configerr.New(name, "contains a colon; write only the role's name, without a password: the IAM token is the password")
	}
	c.User = value
	return nil
}

func setDatabase(c *Config, name, value string) error {
	if strings.ContainsAny(value, "@:/") {
		// This may be the end of a URL whose password contains an unescaped slash, or a URL in
		// dbname, which libpq would parse.
		return configerr.New(name, "is not the name of a database (it contains an @, a colon or a slash); DSQL has only postgres: remove it")
	}
	c.Database = value
	return nil
}

func setTransport(c *Config, name, value string) error {
	if value != transportTCP && value != transportWebSocket && value != transportAuto {
		return configerr.New(name, "%s is not a transport; set it to tcp, websocket or auto, or remove it for tcp", quoteSafe(value))
	}
	c.Transport = value
	return nil
}

func setEarlyAuth(c *Config, name, value string) error {
	early, err := strconv.ParseBool(value)
	if err != nil {
		return configerr.New(name, "%s is neither true nor false; set it to one of them", quoteSafe(value))
	}
	c.EarlyAuth = early
	return nil
}

func setConnectTimeout(c *Config, name, value string) error {
	d, err := parseDuration(value)
	if err != nil || d < 0 {
		return configerr.New(name, "%s is not a time; write whole seconds or a Go duration such as 10s, or 0 for the default", quoteSafe(value))
	}
	c.ConnectTimeout = d
	return nil
}

func setConnectRate(c *Config, name, value string) error {
	rate, err := strconv.ParseFloat(value, 64)
	if err != nil || math.IsNaN(rate) || math.IsInf(rate, 0) {
		return configerr.New(name, "%s is not a number of connections a second; write it like 100 or 0.5, or -1 for no limit", quoteSafe(value))
	}
	c.ConnectRate = rate
	return nil
}

func setConnectBurst(c *Config, name, value string) error {
	burst, err := strconv.Atoi(value)
	if err != nil || burst < 0 {
		return configerr.New(name, "%s is not a number of connections; write a whole number, or remove it for the default", quoteSafe(value))
	}
	c.ConnectBurst = burst
	return nil
}

func setTokenLifetime(c *Config, name, value string) error {
	d, err := parseDuration(value)
	if err != nil {
		return configerr.New(name, "%s is neither whole seconds nor a Go duration; write it like 900 or 15m", quoteSafe(value))
	}
	if err := validateTokenLifetime(d); err != nil {
		return err
	}
	if c.TokenLifetime != 0 && c.TokenLifetime != d {
		return configerr.New(name, "is given under two names with different values; set only one of token_lifetime and tokenDurationSecs")
	}
	c.TokenLifetime = d
	return nil
}

func setTokenSeconds(c *Config, name, value string) error {
	if !consistsOf(value, digits) {
		return configerr.New(name, "%s is not a whole number of seconds; write it like 900, or use token_lifetime", quoteSafe(value))
	}
	return setTokenLifetime(c, name, value)
}

func setSSLMode(_ *Config, name, value string) error {
	switch value {
	case "require", "verify-ca", "verify-full":
		return nil
	case "disable", "allow", "prefer":
		return configerr.New(name, "%q allows a connection in plaintext, so any server could get the IAM token, which is a password; set verify-full, or remove it, which means the same", value)
	}
	return configerr.New(name, "%s is not an sslmode; set verify-full, or remove it, which means the same", quoteSafe(value))
}

func setSSLNegotiation(c *Config, name, value string) error {
	if value != "direct" && value != "postgres" {
		return configerr.New(name, "%s is neither direct nor postgres; remove it for direct", quoteSafe(value))
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
		return configerr.New(name, "cannot be read (%v); set the path of a PEM file, or remove it for the system's roots", err)
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return configerr.New(name, "%q contains no certificate in PEM; set the path of the roots' file, or remove it for the system's roots", value)
	}
	c.RootCAs = roots
	return nil
}

func refuseOptions(_ *Config, name, value string) error {
	if strings.Contains(value, "amzn-cluster-id") {
		return configerr.New(name, "names the cluster by amzn-cluster-id; set cluster_id instead, with which the server's name stays verified")
	}
	return configerr.New(name, "is set, but it is not supported; write each setting as a parameter of its own, such as search_path")
}

// unknownParameter returns an error that names the parameter, unless that cannot be a name: it may
// contain a password, because of a missing quote or escape.
func unknownParameter(name string) error {
	if len(name) > 63 || !consistsOf(name, lowercase+uppercase+digits+"_.-") || !consistsOf(name[:1], lowercase+uppercase+"_") {
		return configerr.New("connection string", "has a parameter whose name contains other characters than letters, digits, '_', '-' and '.'; check quotes and escapes, and remove any password")
	}
	hint := ""
	if known := closestParameter(name); known != "" {
		hint = "did you mean " + known + "? If not, "
	}
	return configerr.New(name, "is not a known parameter; %sset it in Config.Params if the server knows it, or remove it", hint)
}

// closestParameter returns the parameter that name is probably a misspelling of, or "".
func closestParameter(name string) string {
	withoutDashes := strings.NewReplacer("_", "", "-", "")
	name = strings.ToLower(name)
	best, bestDistance := "", 3
	for _, known := range slices.Sorted(maps.Keys(parameters)) {
		if parameters[known].refused != "" {
			continue
		}
		distance := editDistance(name, known)
		if withoutDashes.Replace(name) == withoutDashes.Replace(known) {
			distance = 0
		}
		if distance < bestDistance {
			best, bestDistance = known, distance
		}
	}
	return best
}

// editDistance returns the Levenshtein distance, in bytes.
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

// quoteSafe quotes a value for an error, unless it looks like a part of a URL, which may contain a
// password.
func quoteSafe(value string) string {
	if len(value) > 40 || strings.ContainsAny(value, "@:/") {
		return "the value given"
	}
	return strconv.Quote(value)
}

// parseDuration parses whole seconds or a Go duration.
func parseDuration(value string) (time.Duration, error) {
	if consistsOf(value, digits) {
		value += "s"
	}
	return time.ParseDuration(value)
}
