package rules

import (
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// settings are those that a session may make, beside role, which only SET LOCAL may, and the
// planner's enable_…; everything else is refused (AWS guide, and recorded by several).
var settings = []string{
	"application_name", "client_encoding", "datestyle", "extra_float_digits", "intervalstyle",
	"search_path", "timezone", "dsql.enable_batched_nestloop", syncIndexSetting,
}

// syncIndexSetting is a setting of the service that PostgreSQL cannot have: one of its own needs a
// schema in its name. Nothing depends on its value here.
const syncIndexSetting = "disable_sync_create_index"

// IsSetting reports whether a session may make the setting, whose name is in lower case.
func IsSetting(name string) bool {
	return slices.Contains(settings, name) || strings.HasPrefix(name, "enable_")
}

// PostgresSetting returns the name that PostgreSQL has for a setting.
func PostgresSetting(name string) string {
	if name == syncIndexSetting {
		return "dsql." + name
	}
	return name
}

// RefusedSetting returns the refusal of a setting.
func RefusedSetting(name string) *pgproto3.ErrorResponse {
	return notSupported(`setting configuration parameter "` + name + `" not supported`)
}

// set handles SET, and the SET of ALTER ROLE, whose tokens begin at that word.
func (p *parser) set(ts tokens) (st Statement) {
	st.Kind = Set
	i := 1
	local := ts.is(i, "local")
	if ts.is(i, "local", "session") && !ts.follow(i, "session", "authorization") {
		i++
	}
	switch {
	case ts.follow(i, "transaction", "snapshot"):
		st.Refusal = RefusedSetting("TRANSACTION SNAPSHOT")
	case ts.is(i, "transaction"):
		if st.Refusal = p.isolation(); st.Refusal == nil {
			st.Refusal = RefusedSetting("TRANSACTION")
		}
	case ts.is(i, "characteristics"):
		st.Refusal = p.isolation()
	case ts.is(i, "constraints", "names", "schema", "catalog"), ts.follow(i, "time", "zone"):
	case ts.follow(i, "session", "authorization"):
		if !ts.is(i+2, "default") {
			st.Refusal = RefusedSetting("session_authorization")
		}
	case ts.follow(i, "xml", "option"):
		st.Refusal = RefusedSetting("xmloption")
	case ts.is(i, "role"):
		if !local {
			st.Refusal = RefusedSetting("role")
		}
	default:
		name, behind := ts.setting(i)
		switch {
		case behind >= len(ts): // PostgreSQL finds its syntax at fault
		case !IsSetting(strings.ToLower(name)):
			st.Refusal = RefusedSetting(name)
		case name == syncIndexSetting:
			st.Rewritten = p.sql[p.start:ts[i].start] + PostgresSetting(name) + p.sql[ts[i].end:p.end]
		}
	}
	return st
}

// setting returns the name of the setting at i, and the index behind it.
func (ts tokens) setting(i int) (name string, behind int) {
	behind = ts.skipName(i)
	for ; i < behind; i += 2 {
		if name != "" {
			name += "."
		}
		name += ts.name(i)
	}
	return name, behind
}

// reported are the settings that SHOW answers as the service does, whatever PostgreSQL is behind.
var reported = map[string]string{"server_version": "16.15", "server_version_num": "160015"}

// unknownSettings are those of PostgreSQL 15 that 16 has not.
var unknownSettings = []string{"lc_collate", "lc_ctype"}

// show handles SHOW.
func (p *parser) show(ts tokens) (st Statement) {
	st.Kind = Set
	name, behind := ts.setting(1)
	if behind < len(ts) { // TIME ZONE and the like
		return st
	}
	switch value, ok := reported[name]; {
	case ok:
		st.Rewritten, st.Tag = "SELECT "+QuoteLiteral(value)+" AS "+name, "SHOW"
	case slices.Contains(unknownSettings, name):
		st.Refusal = NewError("42704", `unrecognized configuration parameter "`+name+`"`)
	case name == syncIndexSetting:
		st.Rewritten, st.Tag = "SELECT pg_catalog.current_setting("+QuoteLiteral(name)+") AS "+name, "SHOW"
	case name == "all":
		st.Rewritten, st.Tag = "SELECT name, setting, short_desc AS description FROM pg_catalog.pg_settings ORDER BY name", "SHOW"
	}
	return st
}
