package dsqlproxy

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
)

// clientSettings says where clients have a setting that DSQL refuses when a session begins.
var clientSettings = []struct{ name, where string }{
	{"statement_timeout", "node-postgres: statement_timeout of the Pool; SQLAlchemy, Django: options in the connect arguments"},
	{"lock_timeout", "node-postgres: lock_timeout of the Pool"},
	{"idle_in_transaction_session_timeout", "node-postgres: idle_in_transaction_session_timeout of the Pool"},
	{"default_transaction_read_only", "DBeaver: the connection's \"Read-only connection\""},
	{"default_transaction_isolation", "SQLAlchemy: isolation_level of the engine; DSQL always has REPEATABLE READ"},
	{"jit", "asyncpg: server_settings of connect or create_pool"},
	{"geqo", "pgjdbc: options of the URL"},
	{"client_min_messages", "PGOPTIONS, or options in the connection string"},
	{"replication", "logical replication clients: DSQL has none"},
}

// settingHint says where the client has the setting that the cluster has refused, or nothing.
func settingHint(said *pgconn.PgError, settings map[string]string) string {
	m := refusedSetting().FindStringSubmatch(said.Message)
	if said.Code != "0A000" || m == nil {
		return ""
	}
	name := m[1]
	where := "as a parameter of its startup message"
	if _, ok := settings[name]; !ok && strings.Contains(settings["options"], name) {
		where = `in its parameter "options" (PGOPTIONS, options=)`
	}
	hint := fmt.Sprintf("the client sends %s %s; remove it there", name, where)
	if i := slices.IndexFunc(clientSettings, func(s struct{ name, where string }) bool { return strings.EqualFold(s.name, name) }); i >= 0 {
		hint += " (" + clientSettings[i].where + ")"
	}
	if drops(name, settings[name]) {
		hint += ", or start the proxy with --compat"
	}
	return hint
}

// namesCluster tells whether a client wants to say which cluster it is for, as AWS lets clients do
// that send no server name. It would be a way around the one that the proxy is for.
func namesCluster(settings map[string]string) bool {
	const option = "amzn-cluster-id"
	options := strings.ReplaceAll(strings.Join(splitOptions(settings["options"]), " "), "_", "-")
	if strings.Contains(strings.ToLower(options), option) {
		return true
	}
	for name := range settings {
		if strings.EqualFold(strings.ReplaceAll(name, "_", "-"), option) {
			return true
		}
	}
	return false
}

var refusedSetting = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`setting configuration parameter "([^"]+)" not supported`)
})
