package dsqltest

import (
	"bytes"
	"strconv"
	"strings"
	"testing"

	"github.com/dsqlgo/dsql/dsqltest/internal/postgres"
	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// FuzzScript: PostgreSQL is asked for a script's statements in their order, up to the first that
// fails, and the error names the line where that one begins.
func FuzzScript(f *testing.F) {
	for _, text := range []string{
		"create table t (id int);\n\n-- é\ninsert into t values (1);", "é;\r\nü\xff;\n'\n';x", "create index async on t (a);\nselect 1;\ncreate index async on u (b)",
		"/* \n */ select $$\n;\n$$;\nselect 2", "", ";;\n;", "create function f() begin atomic select 1;\n end;\n\nx",
	} {
		for fails := range uint8(4) {
			f.Add(text, fails)
		}
	}
	f.Fuzz(func(t *testing.T, text string, fails uint8) {
		var answers, want []byte
		var asked bytes.Buffer
		add := func(to *[]byte, message pgproto3.Message) {
			var err error
			*to, err = message.Encode(*to)
			require.NoError(t, err)
		}
		answer := func(value string) {
			add(&answers, &pgproto3.DataRow{Values: [][]byte{[]byte(value)}})
			add(&answers, &pgproto3.CommandComplete{CommandTag: []byte("SELECT 1")})
			add(&answers, &pgproto3.ReadyForQuery{TxStatus: 'I'})
		}
		line := 0
		for i, st := range rules.Parse(text) {
			add(&want, &pgproto3.Query{String: st.SQL})
			if i == int(fails) {
				line = 1 + strings.Count(text[:bytesOf(text, st.Start)], "\n")
				add(&answers, rules.NewError("22012", "division by zero"))
				add(&answers, &pgproto3.ReadyForQuery{TxStatus: 'I'})
				break
			}
			answer("a job")
			if st.Rewritten != "" {
				add(&want, &pgproto3.Query{String: "CALL sys.wait_for_job('a job')"})
				answer("t")
			}
		}
		session := postgres.NewSession(pgproto3.NewFrontend(bytes.NewReader(answers), &asked), nil)
		err := runScript(session, text)
		require.Equal(t, string(want), asked.String())
		if line == 0 {
			require.NoError(t, err)
			return
		}
		require.ErrorContains(t, err, "division by zero")
		require.True(t, strings.HasPrefix(err.Error(), strconv.Itoa(line)+": "), "%d, not %v", line, err)
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
