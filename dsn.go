package dsql

import (
	"strings"

	"github.com/dsqlgo/dsql/internal/configerr"
	"github.com/dsqlgo/dsql/internal/connstring"
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
	settings, err := connstring.Parse(connString)
	if err != nil {
		return Config{}, err
	}

	// Look for passwords first. Without its quotes, the rest of a password looks like more
	// parameters, which errors must not name.
	for _, s := range settings {
		if s.Value != "" && parameters[strings.ToLower(s.Name)].refused == tokenIsPassword {
			return Config{}, configerr.New(s.Name, tokenIsPassword)
		}
		if containsPassword(s.Value) {
			return Config{}, configerr.New("password", tokenIsPassword)
		}
	}

	var c Config
	given := make(map[string]string, len(settings))
	for _, s := range settings {
		name := strings.ToLower(s.Name)
		p, known := parameters[name]
		if !known {
			return Config{}, unknownParameter(s.Name)
		}
		if p.aliasOf != "" {
			name = p.aliasOf
			p = parameters[name]
		}
		if s.Value == "" && !p.toParams {
			continue
		}
		if strings.Contains(s.Value, "\x00") {
			return Config{}, configerr.New(s.Name, "contains a NUL character, which ends a value in the protocol; remove it")
		}
		if value, twice := given[name]; twice {
			if value != s.Value {
				return Config{}, configerr.New(s.Name, "is given twice with different values; give it once")
			}
			continue
		}
		given[name] = s.Value

		switch {
		case p.refused != "":
			err = configerr.New(s.Name, "%s", p.refused)
		case p.toParams:
			if c.Params == nil {
				c.Params = make(map[string]string)
			}
			c.Params[name] = s.Value
		default:
			err = p.set(&c, s.Name, s.Value)
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
