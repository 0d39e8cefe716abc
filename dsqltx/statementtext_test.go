package dsqltx

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestIsQuery(t *testing.T) {
	for sql, is := range map[string]bool{
		"select 1": true, "SELECT 1": true, "\n\tinsert into t values (1)": true, "with x as (select 1) delete from t": true,
		"-- name: Get :one\nselect 1": true, "/* a */ /* b /* c */ */ update t set a = 1": true, "values (1)": true,
		"": false, " ": false, "-- select": false, "/* select": false, ";": false, "commit": false, "begin": false, "show x": false,
		"get_user": false, "selection": false, "create table t ()": false, "(select 1)": false,
	} {
		require.Equal(t, is, isQuery(sql), "%q", sql)
	}
}

func TestEndsTransaction(t *testing.T) {
	for sql, ends := range map[string]bool{
		"commit": true, "COMMIT;": true, "-- done\n Commit": true, "end": true, "abort": true, "commit and chain": true,
		"rollback": true, "rollback work": true, "rollback transaction": true,
		"rollback to sp": false, "rollback to savepoint sp": false, "ROLLBACK WORK TO sp": false,
		"": false, "select 'commit'": false, "begin": false, "committed": false, "endless": false, "update t set commit = 1": false,
	} {
		require.Equal(t, ends, endsTransaction(sql), "%q", sql)
	}
}
