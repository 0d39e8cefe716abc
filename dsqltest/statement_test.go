package dsqltest

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParseStatements(t *testing.T) {
	for name, tt := range map[string]struct {
		sql  string
		want []string
	}{
		"nothing":              {"", nil},
		"blank":                {" \t\r\n;; ; -- ;\n /* ; */", nil},
		"one":                  {" select 1 ", []string{"select 1"}},
		"two":                  {"select 1;select 2;", []string{"select 1", "select 2"}},
		"literal":              {"select ';', 'it''s;'; b", []string{"select ';', 'it''s;'", "b"}},
		"backslash is plain":   {`select '\'; b`, []string{`select '\'`, "b"}},
		"escapes":              {`select E'\';', e'\\'; b`, []string{`select E'\';', e'\\'`, "b"}},
		"escapes, doubled":     {`select E'a'';\';'; b`, []string{`select E'a'';\';'`, "b"}},
		"escapes on two lines": {"select E'a'\n '\\';'; b", []string{"select E'a'\n '\\';'", "b"}},
		"identifier":           {`select "a;""b;"; b`, []string{`select "a;""b;"`, "b"}},
		"dollar":               {"select $$;$$, $a$;$$;$b$;$a$; b", []string{"select $$;$$, $a$;$$;$b$;$a$", "b"}},
		"dollar in a name":     {"select a$b$; select c$b$", []string{"select a$b$", "select c$b$"}},
		"parameter":            {"select $1; select $2", []string{"select $1", "select $2"}},
		"nested comment":       {"select /* /* ; */ ; */ 1; b", []string{"select /* /* ; */ ; */ 1", "b"}},
		"line comment":         {"select 1 -- ; no\r, 2; b", []string{"select 1 -- ; no\r, 2", "b"}},
		"comment first":        {"/* a */ select 1", []string{"select 1"}},
		"comment without end":  {"select 1; /* b", []string{"select 1", "/* b"}},
		"literal without end":  {"select 1; select 'b;", []string{"select 1", "select 'b;"}},
		"parentheses":          {"create rule r as on insert to t do (select 1; select 2); b", []string{"create rule r as on insert to t do (select 1; select 2)", "b"}},
		"too many closed":      {"select 1); b", []string{"select 1)", "b"}},
		"function body": {"create function f() returns int begin atomic select 1; select case when true then 2 end; end; b",
			[]string{"create function f() returns int begin atomic select 1; select case when true then 2 end; end", "b"}},
		"no function body": {"begin; select 1; end; b", []string{"begin", "select 1", "end", "b"}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, st := range parse(tt.sql) {
				got = append(got, st.sql)
			}
			require.Equal(t, tt.want, got)
		})
	}

	statements := parse("select 'é';  selec 2; x")
	require.Equal(t, []int{0, 13, 22}, []int{statements[0].start, statements[1].start, statements[2].start})
}

func TestClassify(t *testing.T) {
	for sql, want := range map[string]kind{
		"select 1":   reads,
		"(select 1)": reads,
		`"begin"`:    reads,
		"vacuum":     reads,
		"BEGIN":      begins,
		"begin isolation level repeatable read, read only": begins,
		"start transaction read write":                     begins,
		"Commit":                                           commits,
		"end transaction":                                  commits,
		"commit prepared 'x'":                              reads,
		"rollback":                                         rollsBack,
		"abort work":                                       rollsBack,
		"set search_path to a":                             settles,
		"show all":                                         settles,
		"discard all":                                      settles,
		"insert into t values (1)":                         writes,
		"/* c */ UPDATE t set a = 1":                       writes,
		"delete from t":                                    writes,
		"merge into t using s on true when matched then delete": writes,
		"with a as (delete from t returning *) select * from a": writes,
		"with a as (select 1) insert into t select * from a":    writes,
		"with a as (select 1) select * from t for update":       reads,
		"select * from t for no key update":                     reads,
		"copy t from stdin":                                     writes,
		"copy t (a, b) from stdin":                              writes,
		"copy t to stdout":                                      reads,
		"copy (select * from t) to stdout":                      reads,
		"create table t (id int)":                               defines,
		"create unique index async on t (id)":                   defines,
		"call sys.wait_for_job('x')":                            waits,
		"CALL sys . wait_for_job($1)":                           waits,
		"call wait_for_job('x')":                                reads,
		"alter table t add column b int":                        defines,
		"drop table t":                                          defines,
		"grant select on t to app":                              defines,
		"revoke select on t from app":                           defines,
		"comment on table t is 'x'":                             defines,
		"prepare p as insert into t values ($1)":                prepares,
		"execute p (1)":                                         executes,
	} {
		got := parse(sql)
		require.Len(t, got, 1, sql)
		require.Equal(t, want, got[0].kind, sql)
		require.Empty(t, got[0].refusal, sql)
	}

	for sql, want := range map[string]string{
		"savepoint a":                                           "unsupported transaction statement: SAVEPOINT",
		"release savepoint a":                                   "unsupported transaction statement: RELEASE",
		"rollback to a":                                         "unsupported transaction statement: ROLLBACK TO",
		"rollback work to savepoint a":                          "unsupported transaction statement: ROLLBACK TO",
		"begin isolation level serializable":                    "Unsupported isolation level: SERIALIZABLE",
		"begin read only, isolation level read committed":       "Unsupported isolation level: READ COMMITTED",
		"start transaction isolation level read uncommitted":    "Unsupported isolation level: READ UNCOMMITTED",
		"set transaction read only":                             "unsupported statement: SET TRANSACTION",
		"set local transaction isolation level repeatable read": "unsupported statement: SET TRANSACTION",
		"set session characteristics as transaction read only":  "unsupported statement: SET SESSION CHARACTERISTICS",
		"set default_transaction_isolation = 'serializable'":    `setting configuration parameter "default_transaction_isolation" not supported`,
		"set session Client_Min_Messages to warning":            `setting configuration parameter "client_min_messages" not supported`,
		`set "lock_timeout" to 0`:                               `setting configuration parameter "lock_timeout" not supported`,
		"select pg_advisory_lock(1)":                            "unsupported function: advisory locks",
		"select pg_catalog.pg_try_advisory_xact_lock(1)":        "unsupported function: advisory locks",
		"listen a":                     "unsupported statement: LISTEN",
		"notify a":                     "unsupported statement: NOTIFY",
		"unlisten *":                   "unsupported statement: UNLISTEN",
		"truncate t":                   "unsupported statement: TRUNCATE",
		"create database d":            "unsupported statement: CREATE DATABASE",
		"create temp table t (id int)": "unsupported statement: CREATE TEMPORARY",
		"create local temporary view v as select 1": "unsupported statement: CREATE TEMPORARY",
	} {
		got := parse(sql)
		require.Len(t, got, 1, sql)
		require.Equal(t, want, got[0].refusal, sql)
	}

	require.True(t, parse("commit and chain")[0].chain)
	require.False(t, parse("commit and no chain")[0].chain)
	prepared := parse("prepare p (int) as insert into t values ($1)")[0]
	require.Equal(t, "p", prepared.name)
	require.Equal(t, writes, prepared.body.kind)
}

// Splitting loses nothing but what stands between statements, and a statement
// that was split off does not split again.
func FuzzParseStatements(f *testing.F) {
	for _, seed := range []string{
		"select 1; select 2", "select E'\\'';', $a$;$a$, \"b;\" -- ;\n; /* /* */ ; */ begin;", "create function f() begin atomic select 1; end; x",
		"with a as (insert into t values (1)) select 1; copy t (a) from stdin; prepare p as begin; $1$2$ E'a'\n'b'",
		"é;ü\xff;", "set transaction isolation level", "(;);", "'", "$$", "/*", "\"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		end := 0
		for _, st := range parse(sql) {
			start := bytesOf(sql, st.start)
			require.True(t, start >= end && strings.HasPrefix(sql[start:], st.sql) && st.sql != "")
			require.Empty(t, parse(sql[end:start]))
			end = start + len(st.sql)

			again := parse(st.sql)
			require.Len(t, again, 1)
			again[0].start = st.start
			require.Equal(t, st, again[0])
		}
		require.Empty(t, parse(sql[end:]))
	})
}

// bytesOf is the length in bytes of the first characters of s.
func bytesOf(s string, characters int) int {
	for i := range s {
		if characters == 0 {
			return i
		}
		characters--
	}
	return len(s)
}
