package rules

import (
	"regexp"
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
			for _, st := range Parse(tt.sql) {
				got = append(got, st.SQL)
			}
			require.Equal(t, tt.want, got)
		})
	}

	statements := Parse("select 'é';  selec 2; x")
	require.Equal(t, []int{0, 13, 22}, []int{statements[0].Start, statements[1].Start, statements[2].Start})
}

func TestClassify(t *testing.T) {
	for sql, want := range map[string]Kind{
		"select 1":          Read,
		"(select 1)":        Read,
		`"begin"`:           Read,
		"BEGIN":             Begin,
		"Commit":            Commit,
		"end transaction":   Commit,
		"rollback":          Rollback,
		"abort work":        Rollback,
		"show all":          Set,
		"deallocate all":    Set,
		"reset search_path": Set,
		"begin isolation level repeatable read, read only":      Begin,
		"start transaction read write":                          Begin,
		"set search_path to a":                                  Set,
		"insert into t values (1)":                              Write,
		"/* c */ UPDATE t set a = 1":                            Write,
		"delete from t":                                         Write,
		"with a as (delete from t returning *) select * from a": Write,
		"with a as (select 1) insert into t select * from a":    Write,
		"with a as (select 1) select * from t for update":       Read,
		"select * from t for key share":                         Read,
		"copy t from stdin":                                     Write,
		"copy t (a, b) from stdin":                              Write,
		"copy t to stdout":                                      Read,
		"copy (select * from t) to stdout":                      Read,
		"create table t (id int)":                               DDL,
		"create unique index async on t (id)":                   DDL,
		"alter table async t validate constraint c":             DDL,
		"aws iam grant app to 'arn:aws:iam::1:role/app'":        DDL,
		"call sys.wait_for_job('x')":                            WaitForJob,
		"CALL sys . wait_for_job($1)":                           WaitForJob,
		"call wait_for_job('x')":                                Read,
		"alter table t add column b int":                        DDL,
		"drop table t":                                          DDL,
		"grant select on t to app":                              DDL,
		"revoke select on t from app":                           DDL,
		"comment on table t is 'x'":                             DDL,
	} {
		got := Parse(sql)
		require.Len(t, got, 1, sql)
		require.Equal(t, want, got[0].Kind, sql)
		require.Nil(t, got[0].Refusal, sql)
	}
	require.True(t, Parse("commit and chain")[0].Chain)
	require.False(t, Parse("commit and no chain")[0].Chain)
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
		for _, st := range Parse(sql) {
			start := bytesOf(sql, st.Start)
			require.True(t, start >= end && strings.HasPrefix(sql[start:], st.SQL) && st.SQL != "")
			require.Empty(t, Parse(sql[end:start]))
			end = start + len(st.SQL)

			again := Parse(st.SQL)
			require.Len(t, again, 1)
			again[0].Start = st.Start
			require.Equal(t, st, again[0])
		}
		require.Empty(t, Parse(sql[end:]))
	})
}

var submission = regexp.MustCompile(`(?s)^SELECT sys\.(?:create_index_async|validate_constraint_async)\(('((?:[^']|'')*)'(, '((?:[^']|'')*)')?)\) AS job_id$`)

// FuzzAsync: what PostgreSQL gets for a statement with ASYNC is the statement with blanks in place of
// that word.
func FuzzAsync(f *testing.F) {
	for _, seed := range []string{
		"create index async on t (a)", "CREATE UNIQUE INDEX ASYNC IF NOT EXISTS \"it's\" ON t ((a || 'x''y'))", "create index async",
		"create /* async */ index concurrently on t (a)", "create table async (index int)", "create index i on async (a)", "select 1; create index async on t(a);",
		"alter table async t validate constraint c", "alter table async add column a int",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, sql string) {
		for _, st := range Parse(sql) {
			if !st.SubmitsJob {
				continue
			}
			parts := submission.FindStringSubmatch(st.Rewritten)
			require.NotNil(t, parts, st.Rewritten)
			sent := strings.ReplaceAll(parts[2], "''", "'")
			require.Len(t, sent, len(st.SQL))
			i := 0
			for sent[i] == st.SQL[i] {
				i++
			}
			require.True(t, strings.EqualFold("async", st.SQL[i:i+5]), st.SQL)
			require.Equal(t, "     ", sent[i:i+5])
			require.Equal(t, st.SQL[i+5:], sent[i+5:])
		}
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
