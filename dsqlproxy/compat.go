package dsqlproxy

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgproto3"
)

// compatRules are what Compat drops or rewrites, and for whom. A setting has a row only where DSQL
// behaves as the value asks for, or where nothing but text changes: a statement_timeout of 0 is
// true of DSQL, one of 30 s would be a lie. A row without values takes every value.
//
// A statement's row is a regular expression for the whole of it, in which a blank stands for "\s+".
// What is sent is instead, with the session's process ID for {pid}; an empty instead is a statement
// that changes nothing.
var compatRules = []compatRule{
	{setting: "client_min_messages", client: "Sequelize, pgAdmin, Rails, pg_dump"},
	{setting: "bytea_output", values: "hex", client: "pgAdmin"},
	{setting: "standard_conforming_strings", values: "on true 1 yes", client: "Rails, pg_dump"},
	{setting: "default_transaction_read_only", values: "off false 0 no", client: "Bytebase"},
	{setting: "statement_timeout", values: "0", client: "pg_dump"},
	{setting: "lock_timeout", values: "0", client: "pg_dump"},
	{setting: "idle_in_transaction_session_timeout", values: "0", client: "pg_dump"},
	{setting: "row_security", values: "off", client: "pg_dump"},
	{setting: "xmloption", values: "content", client: "pg_dump"},
	{setting: "check_function_bodies", client: "pg_dump"},
	{setting: "jit", client: "asyncpg, DBeaver"},

	{statement: `SELECT pg_advisory_unlock_all\(\)`, instead: `SELECT NULL`, client: "asyncpg's pool: it holds no such lock"},
	{statement: `CLOSE ALL`, client: "asyncpg's pool: there are no cursors"},
	{statement: `UNLISTEN \*`, client: "asyncpg's pool: there is no LISTEN"},
	{statement: `SELECT current_setting\('jit'\) AS cur, set_config\('jit', 'off', false\) AS new`, instead: `SELECT 'off' AS cur, 'off' AS new`, client: "asyncpg's look-up of types"},
	{statement: `SELECT pg_backend_pid\(\)`, instead: `SELECT {pid} AS pg_backend_pid`, client: "Beekeeper Studio"},
	{statement: `SELECT pg_backend_pid\(\) AS ("?\w+"?)`, instead: `SELECT {pid} AS $1`, client: "Beekeeper Studio"},
}

type compatRule struct {
	setting   string
	values    string // which may be dropped, in lower case and with blanks between; empty: all
	statement string
	instead   string
	client    string // that needs the rule
}

// unchanged is sent in the place of a statement that is dropped. Its tag is SET; it gives a
// planner's setting, which DSQL has, the value that it has unless somebody changed it.
const unchanged = "SET enable_tidscan TO DEFAULT"

// drops tells whether a value of a setting is dropped.
func drops(setting, value string) bool {
	for _, r := range compatRules {
		if r.setting != "" && strings.EqualFold(r.setting, setting) {
			return r.values == "" || slices.Contains(strings.Fields(r.values), strings.ToLower(value))
		}
	}
	return false
}

// dropSettings returns the settings of a startup message without those that are dropped, and a
// notice for each of these.
func dropSettings(settings map[string]string) (kept map[string]string, notices []pgproto3.NoticeResponse) {
	kept = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		value := settings[name]
		switch {
		case strings.EqualFold(name, "options"):
			var dropped []string
			if value, dropped = dropOptions(value); value != "" {
				kept[name] = value
			}
			for _, d := range dropped {
				notices = append(notices, droppedNotice(d))
			}
		case drops(name, value):
			notices = append(notices, droppedNotice(name))
		default:
			kept[name] = value
		}
	}
	return kept, notices
}

// dropOptions does the same for the parameter "options", which is a command line of "-c
// name=value".
func dropOptions(options string) (kept string, dropped []string) {
	var words []string
	all := splitOptions(options)
	for i := 0; i < len(all); i++ {
		word, size := all[i], 1
		text, isSetting := strings.CutPrefix(word, "--")
		if !isSetting {
			text, isSetting = strings.CutPrefix(word, "-c")
		}
		if word == "-c" && i+1 < len(all) {
			text, size = all[i+1], 2
		}
		name, value, ok := strings.Cut(text, "=")
		name = strings.ReplaceAll(name, "-", "_")
		if isSetting && ok && drops(name, value) {
			dropped = append(dropped, name)
		} else {
			words = append(words, all[i:i+size]...)
		}
		i += size - 1
	}
	for i, w := range words {
		words[i] = optionEscape.Replace(w)
	}
	return strings.Join(words, " "), dropped
}

var optionEscape = strings.NewReplacer(`\`, `\\`, " ", `\ `, "\t", "\\\t", "\n", "\\\n")

// splitOptions splits at white space that has no backslash before it (PostgreSQL docs, "Message
// Formats", options).
func splitOptions(options string) (words []string) {
	var word strings.Builder
	inWord, escaped := false, false
	for _, r := range options {
		switch {
		case escaped:
			word.WriteRune(r)
			escaped = false
		case r == '\\':
			escaped, inWord = true, true
		case strings.ContainsRune(" \t\n\r\v\f", r):
			if inWord {
				words = append(words, word.String())
				word.Reset()
			}
			inWord = false
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words
}

func droppedNotice(what string) pgproto3.NoticeResponse {
	return pgproto3.NoticeResponse{
		Severity: "NOTICE", SeverityUnlocalized: "NOTICE", Code: "01000",
		Message: fmt.Sprintf("dsqlproxy: %s was ignored, since DSQL does not have it", what),
	}
}

// rewriteQuery returns query as the cluster gets it, and what was changed in it.
func rewriteQuery(query string, processID uint32) (rewritten string, changed []string) {
	parts := splitStatements(query)
	for i, part := range parts {
		statement := strings.TrimSpace(part)
		if instead, name := rewriteStatement(statement, processID); instead != "" {
			parts[i] = strings.Replace(part, statement, instead, 1)
			changed = append(changed, name)
		}
	}
	return strings.Join(parts, ";"), changed
}

// rewriteStatement returns what is sent for one statement, and what a notice calls it; nothing
// where it is sent as it is.
func rewriteStatement(statement string, processID uint32) (instead, name string) {
	patterns := compatPatterns()
	if m := patterns.set.FindStringSubmatch(statement); m != nil && drops(m[1], unquote(m[2])) {
		return unchanged, m[1]
	}
	if m := patterns.setConfig.FindStringSubmatch(statement); m != nil && drops(m[1], m[2]) {
		return "SELECT '" + m[2] + "' AS set_config", m[1]
	}
	for i, r := range compatRules {
		if r.statement == "" || !patterns.statements[i].MatchString(statement) {
			continue
		}
		if r.instead == "" {
			return unchanged, statement
		}
		with := strings.Replace(r.instead, "{pid}", fmt.Sprint(processID), 1)
		return patterns.statements[i].ReplaceAllString(statement, with), statement
	}
	return "", ""
}

// unquote reads a value as SET takes it.
func unquote(value string) string { return strings.Trim(value, `'"`) }

type compiledPatterns struct {
	set        *regexp.Regexp
	setConfig  *regexp.Regexp
	statements []*regexp.Regexp // one for each of compatRules
}

// compatPatterns are compiled at the first need.
var compatPatterns = sync.OnceValue(func() compiledPatterns {
	p := compiledPatterns{
		set: regexp.MustCompile(`(?is)^SET\s+(?:SESSION\s+|LOCAL\s+)?"?(\w+)"?\s*(?:=|\s+TO\s+)\s*('[^']*'|"[^"]*"|[\w.-]+)$`),
		// pgAdmin asks for the setting's row, to see whether there is one.
		setConfig: regexp.MustCompile(`(?is)^SELECT\s+(?:pg_catalog\.)?set_config\(\s*'(\w+)'\s*,\s*'([^']*)'\s*,\s*\w+\s*\)(?:\s+FROM\s+(?:pg_catalog\.)?(?:pg_settings|pg_show_all_settings\(\))\s+WHERE\s+name\s*=\s*'\w+')?$`),
	}
	for _, r := range compatRules {
		p.statements = append(p.statements, regexp.MustCompile(`(?is)^`+strings.ReplaceAll(r.statement, " ", `\s+`)+`$`))
	}
	return p
})
