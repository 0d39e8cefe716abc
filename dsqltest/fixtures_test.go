package dsqltest

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"testing"
	"testing/fstest"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
)

func scripts(files ...string) fstest.MapFS {
	fsys := make(fstest.MapFS)
	for i, sql := range files {
		fsys[fmt.Sprintf("%03d.sql", i+1)] = &fstest.MapFile{Data: []byte(sql)}
	}
	return fsys
}

func TestWithSchema(t *testing.T) {
	s := New(t, WithSchema(scripts(
		"create table orders (id int primary key, note text); -- é\n\ninsert into orders values (1, 'a;b');\n",
		"create unique index async orders_note on orders (note);\nbegin; insert into orders values (2); insert into orders values (3); commit",
	), "*.sql"), WithWaking(1))
	require.Empty(t, s.Attempts())
	require.Equal(t, TransactionCounts{}, s.Transactions())

	_, err := pgx.ConnectConfig(t.Context(), connConfig(t, s, adminRole))
	require.ErrorContains(t, err, "waking up")
	conn := connect(t, connConfig(t, s, adminRole))
	require.Equal(t, "3 true", queryString(t, conn, "select count(*) || ' ' || (select indisvalid from pg_index where indexrelid = 'orders_note'::regclass) from orders"))
}

func TestWithSchemaFails(t *testing.T) {
	for name, tt := range map[string]struct {
		files fs.FS
		want  string
	}{
		"nothing":     {scripts(), `dsqltest: WithSchema: no file of the FS matches "*.sql"; patterns do not descend into directories: write one from the FS's root on, such as schema/*.sql`},
		"no root":     {os.DirFS("missing"), "dsqltest: WithSchema: the root of the FS cannot be read: open .: no such file or directory; os.DirFS counts from the working directory, in tests that of the package"},
		"a rule":      {scripts("create table t (id int)", "\n-- é\n\ncreate index on t (id);"), "dsqltest: WithSchema: 002.sql:4: create index on t (id): ERROR: unsupported mode"},
		"two changes": {scripts("begin;\ncreate table t (id int);\ncreate table u (id int);\ncommit"), "001.sql:3: create table u (id int): ERROR: multiple ddl"},
		"PostgreSQL":  {scripts("select 1;\nselect 1/0"), "001.sql:2: select 1/0: ERROR: division by zero"},
		"no end":      {scripts("begin;\ncreate table t (id int);"), "001.sql: it leaves a transaction open"},
		"COPY":        {scripts("create table t (id int);\ncopy t from stdin;"), "001.sql:2: copy t from stdin: ERROR: COPY from stdin failed: there is no data: use INSERT"},
		"a job":       {scripts("create table t (id int);\ninsert into t values (1), (1);\ncreate unique index async on t (id)"), "001.sql:3: create unique index async on t (id): " + duplicateKeys},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := Start(t.Context(), WithSchema(tt.files, "*.sql"))
			if err == nil {
				s.Close()
			}
			require.ErrorContains(t, err, tt.want)
		})
	}
}

func TestSchema(t *testing.T) {
	s := New(t, WithSchema(scripts("create table t (id int); create index async on t (id); insert into t values (1)"), "*.sql"))
	outside := connect(t, connConfig(t, s, adminRole))
	mustExec(t, outside, "select 1")
	before := s.Transactions()
	var names []string
	t.Run("in parallel", func(t *testing.T) {
		configs := []dsql.Config{s.Schema(t), s.Schema(t)}
		require.Equal(t, before, s.Transactions())
		var conns []*pgx.Conn
		for _, c := range configs {
			names = append(names, c.Params["search_path"])
			conn, err := dsql.Connect(t.Context(), c)
			require.NoError(t, err)
			t.Cleanup(func() { conn.Close(context.Background()) })
			conns = append(conns, conn)
			require.Equal(t, "1 "+names[len(names)-1], queryString(t, conn, "select id || ' ' || current_schema from t"))
		}
		mustExec(t, conns[0], "create table u (id int)")
		mustExec(t, conns[0], "insert into t values (2)")
		require.Equal(t, "1", queryString(t, conns[1], "select count(*)::text from t"), "neither rows nor OC001")
		require.Equal(t, "1", queryString(t, outside, "select count(*)::text from t"))

		again, err := dsql.Connect(t.Context(), configs[0])
		require.NoError(t, err)
		defer again.Close(t.Context())
		mustExec(t, again, "table u")
		mustExec(t, conns[0], "alter table u add column n int")
		_, err = again.Exec(t.Context(), "table u")
		failsWith(t, err, schemaConflict)

		app := configs[1]
		app.User = "app"
		mustExec(t, conns[1], "grant select on t to app")
		as, err := dsql.Connect(t.Context(), app)
		require.NoError(t, err)
		defer as.Close(t.Context())
		mustExec(t, as, "table t")
	})
	for _, name := range names {
		require.Equal(t, "false", queryString(t, outside, "select (to_regnamespace('"+name+"') is not null)::text"))
	}
}
