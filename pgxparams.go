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

// defaultParams are the parameters that pgx would otherwise read from the environment or from files
// in the home directory. PoolConfig then sets from Config what these values lead to. It also sets up
// TLS; with sslmode=disable pgx prepares none itself, and no fallbacks.
var defaultParams = map[string]string{
	"host": "dsql.invalid", "port": "5432", "user": adminUser, "database": defaultDatabase,
	"passfile": "", "connect_timeout": "0", "options": "", "timezone": "", "application_name": "",
	"sslmode": "disable", "sslcert": "", "sslkey": "", "sslrootcert": "",
	"sslcertmode": "allow", "sslsni": "1", "sslnegotiation": "direct",
	"target_session_attrs": "any", "min_protocol_version": "3.0", "max_protocol_version": "3.0",
	"channel_binding": "prefer", "require_auth": "",
}

// parsePgx has pgx parse params, without the PG* environment and the files in the home directory.
func parsePgx(params map[string]string) (*pgxpool.Config, error) {
	settings := maps.Clone(defaultParams)
	maps.Copy(settings, params)

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
		if _, ok := params[name]; !ok {
			delete(pool.ConnConfig.RuntimeParams, name)
		}
	}
	pool.ConnConfig.Password = "" // pgx took it from PGPASSWORD
	return pool, nil
}
