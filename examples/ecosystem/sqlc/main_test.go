package main

import (
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
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
	ctx := t.Context()
	server := dsqltest.New(t)
	conn, err := dsql.Connect(ctx, server.Config())
	require.NoError(t, err)
	defer conn.Close(ctx)

	for round := range 2 { // a second run finds the tables of the first
		require.NoError(t, show(ctx, new(strings.Builder), server.Config()))
		require.Equal(t, round+1, server.Transactions().Conflicts)
	}
	rows, err := conn.Query(ctx, `select s.owner, r.owner, t.amount, s.balance, r.balance from sqlc_transfers t
		join sqlc_accounts s on s.id = t.sender join sqlc_accounts r on r.id = t.receiver`)
	require.NoError(t, err)
	type transfer struct {
		Sender, Receiver       string
		Amount, Sent, Received int64
	}
	got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[transfer])
	require.NoError(t, err)
	require.Equal(t, []transfer{{"ada", "grace", 30, 75, 80}}, got)

	var indexes int
	require.NoError(t, conn.QueryRow(ctx, "select count(*) from pg_indexes where indexname = 'sqlc_transfers_by_sender'").Scan(&indexes))
	require.Equal(t, 1, indexes)
}

// The files of a schema in one string are one transaction.
func TestSchemaInOneTransaction(t *testing.T) {
	ctx := t.Context()
	conn, err := dsql.Connect(ctx, dsqltest.New(t).Config())
	require.NoError(t, err)
	defer conn.Close(ctx)
	sql, err := statements("schema/*.sql")
	require.NoError(t, err)

	_, err = conn.Exec(ctx, strings.Join(sql, ""))
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, "0A000", refused.Code)
	require.Contains(t, refused.Message, "multiple ddl statements not supported")

	var tables int
	require.NoError(t, conn.QueryRow(ctx, "select count(*) from pg_tables where tablename like 'sqlc_%'").Scan(&tables))
	require.Zero(t, tables)
}
