package rules

import (
	"testing"

	"github.com/stretchr/testify/require"
)

// What the words of a statement are enough to refuse it for.
var refusals = map[string]map[string]string{
	"transactions": {
		"savepoint a":                                        "0A000 unsupported transaction statement: SAVEPOINT",
		"release savepoint a":                                "0A000 unsupported transaction statement: RELEASE",
		"rollback to a":                                      "0A000 unsupported transaction statement: ROLLBACK TO",
		"rollback work to savepoint a":                       "0A000 unsupported transaction statement: ROLLBACK TO",
		"prepare transaction 'x'":                            "0A000 unsupported transaction statement: PREPARE TRANSACTION",
		"commit prepared 'x'":                                "0A000 unsupported transaction statement: COMMIT PREPARED",
		"rollback prepared 'x'":                              "0A000 unsupported transaction statement: ROLLBACK PREPARED",
		"begin isolation level serializable":                 "0A000 Unsupported isolation level: SERIALIZABLE",
		"begin read only, isolation level read committed":    "0A000 Unsupported isolation level: READ COMMITTED",
		"start transaction isolation level read uncommitted": "0A000 Unsupported isolation level: READ UNCOMMITTED",
	},
	"settings": {
		"set transaction read only":                                               `0A000 setting configuration parameter "TRANSACTION" not supported`,
		"set local transaction isolation level repeatable read":                   `0A000 setting configuration parameter "TRANSACTION" not supported`,
		"set transaction isolation level read committed":                          "0A000 Unsupported isolation level: READ COMMITTED",
		"set transaction snapshot 'x'":                                            `0A000 setting configuration parameter "TRANSACTION SNAPSHOT" not supported`,
		"set session characteristics as transaction isolation level serializable": "0A000 Unsupported isolation level: SERIALIZABLE",
		"set default_transaction_isolation = 'serializable'":                      `0A000 setting configuration parameter "default_transaction_isolation" not supported`,
		"set session Statement_Timeout to 1000":                                   `0A000 setting configuration parameter "statement_timeout" not supported`,
		`set "lock_timeout" to 0`:                                                 `0A000 setting configuration parameter "lock_timeout" not supported`,
		"set local work_mem = '1MB'":                                              `0A000 setting configuration parameter "work_mem" not supported`,
		"set app.tenant = '1'":                                                    `0A000 setting configuration parameter "app.tenant" not supported`,
		"set row_security to default":                                             `0A000 setting configuration parameter "row_security" not supported`,
		"set role app":                                                            `0A000 setting configuration parameter "role" not supported`,
		"set session authorization app":                                           `0A000 setting configuration parameter "session_authorization" not supported`,
		"alter role app set work_mem = '1MB'":                                     `0A000 setting configuration parameter "work_mem" not supported`,
		"show lc_collate":                                                         `42704 unrecognized configuration parameter "lc_collate"`,
	},
	"statements": {
		"truncate t":                    "0A000 unsupported statement: Truncate",
		"listen a":                      "0A000 unsupported statement: Listen",
		"notify a":                      "0A000 unsupported statement: Notify",
		"unlisten *":                    "0A000 unsupported statement: Unlisten",
		"lock table t":                  "0A000 unsupported statement: Lock",
		"do 'begin end'":                "0A000 unsupported statement: Do",
		"declare c cursor for select 1": "0A000 unsupported statement: DeclareCursor",
		"fetch all from c":              "0A000 unsupported statement: Fetch",
		"move c":                        "0A000 unsupported statement: Fetch",
		"close all":                     "0A000 unsupported statement: ClosePortal",
		"discard all":                   "0A000 unsupported statement: Discard",
		"prepare p as select 1":         "0A000 unsupported statement: Prepare",
		"execute p":                     "0A000 unsupported statement: Execute",
		"explain (verbose) execute p":   "0A000 unsupported statement: Execute",
		"explain analyze create table t as select": "0A000 unsupported statement: CreateTableAs",
		"vacuum":                   "0A000 unsupported VACUUM statement",
		"vacuum analyze t":         "0A000 unsupported VACUUM statement",
		"analyze":                  "0A000 unsupported ANALYZE statement",
		"analyze t (a)":            "0A000 unsupported ANALYZE statement",
		"load 'x'":                 "0A000 unsupported statement: Load",
		"cluster t":                "0A000 unsupported statement: Cluster",
		"reindex table t":          "0A000 unsupported statement: Reindex",
		"checkpoint":               "0A000 unsupported statement: CheckPoint",
		"reassign owned by a to b": "0A000 unsupported statement: ReassignOwned",
		"merge into t using s on true when matched then delete":                      "0A000 unsupported statement type: MERGE",
		"with a as (select 1) merge into t using a on true when matched then delete": "0A000 unsupported statement type: MERGE",
	},
	"clauses of queries": {
		"select * from t for share":                              "0A000 locking clauses other than FOR UPDATE/FOR KEY SHARE are not supported",
		"select * from (select * from t for no key update) as x": "0A000 locking clauses other than FOR UPDATE/FOR KEY SHARE are not supported",
		"select * from t tablesample system (1)":                 "0A000 TABLESAMPLE clause not supported",
		"select a into b from t":                                 "0A000 unsupported statement: CreateTableAs",
		"with a as (select 1) select * into b from a":            "0A000 unsupported statement: CreateTableAs",
		"select pg_advisory_lock(1)":                             "0A000 function pg_advisory_lock not supported",
		"select pg_catalog.pg_try_advisory_xact_lock (1)":        "0A000 function pg_try_advisory_xact_lock not supported",
		"select pg_notify('a', 'b')":                             "0A000 function pg_notify not supported",
	},
	"objects": {
		"create database d":         "0A000 unsupported statement: Createdb",
		"drop database d":           "0A000 unsupported statement: Dropdb",
		"create extension pgcrypto": "0A000 unsupported statement: CreateExtension",
		"create trigger a after insert on t execute function f()":             "0A000 CREATE TRIGGER not supported",
		"create constraint trigger a after insert on t execute function f()":  "0A000 CREATE TRIGGER not supported",
		"create or replace trigger a after insert on t execute function f()":  "0A000 CREATE TRIGGER not supported",
		"create materialized view v as select 1":                              "0A000 unsupported statement: CreateTableAs",
		"refresh materialized view v":                                         "0A000 unsupported statement: RefreshMatView",
		"create rule r as on insert to t do nothing":                          "0A000 unsupported statement: Rule",
		"create or replace rule r as on insert to t do nothing":               "0A000 unsupported statement: Rule",
		"create policy p on t":                                                "0A000 unsupported statement: CreatePolicy",
		"create foreign table f (a int) server s":                             "0A000 unsupported statement: CreateForeignTable",
		"create server s foreign data wrapper w":                              "0A000 unsupported statement: CreateForeignServer",
		"create aggregate a (int) (sfunc = f)":                                "0A000 unsupported statement: Define",
		"create text search configuration c (copy = simple)":                  "0A000 unsupported statement: Define",
		"create publication p":                                                "0A000 unsupported statement: CreatePublication",
		"create type mood as enum ('sad')":                                    "0A000 CREATE TYPE not supported",
		"create type r as range (subtype = int4)":                             "0A000 unsupported statement: CreateRange",
		"create type public.c as (a int)":                                     "0A000 unsupported statement: CompositeType",
		"create function f() returns int language plpgsql as ''":              "0A000 CREATE FUNCTION with language plpgsql not supported",
		"create or replace function f() returns int as '' language 'PLpgSQL'": "0A000 CREATE FUNCTION with language plpgsql not supported",
		"create procedure p() language sql as ''":                             "0A000 CREATE PROCEDURE not supported",
		"create temp view v as select 1":                                      "0A000 TEMPORARY view not supported for CREATE VIEW",
		"drop type if exists mood":                                            "0A000 unsupported object in DROP statement",
		"drop materialized view v":                                            "0A000 unsupported object in DROP statement",
		"drop extension x":                                                    "0A000 unsupported object in DROP statement",
		"drop index concurrently i":                                           "0A000 DROP INDEX CONCURRENTLY must be first action in transaction",
		"alter type mood rename to m":                                         "0A000 unsupported object in RENAME statement",
		"alter type mood add value 'ok'":                                      "0A000 unsupported statement: AlterEnum",
		"alter trigger a on t rename to b":                                    "0A000 unsupported object in RENAME statement",
		"alter system set x = 1":                                              "0A000 unsupported statement: AlterSystem",
		"alter domain d add check (value > 0)":                                "0A000 unsupported ALTER DOMAIN ADD CONSTRAINT statement",
		"alter domain d set not null":                                         "0A000 unsupported ALTER DOMAIN SET NOT NULL statement",
		"alter index i set (fillfactor = 50)":                                 "0A000 unsupported ALTER INDEX statement",
		"create sequence s":                                                   "0A000 CREATE SEQUENCE is not supported without an explicit cache size. please define CACHE greater than or equal to 65536 or equal to 1",
		"create temp sequence s cache 1":                                      "0A000 TEMPORARY sequence not supported for CREATE SEQUENCE",
	},
	"tables": {
		"create table a as select 1 as x":                                            "0A000 unsupported statement: CreateTableAs",
		"create temp table a (x) as select 1":                                        "0A000 unsupported statement: CreateTableAs",
		"create unlogged table a (id int)":                                           "0A000 UNLOGGED table not supported for CREATE TABLE",
		"create temp table a (id int)":                                               "0A000 TEMPORARY table not supported for CREATE TABLE",
		"create local temporary table a (id int)":                                    "0A000 TEMPORARY table not supported for CREATE TABLE",
		"create table a (id int) partition by range (id)":                            "0A000 PARTITION BY clause not supported for CREATE TABLE",
		"create table a partition of b default":                                      "0A000 PARTITION OF clause not supported for CREATE TABLE",
		"create table a of b":                                                        "0A000 OF clause not supported for CREATE TABLE",
		"create table if not exists x.a (id int) inherits (b)":                       "0A000 INHERITS clause not supported for CREATE TABLE",
		"create table a (id int) with (fillfactor = 50)":                             "0A000 WITH clause not supported for CREATE TABLE",
		"create table a (id int) on commit drop":                                     "0A000 ON COMMIT clause not supported for CREATE TABLE",
		"create table a (id int) tablespace b":                                       "0A000 TABLESPACE clause not supported for CREATE TABLE",
		"create table a (id serial primary key)":                                     `42704 type "serial" does not exist`,
		"create table a (b int, id BigSerial)":                                       `42704 type "bigserial" does not exist`,
		"create table a (b text collate \"C\")":                                      "0A000 COLLATE clause not supported",
		"create table a (b text compression lz4)":                                    "0A000 COMPRESSION clause not supported",
		"create table a (exclude using gist (b with &&))":                            "0A000 EXCLUDE constraint not supported",
		"create table a (id bigint generated always as identity)":                    "0A000 identity column is not supported without an explicit cache size. please define CACHE greater than or equal to 65536 or equal to 1",
		"create table a (id bigint generated by default as identity (start with 5))": "0A000 identity column is not supported without an explicit cache size. please define CACHE greater than or equal to 65536 or equal to 1",
		"create table a (id int generated always as identity (cache 1))":             "0A000 datatype integer not supported, identity column type must be bigint",
		"create table a (id int2 generated by default as identity)":                  "0A000 datatype smallint not supported, identity column type must be bigint",
	},
	"ALTER TABLE": {
		"alter table t add column a int default 1":                          "0A000 ALTER TABLE ADD COLUMN with constraint not supported",
		"alter table t add a int not null":                                  "0A000 ALTER TABLE ADD COLUMN with constraint not supported",
		"alter table t add column if not exists a int unique":               "0A000 ALTER TABLE ADD COLUMN with constraint not supported",
		"alter table t add a int, add b int references u":                   "0A000 ALTER TABLE ADD COLUMN with constraint not supported",
		"alter table t add a bigint generated always as identity (cache 1)": "0A000 ALTER TABLE ADD COLUMN with constraint not supported",
		"alter table t add column a serial":                                 `42704 type "serial" does not exist`,
		"alter table t add primary key (id)":                                "0A000 unsupported ALTER TABLE ADD CONSTRAINT statement",
		"alter table t add constraint c unique (id)":                        "0A000 unsupported ALTER TABLE ADD CONSTRAINT statement",
		"alter table t add constraint c check (a > 0)":                      "0A000 unsupported ALTER TABLE ADD CONSTRAINT statement",
		"alter table t add foreign key (a) references u (b)":                "0A000 unsupported ALTER TABLE ADD CONSTRAINT statement",
		"alter table t add constraint c primary key using index i":          "0A000 unsupported ALTER TABLE ADD CONSTRAINT statement",
		"alter table if exists only t alter column a type text":             "0A000 unsupported ALTER TABLE ALTER COLUMN ... SET DATA TYPE statement",
		"alter table t alter a set data type text":                          "0A000 unsupported ALTER TABLE ALTER COLUMN ... SET DATA TYPE statement",
		"alter table t alter a set not null":                                "0A000 unsupported ALTER TABLE ALTER COLUMN ... SET NOT NULL statement",
		"alter table t alter a set statistics 1":                            "0A000 unsupported ALTER TABLE ALTER COLUMN ... SET STATISTICS statement",
		"alter table t alter a set compression lz4":                         "0A000 unsupported ALTER TABLE ALTER COLUMN ... SET COMPRESSION statement",
		"alter table t alter a set (n_distinct = 5)":                        "0A000 unsupported ALTER TABLE ALTER COLUMN ... SET statement",
		"alter table t enable row level security":                           "0A000 unsupported ALTER TABLE ENABLE ROW SECURITY statement",
		"alter table t no force row level security":                         "0A000 unsupported ALTER TABLE NO FORCE ROW SECURITY statement",
		"alter table t replica identity full":                               "0A000 unsupported ALTER TABLE REPLICA IDENTITY statement",
		"alter table t disable rule r":                                      "0A000 unsupported ALTER TABLE DISABLE RULE statement",
		"alter table t set tablespace a":                                    "0A000 unsupported ALTER TABLE SET TABLESPACE statement",
		"alter table t set (fillfactor = 50)":                               "0A000 unsupported ALTER TABLE SET statement",
		"alter table t set unlogged":                                        "0A000 unsupported ALTER TABLE SET UNLOGGED statement",
		"alter table t inherit u":                                           "0A000 unsupported ALTER TABLE INHERIT statement",
		"alter table t attach partition p default":                          "0A000 unsupported ALTER TABLE ATTACH PARTITION statement",
		"alter table t validate constraint c":                               "0A000 unsupported ALTER TABLE VALIDATE CONSTRAINT statement",
		"alter table t alter a add generated always as identity":            "0A000 identity column is not supported without an explicit cache size. please define CACHE greater than or equal to 65536 or equal to 1",
		"alter table async t add constraint c check (true)":                 `42601 syntax error at or near "async"`,
	},
	"indexes": {
		"create index on t (a)":                               "0A000 unsupported mode. please use CREATE INDEX ASYNC.",
		"create unique index if not exists i on t (a)":        "0A000 unsupported mode. please use CREATE INDEX ASYNC.",
		"create index concurrently i on t (a)":                "0A000 CONCURRENTLY not supported for CREATE INDEX",
		"create index i on t using btree (a)":                 "0A000 USING not supported for CREATE INDEX",
		"create index async i on t using gin (a)":             "0A000 USING not supported for CREATE INDEX",
		"create index async i on t (a desc)":                  "0A000 specifying sort order not supported for index keys",
		"create index async i on t (a, (b + 1) asc)":          "0A000 specifying sort order not supported for index keys",
		"create index async i on t (a collate \"C\")":         "0A000 specifying collation not supported for index keys",
		"create index async i on t (a) with (fillfactor = 1)": "0A000 WITH not supported for CREATE INDEX",
		"create index async i on t (a) tablespace b":          "0A000 TABLESPACE not supported for CREATE INDEX",
	},
}

func TestRefusals(t *testing.T) {
	for group, statements := range refusals {
		t.Run(group, func(t *testing.T) {
			for sql, want := range statements {
				parsed := Parse(sql)
				require.Len(t, parsed, 1, sql)
				refusal := parsed[0].Refusal
				require.NotNil(t, refusal, sql)
				require.Equal(t, want, refusal.Code+" "+refusal.Message, sql)
				require.Empty(t, parsed[0].Rewritten)
			}
		})
	}
}

// Words of a refusal where they mean something else, and what the service accepts.
func TestNoRefusal(t *testing.T) {
	for _, sql := range []string{
		`select "share", "tablesample" from t where lock = 1`,
		"select 'for share', $$tablesample$$",
		"select share from t for update",
		"select a as into_b from t for key share",
		"insert into t select * from u",
		"with a as (insert into t values (1) returning *) select * from a",
		"set search_path to a, b",
		"set local role app",
		"set enable_seqscan = off",
		"set dsql.enable_batched_nestloop = off",
		"set time zone 'UTC'",
		"set names 'utf8'",
		"set constraints all deferred",
		"set session characteristics as transaction read only",
		"set session authorization default",
		"reset all",
		"deallocate all",
		"show search_path",
		"show time zone",
		"explain (analyze, verbose) select 1",
		"analyze public.t",
		"alter role app with login",
		"alter role app reset search_path",
		"create table a (id int, partition int, serial text, \"serial\" int, exclude int, check (id > 0), constraint k unique (partition), like b)",
		"create table a (id bigint generated always as identity (start 5 cache 65536) primary key, total int generated always as (1 + 2) stored)",
		"create table if not exists s.a (b text default ('x' collate \"C\"), foreign key (b) references c on delete cascade)",
		"create table \"temp\" (\"collate\" serial_number)",
		"create sequence if not exists s as bigint start 5 cache 1 increment by 2",
		"create domain d as text check (value <> '')",
		"create or replace view v as select 1",
		"create function f() returns int language sql as $$ select 1 $$",
		"create function f() returns int return 1",
		"create index async on t ((lower(a)) nulls first, b) include (c) nulls not distinct where d is not null",
		"create unique index async if not exists i on only s.t (a)",
		"create statistics s on a, b from t",
		"alter table t add column a text",
		"alter table t add if not exists a numeric(4, 2), add column b text[]",
		"alter table t drop column a cascade, alter b set default 1, alter column c drop not null",
		"alter table t alter a drop default, alter b drop identity if exists, alter c drop expression",
		"alter table t alter a set generated always set increment by 2 restart with 5",
		"alter table t alter a add generated by default as identity (cache 1)",
		"alter table t alter a set storage external",
		"alter table t alter constraint c deferrable initially deferred",
		"alter table t add constraint c check (a > 0) not valid",
		"alter table t add foreign key (a) references u not valid",
		"alter table t add constraint c unique using index i",
		"alter table t drop constraint c",
		"alter table t rename column a to b",
		"alter table t owner to app",
		"alter table t enable trigger user",
		"alter table async add column a int",
		"alter table async t validate constraint c",
		"alter domain d rename to e",
		"alter domain d drop not null",
		"alter sequence s restart",
		"alter view v rename to w",
		"alter index i rename to j",
		"drop trigger if exists a on t",
		"drop domain d",
		"drop function f()",
		"comment on column t.a is 'x'",
		"aws iam grant app to 'arn:aws:iam::111122223333:role/app'",
	} {
		for _, st := range Parse(sql) {
			require.Nil(t, st.Refusal, sql)
		}
	}
}

func TestRewritten(t *testing.T) {
	for sql, want := range map[string]struct{ rewritten, tag string }{
		"create unique index async i on t (a)": {
			"SELECT sys.create_index_async('create unique index       i on t (a)', 'create        index       i on t (a)') AS job_id", "CREATE INDEX"},
		"alter table async t validate constraint c": {
			"SELECT sys.validate_constraint_async('alter table       t validate constraint c') AS job_id", "ALTER TABLE"},
		`AWS IAM GRANT "App" TO 'arn:x'`:              {"CALL sys.iam_grant('App', 'arn:x')", "AWS IAM GRANT"},
		"aws iam revoke app from 'arn'":               {"CALL sys.iam_revoke('app', 'arn')", "AWS IAM REVOKE"},
		"show server_version":                         {"SELECT '16.15' AS server_version", "SHOW"},
		"SHOW Server_Version_Num":                     {"SELECT '160015' AS server_version_num", "SHOW"},
		"show disable_sync_create_index":              {"SELECT pg_catalog.current_setting('disable_sync_create_index') AS disable_sync_create_index", "SHOW"},
		"set disable_sync_create_index = off":         {"set dsql.disable_sync_create_index = off", ""},
		"analyze public.t":                            {"CALL sys.analyze('public.t')", "ANALYZE"},
		"alter table t add a text storage plain":      {"alter table t add a text              ", ""},
		"create table t (a text storage main, b int)": {"create table t (a text             , b int)", ""},
		"create table storage (storage text)":         {"", ""},
		"alter table t add a text":                    {"", ""},
		"alter table t alter a set storage default":   {"alter table t alter a set storage EXTENDED", ""},
		"alter table t enable trigger all":            {"alter table t enable trigger USER", ""},
		"show search_path":                            {"", ""},
	} {
		st := Parse("select 1; " + sql)[1]
		require.Nil(t, st.Refusal, sql)
		require.Equal(t, want.rewritten, st.Rewritten, sql)
		require.Equal(t, want.tag, st.Tag, sql)
	}
}

func TestTranslateError(t *testing.T) {
	for _, tt := range []struct{ code, message, where, want string }{
		{"42704", `type "circle" does not exist`, "", "0A000 datatype circle not supported"},
		{"42704", `type "pg_catalog.point" does not exist`, "", "0A000 datatype point not supported"},
		{"42704", `type "path[]" does not exist`, "", "0A000 datatype path[] not supported"},
		{"42883", "function box(point, point) does not exist", "", "0A000 datatype box not supported"},
		{"42704", `type "pathology" does not exist`, "", ""},
		{"42704", `role "point" does not exist`, "", ""},
		{"53400", "temporary file size exceeds temp_file_limit (131072kB)", "", "54000 query requires more than allowed temp space of 131072 KB to execute"},
		{"0A000", "datatype money not supported", "PL/pgSQL function sys.refuse(text,text) line 3 at RAISE", "0A000 datatype money not supported"},
		{"22012", "division by zero", "SQL function \"f\" statement 1", ""},
	} {
		e := NewError(tt.code, tt.message)
		e.Where = tt.where
		translated := TranslateError(e)
		require.Equal(t, tt.want != "", translated, tt.message)
		if translated {
			require.Equal(t, tt.want, e.Code+" "+e.Message)
			require.Empty(t, e.Where)
		}
	}
}
