package main

import (
	"context"
	"database/sql"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jmoiron/sqlx"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

func TestRun(t *testing.T) {
	t.Setenv("DSQL_URL", "")
	var out strings.Builder
	require.NoError(t, run(t.Context(), &out))
	require.Equal(t, `attempt 1: ERROR: change conflicts with another transaction (OC000) (SQLSTATE 40001)
attempt 2: committed
ada has 75
grace has 80
`, out.String())
}

func TestShow(t *testing.T) {
	server := dsqltest.New(t)
	db := open(t, server)
	for round := range 2 { // a second run finds the tables of the first
		require.NoError(t, show(t.Context(), io.Discard, server.Config()))
		require.Equal(t, round+1, server.Transactions().Conflicts)
	}

	var got []struct {
		Sender, Receiver       string
		Amount, Sent, Received int64
	}
	require.NoError(t, db.Select(&got, `select s.owner sender, r.owner receiver, t.amount, s.balance sent, r.balance received
		from sqlx_transfers t join sqlx_accounts s on s.id = t.sender join sqlx_accounts r on r.id = t.receiver`))
	require.Len(t, got, 1)
	require.Equal(t, [5]any{"ada", "grace", int64(30), int64(75), int64(80)},
		[5]any{got[0].Sender, got[0].Receiver, got[0].Amount, got[0].Sent, got[0].Received})
}

// What the settings are for.
func TestDefaults(t *testing.T) {
	db := open(t, dsqltest.New(t))

	t.Run("placeholders", func(t *testing.T) {
		named := func() error {
			return dsqltx.RunSQL(t.Context(), db.DB, func(ctx context.Context, tx *sql.Tx) error {
				_, err := in(db, tx).NamedExec("select :name", map[string]any{"name": "ada"})
				return err
			})
		}
		sqlx.BindDriver("", sqlx.UNKNOWN)
		defer sqlx.BindDriver("", sqlx.DOLLAR)
		requireCode(t, named(), "42601", "syntax error") // it said "select ?"
		sqlx.BindDriver("", sqlx.DOLLAR)
		require.NoError(t, named())
	})

	t.Run("a schema in one string", func(t *testing.T) {
		_, err := db.Exec(strings.Join(schema, ";"))
		requireCode(t, err, "0A000", "multiple ddl statements not supported")
	})

	t.Run("sqlx's own transaction", func(t *testing.T) {
		_, err := db.Exec("create table counters (id int primary key, n int not null)")
		require.NoError(t, err)
		_, err = db.Exec("insert into counters values (1, 0)")
		require.NoError(t, err)

		tx := db.MustBegin()
		defer tx.Rollback()
		var n int
		require.NoError(t, tx.Get(&n, "select n from counters"))
		_, err = db.Exec("update counters set n = 1")
		require.NoError(t, err)
		_, err = tx.Exec("update counters set n = $1", n+1)
		require.NoError(t, err)
		err = tx.Commit()
		requireCode(t, err, "40001", "OC000")
		require.True(t, dsqltx.IsConflict(err))
	})
}

func open(t *testing.T, server *dsqltest.Server) *sqlx.DB {
	handle, err := dsql.OpenDB(t.Context(), server.Config())
	require.NoError(t, err)
	t.Cleanup(func() { handle.Close() })
	return sqlx.NewDb(handle, "pgx")
}

func requireCode(t *testing.T, err error, code, message string) {
	t.Helper()
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, code, refused.Code)
	require.Contains(t, refused.Message, message)
}
