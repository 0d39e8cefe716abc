package dsqltest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
)

// What the catalog refuses, in a schema that has table t (id int primary key, name text) and the
// domains of domains.
var unsupportedSchemas = []struct{ sql, want string }{
	{"create table a (v money)", "0A000: datatype money not supported"},
	{"create table a (id int, v text[])", "0A000: datatype text[] not supported"},
	{"create table a (v varbit(8))", "0A000: datatype bit varying not supported"},
	{"create table a (v bit(3), w money)", "0A000: datatype bit not supported"},
	{"create table a (v xml)", "0A000: datatype xml not supported"},
	{"create table a (v inet)", "0A000: datatype inet not supported"},
	{"create table a (v int8range)", "0A000: datatype int8range not supported"},
	{"create table a (v tsvector)", "0A000: datatype tsvector not supported"},
	{"create table a (v oid)", "0A000: datatype oid not supported"},
	{"create table a (v name)", "0A000: datatype name not supported"},
	{"create table a (v point)", "0A000: datatype point not supported"},
	{"create table a (v pg_catalog.polygon)", "0A000: datatype polygon not supported"},
	{"create table a (v lseg[])", "0A000: datatype lseg[] not supported"},
	{"create table a (v t)", "0A000: datatype public.t not supported"},
	{"alter table t add column v macaddr", "0A000: datatype macaddr not supported"},
	{"create domain d as cidr", "0A000: datatype cidr not supported"},
	{"create table a (v serial)", `42704: type "serial" does not exist`},
	{"create table a (id numeric generated always as identity (cache 1))", "22023: identity column type must be smallint, integer, or bigint"},
	{"create table a (id bigint generated always as identity (cache 5))", "0A000: CACHE 5 is not supported. please define CACHE greater than or equal to 65536 or equal to 1"},
	{"create sequence s cache 100", "0A000: CACHE 100 is not supported. please define CACHE greater than or equal to 65536 or equal to 1"},
	{"create sequence s as integer cache 1", "0A000: datatype integer not supported, sequence type must be bigint"},
	{"create table a (v bytea primary key)", "0A000: datatype bytea is not supported in a key"},
	{"create table a (id int, v interval unique)", "0A000: datatype interval is not supported in a key"},
	{"create table a (v varchar(65536))", "54000: datatype limit greater than 65535 bytes not supported for character varying"},
	{"create table a (v char(4097))", "54000: datatype limit greater than 4096 bytes not supported for character"},
	{"create table a (" + columns(256) + ")", "54011: tables can have at most 255 columns"},
	{"create table a (" + columns(9) + ", primary key (c1, c2, c3, c4, c5, c6, c7, c8, c9))", "54011: more than 8 column keys in an index are not supported"},
	{"alter table t drop constraint t_pkey", "0A000: unsupported ALTER TABLE DROP CONSTRAINT statement"},
	{"create index async on documents (body)", "0A000: datatype jsonb is not supported in a key"},
	{"create index async i.j on t (id)", `42601: syntax error at or near "."`},
	{"create index async on t ((random()))", "42P17: functions in index expression must be marked IMMUTABLE"},
	{"select circle('<(0,0),1>'::text)", "0A000: datatype circle not supported"},
	{"select '(1,2)'::point", "0A000: datatype point not supported"},
	{"select point(1, 2)", "0A000: datatype point not supported"},
	{"select to_tsvector('english', 'a')", `42704: text search configuration "english" does not exist`},
	{"select to_tsquery('simple', 'a')", `42704: text search configuration "simple" does not exist`},
	{"select set_config('work_mem', '1MB', false)", `0A000: setting configuration parameter "work_mem" not supported`},
	{"select set_config(name, '1', true) from (values ('app.tenant')) v (name)", `0A000: setting configuration parameter "app.tenant" not supported`},
	{"select set_config('role', 'app', false)", `0A000: setting configuration parameter "role" not supported`},
	{"select current_setting('lc_collate')", `42704: unrecognized configuration parameter "lc_collate"`},
	{"aws iam grant nobody to 'arn:aws:iam::111122223333:role/app'", `42704: role "nobody" does not exist`},
	{"aws iam revoke app from 'arn:aws:iam::111122223333:role/app'", `42704: role "app" is not granted to "arn:aws:iam::111122223333:role/app"`},
}

func columns(n int) string {
	var names []string
	for i := range n {
		names = append(names, fmt.Sprintf("c%d int", i+1))
	}
	return strings.Join(names, ", ")
}

func TestUnsupportedSchemas(t *testing.T) {
	s := New(t, WithRoles("app"))
	conn := connect(t, connConfig(t, s, adminRole))
	mustExec(t, conn, "create table t (id int primary key, name text)")
	mustExec(t, conn, "create table documents (id int, body jsonb)")
	before := queryString(t, conn, "select count(*)::text from pg_class")
	for _, tt := range unsupportedSchemas {
		for _, mode := range []pgx.QueryExecMode{pgx.QueryExecModeSimpleProtocol, pgx.QueryExecModeCacheStatement} {
			err := runIn(conn, mode, tt.sql)
			failsWith(t, err, tt.want)
			var pgErr *pgconn.PgError
			require.ErrorAs(t, err, &pgErr)
			require.NotContains(t, pgErr.Where, "sys.", tt.sql)
		}
	}
	require.Equal(t, before, queryString(t, conn, "select count(*)::text from pg_class"))
}

// What looks like it and works, at the service as here.
func TestSupportedSchemas(t *testing.T) {
	s := New(t, WithRoles("app"))
	conn := connect(t, connConfig(t, s, adminRole))
	for _, sql := range []string{
		"create domain positive as int check (value > 0)",
		"create domain smaller as positive check (value < 9)",
		"create table a (id bigint generated by default as identity (cache 65536) primary key, v varchar(65535), w char(4096), n numeric(1000, 5)," +
			" d smaller, b bytea, i interval, j json, k jsonb, z timetz, u uuid default gen_random_uuid(), total int generated always as (d * 2) stored)",
		"create table b (id int, a bigint references a on delete cascade, constraint k unique nulls not distinct (id))",
		"alter table b add column note text storage plain",
		"alter table b add constraint positive check (id > 0) not valid",
		"alter table b drop constraint positive",
		"alter table b drop constraint k",
		"alter table b alter note set default 'x'",
		"alter table b drop column note",
		"alter table b rename to c",
		"alter table c enable trigger all",
		"alter table c disable trigger user",
		"create sequence s cache 65536",
		"create view v as select array[id] as ids, '1.2.3.4'::inet as address from c",
		"create function f(int[]) returns int language sql as $$ select $1[1] $$",
		"create schema other",
		"create index async on a ((lower(v)) nulls first) include (b) where v is not null",
		"aws iam grant app to 'arn:aws:iam::111122223333:role/app'",
		"aws iam revoke app from 'arn:aws:iam::111122223333:role/app'",
		"aws iam grant app to 'arn:aws:iam::111122223333:user/app'",
	} {
		mustExec(t, conn, sql)
	}
	require.Equal(t, "arn:aws:iam::111122223333:user/app app admin",
		queryString(t, conn, "select arn || ' ' || pg_role_name || ' ' || grantor_pg_role_name from sys.iam_pg_role_mappings"))
	require.Equal(t, "1", queryString(t, conn, "select (array[1, 2])[1]::text"))
	require.Equal(t, "t", queryString(t, conn, "select ('10.1.1.1'::inet << '10.0.0.0/8')::text")[:1])

	// Nothing of what watches sizes shows.
	require.Equal(t, "0", queryString(t, conn, "select count(*)::text from information_schema.triggers"))
	require.Equal(t, "0", queryString(t, conn, "select count(*)::text from pg_trigger where not tgisinternal"))
}

func TestMoreThan24Indexes(t *testing.T) {
	s := New(t)
	conn := connect(t, connConfig(t, s, adminRole))
	mustExec(t, conn, "create table t (id int primary key, n int)") // the key is an index, too
	for range 23 {
		submit(t, conn, "create index async on t (n)")
	}
	_, err := conn.Exec(t.Context(), "create index async on t (n)")
	failsWith(t, err, "54000: more than 24 indexes per table are not allowed")
}

// Sizes that are within the limits, and just beyond.
func TestSizes(t *testing.T) {
	s := New(t)
	setup := connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int primary key, a text, b bytea, c text)")
	mustExec(t, setup, "create table k (name varchar(64) primary key)")
	mustExec(t, setup, "alter table k add column other text")
	mustExec(t, setup, "create table long (name varchar(2000) unique)")
	mustExec(t, setup, "insert into t values (0)")
	for _, tt := range []struct{ within, beyond, want string }{
		{"insert into t values (1, repeat('é', 524288))", "insert into t values (2, repeat('é', 524288) || 'x')",
			"54000: datatype limit greater than 1048576 bytes not supported for text"},
		{"update t set b = decode(repeat('00', 1048576), 'hex') where id = 0", "update t set b = decode(repeat('00', 1048577), 'hex') where id = 0",
			"54000: datatype limit greater than 1048576 bytes not supported for bytea"},
		{"insert into t values (3, repeat('a', 1000000), null, repeat('a', 1000000))",
			"insert into t values (4, repeat('a', 1048576), '\\x01', repeat('c', 1048576))", "54000: maximum row size exceeded"},
		{"insert into long values (repeat('a', 1024))", "insert into long values (repeat('a', 1025))", "54000: key size too large"},
		{"insert into k values ('a', repeat('a', 1048576))", "insert into k values ('b', repeat('a', 1048577))",
			"54000: datatype limit greater than 1048576 bytes not supported for text"},
	} {
		for _, mode := range modes {
			conn := connectIn(t, s, mode)
			mustExec(t, conn, "begin")
			mustExec(t, conn, tt.within)
			_, err := conn.Exec(t.Context(), tt.beyond)
			failsWith(t, err, tt.want)
			mustExec(t, conn, "rollback")
		}
	}
}

// Tables whose rows are small go unwatched.
func TestWatchedTables(t *testing.T) {
	s := New(t)
	conn := connect(t, connConfig(t, s, adminRole))
	for columns, want := range map[string]string{
		"id int primary key, n bigint, u uuid, at timestamptz": "f",
		"id int, code varchar(50)":                             "f",
		"id int, code varchar(100)":                            "t",
		"id int, note text":                                    "t",
	} {
		mustExec(t, conn, "create table t ("+columns+")")
		require.Equal(t, want, queryString(t, conn, "select relhastriggers::text from pg_class where oid = 't'::regclass")[:1], columns)
		mustExec(t, conn, "drop table t")
	}
}

// A transaction that has written too much learns it when it commits.
func TestTransactionSize(t *testing.T) {
	s := New(t)
	setup := connect(t, connConfig(t, s, adminRole))
	mustExec(t, setup, "create table t (id int, a text)")
	const row = "insert into t select n, repeat('a', 1000000) from generate_series(1, 5) n"
	for _, mode := range modes {
		t.Run(mode.String(), func(t *testing.T) {
			conn := connectIn(t, s, mode)
			mustExec(t, conn, "begin")
			mustExec(t, conn, row)
			mustExec(t, conn, row)
			mustExec(t, conn, "commit")
			mustExec(t, conn, "delete from t")

			mustExec(t, conn, "begin")
			mustExec(t, conn, row)
			mustExec(t, conn, row)
			mustExec(t, conn, "update t set a = a || 'b' where id = 1")
			require.Equal(t, "10", queryString(t, conn, "select count(*)::text from t"))
			_, err := conn.Exec(t.Context(), "commit")
			failsWith(t, err, "54000: transaction size limit 10mb exceeded")
			var pgErr *pgconn.PgError
			require.ErrorAs(t, err, &pgErr)
			require.Equal(t, "Current transaction size 12mb > 10mb", pgErr.Detail)
			require.EqualValues(t, 'I', conn.PgConn().TxStatus())

			_, err = conn.Exec(t.Context(), "insert into t select n, repeat('a', 1000000) from generate_series(1, 11) n")
			failsWith(t, err, "54000: transaction size limit 10mb exceeded")
			require.Equal(t, "0", queryString(t, conn, "select count(*)::text from t"))
		})
	}

	// COPY is no other way.
	conn := connect(t, connConfig(t, s, adminRole))
	rows := make([][]any, 11)
	for i := range rows {
		rows[i] = []any{i, strings.Repeat("a", 1_000_000)}
	}
	_, err := conn.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"id", "a"}, pgx.CopyFromRows(rows))
	failsWith(t, err, "54000: transaction size limit 10mb exceeded")
	_, err = conn.CopyFrom(t.Context(), pgx.Identifier{"t"}, []string{"id", "a"}, pgx.CopyFromRows(rows[:10]))
	require.NoError(t, err)
}

// A query that needs more than the service's space for sorting.
func TestTempSpace(t *testing.T) {
	s := New(t)
	conn := connect(t, connConfig(t, s, adminRole))
	_, err := conn.Exec(t.Context(), "select count(*) from (select repeat('x', 1000) || n as s from generate_series(1, 200000) n order by s) t")
	failsWith(t, err, "54000: query requires more than allowed temp space of 131072 KB to execute")
}

// Whoever asks for the version gets the service's.
func TestVersion(t *testing.T) {
	s := New(t)
	for _, mode := range modes {
		conn := connectIn(t, s, mode)
		for sql, want := range map[string]string{
			"select version()":                                              "PostgreSQL 16",
			"select pg_catalog.version()":                                   "PostgreSQL 16",
			"show server_version":                                           "16.15",
			"show server_version_num":                                       "160015",
			"select current_setting('server_version')":                      "16.15",
			"select pg_catalog.current_setting('Server_Version', true)":     "16.15",
			"select current_setting('server_version_num')::int::text":       "160015",
			"select setting from pg_settings where name = 'server_version'": "16.15",
			"select coalesce(current_setting('lc_collate', true), '-')":     "-",
			"select sys.dsql_major_version()::text":                         "1",
			"show disable_sync_create_index":                                "on",
			"show dsql.enable_batched_nestloop":                             "on",
			"select current_setting('timezone')":                            "UTC",
			"select set_config('search_path', 'public', false)":             "public",
		} {
			require.Equal(t, want, queryString(t, conn, sql), sql)
		}
		mustExec(t, conn, "set disable_sync_create_index = off")
		require.Equal(t, "off", queryString(t, conn, "select current_setting('disable_sync_create_index')"))
		rows, err := conn.Query(t.Context(), "show all")
		require.NoError(t, err)
		settings := map[string]string{}
		for rows.Next() {
			values, err := rows.Values()
			require.NoError(t, err)
			settings[values[0].(string)], _ = values[1].(string)
		}
		require.NoError(t, rows.Err())
		require.Equal(t, "SHOW", rows.CommandTag().String())
		require.Equal(t, "16.15", settings["server_version"])
	}
}
