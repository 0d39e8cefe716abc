package dsqlproxy

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestRewriteQuery(t *testing.T) {
	for query, want := range map[string]string{
		// asyncpg's pool, when a connection is released.
		"SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;":           "SELECT NULL;\n" + unchanged + ";\n" + unchanged + ";\nRESET ALL;",
		"SELECT current_setting('jit') AS cur,\n  set_config('jit', 'off', false) AS new": "SELECT 'off' AS cur, 'off' AS new",
		// pgAdmin, when a connection begins.
		"SET DateStyle=ISO; SET client_min_messages=notice; SELECT set_config('bytea_output','hex',false) FROM pg_show_all_settings() WHERE name = 'bytea_output'; SET client_encoding='utf-8';": "SET DateStyle=ISO; " +
			unchanged + "; SELECT 'hex' AS set_config; SET client_encoding='utf-8';",
		"SET SESSION client_min_messages TO 'warning'":    unchanged,
		"set local client_min_messages = error":           unchanged,
		"SET default_transaction_read_only = off":         unchanged,
		"SET statement_timeout = 0;":                      unchanged + ";",
		"SELECT pg_catalog.set_config('jit', 'on', true)": "SELECT 'on' AS set_config",
		"SELECT pg_backend_pid()":                         "SELECT 42 AS pg_backend_pid",
		"select pg_backend_pid() as pid":                  "SELECT 42 AS pid",
	} {
		t.Run(query, func(t *testing.T) {
			got, changed := rewriteQuery(query, 42)
			require.Equal(t, want, got)
			require.NotEmpty(t, changed)
		})
	}
}

// What would lie about safety, and everything else, goes to the cluster as it is.
func TestRewriteLeaves(t *testing.T) {
	for _, query := range []string{
		"", ";", "select 1", "SET statement_timeout = 1000", "SET statement_timeout TO '30s'", "SET lock_timeout = 5",
		"SET idle_in_transaction_session_timeout = '1min'", "SET default_transaction_read_only = on",
		"SET default_transaction_isolation = 'serializable'", "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE",
		"SET TRANSACTION ISOLATION LEVEL SERIALIZABLE", "SELECT pg_advisory_lock(1)", "SELECT pg_try_advisory_xact_lock(1)",
		"LISTEN jobs", "UNLISTEN jobs", "SET bytea_output = 'escape'", "SET timezone = 'UTC'", "SET work_mem = '1GB'",
		"SELECT set_config('statement_timeout', '1000', false)", "SELECT set_config($1, $2, false)",
		"insert into notes values ('SET statement_timeout = 0; CLOSE ALL')", "select $$;CLOSE ALL;$$", "/* ;CLOSE ALL; */ select 1", "-- ;CLOSE ALL;\nselect 1",
		`select E'\';CLOSE ALL;'`, `select ";CLOSE ALL;"`, "select 'it''s;CLOSE ALL;'", "select $a$;$$;CLOSE ALL;$a$", "/* /* */ ;CLOSE ALL; */ select 1",
	} {
		t.Run(query, func(t *testing.T) {
			got, changed := rewriteQuery(query, 42)
			require.Equal(t, query, got)
			require.Empty(t, changed)
		})
	}
}

// Every rule is for a client, and is used: a setting's by SET, a statement's by itself.
func TestCompatRules(t *testing.T) {
	for _, r := range compatRules {
		require.NotEmpty(t, r.client)
		require.NotEqual(t, r.setting == "", r.statement == "", "%+v", r)
		if r.setting != "" {
			value := "x"
			if r.values != "" {
				value = strings.Fields(r.values)[0]
			}
			got, _ := rewriteQuery("SET "+r.setting+" = "+value, 42)
			require.Equal(t, unchanged, got)
		}
	}
}

func TestDropSettings(t *testing.T) {
	kept, notices := dropSettings(map[string]string{
		"application_name": "psql", "Client_Min_Messages": "warning", "statement_timeout": "5000",
		"options": `-c jit=off -csearch_path=a\ b --client-min-messages=error -c lock_timeout=0`,
	})
	require.Equal(t, map[string]string{"application_name": "psql", "statement_timeout": "5000", "options": `-csearch_path=a\ b`}, kept)
	var said []string
	for _, n := range notices {
		require.Equal(t, "NOTICE", n.Severity)
		said = append(said, n.Message)
	}
	require.Len(t, said, 4)
	require.Contains(t, strings.Join(said, "\n"), "Client_Min_Messages")
	require.Contains(t, strings.Join(said, "\n"), "jit")

	kept, notices = dropSettings(map[string]string{"options": "-c jit=off"})
	require.Empty(t, kept)
	require.Len(t, notices, 1)
}

// edited feeds stream to an editor in pieces.
func edited(stream []byte, size func() int) (out []byte, notices int) {
	e := &editor{processID: 42}
	for len(stream) > 0 {
		piece := stream[:min(size(), len(stream))]
		stream = stream[len(piece):]
		b, n := e.edit(piece)
		out, notices = append(out, b...), notices+len(n)
	}
	return out, notices
}

func TestEditor(t *testing.T) {
	long := message('Q', strings.Repeat("x", maxRewritten)+"; CLOSE ALL\x00")
	stream := bytes.Join([][]byte{
		message('Q', "CLOSE ALL\x00"), message('P', "s1\x00SET jit = off\x00\x00\x00"), message('B', "SET jit = off\x00"), message('S', ""), message('Q', "select 1\x00"), long,
	}, nil)
	want := bytes.Join([][]byte{
		message('Q', unchanged+"\x00"), message('P', "s1\x00"+unchanged+"\x00\x00\x00"), message('B', "SET jit = off\x00"), message('S', ""), message('Q', "select 1\x00"), long,
	}, nil)
	for _, size := range []int{1, 2, 3, 5, 7, 100, len(stream)} {
		got, notices := edited(stream, func() int { return size })
		require.Equal(t, want, got, "in pieces of %d", size)
		require.Equal(t, 2, notices)
	}
}

// FuzzEditor: messages that no rule is about pass unchanged, however the stream is cut.
func FuzzEditor(f *testing.F) {
	f.Add(message('Q', "CLOSE ALL\x00"), uint64(1))
	f.Add(append(message('P', "\x00select 1\x00\x00\x00"), message('S', "")...), uint64(2))
	f.Add(message('P', "no end"), uint64(3))
	f.Add([]byte{'Q', 0xff, 0xff, 0xff, 0xff, 1}, uint64(4))
	f.Add([]byte{'P', 0, 0, 0, 0, 'Q', 0, 0, 0, 4}, uint64(5))
	f.Fuzz(func(t *testing.T, stream []byte, seed uint64) {
		random := rand.New(rand.NewPCG(seed, 0))
		cut, notices := edited(stream, func() int { return 1 + random.IntN(9) })
		whole, _ := edited(stream, func() int { return len(stream) })
		require.Equal(t, whole, cut)
		if notices == 0 {
			require.True(t, bytes.HasPrefix(stream, cut))
			require.Less(t, len(stream)-len(cut), maxRewritten+1)
		}
	})
}

func FuzzSplitStatements(f *testing.F) {
	for _, q := range []string{"a;b", "';'", `E'\';'`, "$x$;$x$", "--;\n;", "/*/*;*/;*/;", "$1;$", "é';'"} {
		f.Add(q)
	}
	f.Fuzz(func(t *testing.T, query string) {
		require.Equal(t, query, strings.Join(splitStatements(query), ";"))
	})
}
