package dsql

import (
	"errors"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql/internal/configerr"
)

// Parameters that pgx reads from the environment or from files in the home
// directory, with the values that keep it from doing so. What follows from the empty ones is
// overwritten from Config. TLS is Config's too: "disable" makes pgx prepare none,
// and no fallbacks.
var defaultParams = map[string]string{
	"host": "dsql.invalid", "port": "5432", "user": adminUser, "database": defaultDatabase,
	"passfile": "", "connect_timeout": "0", "options": "", "timezone": "", "application_name": "",
	"sslmode": "disable", "sslcert": "", "sslkey": "", "sslrootcert": "",
	"sslcertmode": "allow", "sslsni": "1", "sslnegotiation": "direct",
	"target_session_attrs": "any", "min_protocol_version": "3.0", "max_protocol_version": "3.0",
	"channel_binding": "prefer", "require_auth": "",
}

// ownedBy names the field for parameters that Params must not hold.
var ownedBy = map[string]string{
	"host": "Host", "hostaddr": "DialAddress", "port": "Port", "user": "User", "dbname": "Database", "database": "Database",
	"connect_timeout": "ConnectTimeout", "application_name": "ApplicationName",
	"sslrootcert": "RootCAs", "sslnegotiation": "SSLNegotiation",
	"cluster_id": "ClusterID", "region": "Region", "dial_address": "DialAddress", "server_name": "ServerName",
	"profile": "Profile", "role_arn": "RoleARN", "role_session_name": "RoleSessionName", "external_id": "ExternalID",
	"token_lifetime": "TokenLifetime", "early_auth": "EarlyAuth", "connect_rate": "ConnectRate", "connect_burst": "ConnectBurst",
}

// refusedParams have no place in a connection to DSQL.
var refusedParams = []string{
	"password", "passfile", "service", "servicefile", "sslmode", "sslcert", "sslkey", "sslpassword", "sslcertmode", "sslsni",
	"require_auth", "channel_binding", "krbsrvname", "krbspn",
}

// parsePgx has pgx read params, and nothing but params: neither the PG*
// environment nor files in the home directory.
func parsePgx(params map[string]string) (*pgxpool.Config, error) {
	settings := maps.Clone(defaultParams)
	for name, value := range params {
		field, owned := ownedBy[name]
		switch {
		case owned:
			return nil, configerr.New("Params", "holds %q; set Config.%s instead", name, field)
		case slices.Contains(refusedParams, name):
			return nil, configerr.New("Params", "holds %q, which DSQL has no use for: the token is the password, and TLS is always verify-full; remove it", name)
		case name == "" || strings.ContainsAny(name, "= \t\r\n\v\f\\'\x00"):
			return nil, configerr.New("Params", "holds a name that is none, %q; remove it", name)
		case strings.ContainsRune(value, 0):
			return nil, configerr.New("Params", "%q holds a NUL character, which ends a value on the wire; remove it", name)
		}
		settings[name] = value
	}

	if os.Getenv("PGSERVICE") != "" {
		// pgx insists on reading the service that this names. It gets one that
		// says nothing.
		file, err := os.CreateTemp("", "dsql-no-service-")
		if err != nil {
			return nil, configerr.New("PGSERVICE", "is set, and the file that keeps pgx from obeying it cannot be written (%v); unset it", err)
		}
		defer os.Remove(file.Name())
		_, err = file.WriteString("[dsql]\n")
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, configerr.New("PGSERVICE", "is set, and the file that keeps pgx from obeying it cannot be written (%v); unset it", err)
		}
		settings["service"], settings["servicefile"] = "dsql", file.Name()
	}

	var b strings.Builder
	escape := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		b.WriteString(name + "='" + escape.Replace(settings[name]) + "' ")
	}
	pool, err := pgxpool.ParseConfig(b.String())
	if err != nil {
		// The text begins with the whole string, which users never saw.
		text := strings.TrimPrefix(err.Error(), "cannot parse `"+b.String()+"`: ")
		return nil, configerr.New("Params", "%s", strings.Replace(text, "pool_max_conns too small", "pool_max_conns too small; it is at least 1", 1))
	}
	for name := range pool.ConnConfig.RuntimeParams {
		if _, ok := params[name]; !ok {
			delete(pool.ConnConfig.RuntimeParams, name)
		}
	}
	pool.ConnConfig.Password = "" // PGPASSWORD's
	return pool, nil
}
