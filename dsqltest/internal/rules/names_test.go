package rules

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNames(t *testing.T) {
	st := Parse(`UPDATE "My Table" m SET a = 'text' FROM public.Other WHERE m.id = $1 AND a > 12`)[0]
	require.Equal(t, []string{"update", "My Table", "m", "set", "a", "from", "public", "other", "where", "id", "1", "and", "12"}, st.Names())
}

func TestInTemporarySchema(t *testing.T) {
	tables := map[Table]bool{{"public", "t"}: true, {"s 1", "q t"}: true}
	for sql, want := range map[string]string{
		"select * from t":                                    "select * from t",
		"select * from public.t":                             "select * from pg_temp.t",
		"select * from PUBLIC . T":                           "select * from pg_temp . T",
		`update "public"."t" set a = 1 where "public".t.b`:   `update pg_temp."t" set a = 1 where pg_temp.t.b`,
		`insert into "s 1"."q t" values ('public.t')`:        `insert into pg_temp."q t" values ('public.t')`,
		"select public.u, other.t, a.public.t from public.u": "select public.u, other.t, a.public.t from public.u",
		"select public.t.id from public.t -- public.t":       "select pg_temp.t.id from pg_temp.t -- public.t",
		`select * from "PUBLIC".t`:                           `select * from "PUBLIC".t`,
	} {
		require.Equal(t, want, InTemporarySchema(sql, tables), sql)
	}
}

func TestLocks(t *testing.T) {
	for sql, want := range map[string]bool{
		"select 1 from t for update":                           true,
		"select 1 from t where id = 1 FOR KEY SHARE OF t":      true,
		"with a as (select 1 from t for update) select from a": true,
		"update t set a = 1":                                   false,
		"select 'for update'":                                  false,
	} {
		require.Equal(t, want, Parse(sql)[0].Locks, sql)
	}
}
