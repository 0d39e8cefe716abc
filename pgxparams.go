package dsql

import (
	"cmp"
	"errors"
	"maps"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/dsqlgo/dsql/internal/configerr"
)

// noEnvironment are the parameters that pgx would otherwise read from the environment or from files
// in the home directory, and that no Config field sets.
var noEnvironment = map[string]string{
	"passfile": "", "connect_timeout": "0",
	"sslcert": "", "sslkey": "", "sslrootcert": "", "sslcertmode": "allow", "sslsni": "1",
	"target_session_attrs": "any", "min_protocol_version": "3.0", "max_protocol_version": "3.0",
	"channel_binding": "prefer", "require_auth": "",
}

// parsePgx has pgx parse the settings of c, without the PG* environment and the files in the home
// directory. pgx keeps the string that it parses: users see it as ConnConfig.ConnString, and some
// tools parse it again. So it is as true as it can be, and safe: with verify-full, and no fallbacks.
func parsePgx(c Config, e Endpoint) (*pgxpool.Config, error) {
	host, port, err := net.SplitHostPort(e.DialAddress)
	if err != nil {
		return nil, err
	}
	settings := maps.Clone(noEnvironment)
	for name, value := range map[string]string{
		"host": host, "port": port, "user": c.user(), "database": cmp.Or(c.Database, defaultDatabase),
		"sslmode": "verify-full", "sslnegotiation": cmp.Or(c.SSLNegotiation, "direct"),
	} {
		settings[name] = value
	}
	// pgx would send these to the server even if they are empty.
	for name, variable := range map[string]string{"options": "PGOPTIONS", "timezone": "PGTZ", "application_name": "PGAPPNAME"} {
		if os.Getenv(variable) != "" {
			settings[name] = ""
		}
	}
	if c.ApplicationName != "" {
		settings["application_name"] = c.ApplicationName
	}
	maps.Copy(settings, c.Params)

	if os.Getenv("PGSERVICE") != "" {
		// pgx always reads the service that this variable names, so give it an empty one.
		file, err := os.CreateTemp("", "dsql-no-service-")
		if err != nil {
			return nil, configerr.New("PGSERVICE", "is set, and the file that makes pgx ignore it cannot be written (%v); unset it", err)
		}
		defer os.Remove(file.Name())
		_, err = file.WriteString("[dsql]\n")
		if err = errors.Join(err, file.Close()); err != nil {
			return nil, configerr.New("PGSERVICE", "is set, and the file that makes pgx ignore it cannot be written (%v); unset it", err)
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
		// The error begins with the whole connection string, which is not the user's.
		text := strings.TrimPrefix(err.Error(), "cannot parse `"+b.String()+"`: ")
		return nil, configerr.New("Params", "%s", strings.Replace(text, "pool_max_conns too small", "pool_max_conns too small; set it to at least 1", 1))
	}
	for name := range pool.ConnConfig.RuntimeParams {
		if _, ok := c.Params[name]; !ok && (name != "application_name" || c.ApplicationName == "") {
			delete(pool.ConnConfig.RuntimeParams, name)
		}
	}
	pool.ConnConfig.Password = "" // pgx took it from PGPASSWORD
	return pool, nil
}
