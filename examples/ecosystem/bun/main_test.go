package main

import (
	"context"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

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
	db := open(t, server)
	for round := range 2 { // a second run finds the tables of the first
		require.NoError(t, show(ctx, io.Discard, server.Config()))
		require.Equal(t, round+1, server.Transactions().Conflicts)
	}

	var sender, receiver string
	var amount, sent, received int64
	require.NoError(t, db.QueryRow(`select s.owner, r.owner, t.amount, s.balance, r.balance
		from bun_transfers t join bun_accounts s on s.id = t.sender join bun_accounts r on r.id = t.receiver`).
		Scan(&sender, &receiver, &amount, &sent, &received))
	require.Equal(t, []any{"ada", "grace", int64(30), int64(75), int64(80)}, []any{sender, receiver, amount, sent, received})

	count := func(query string) (n int) {
		require.NoError(t, db.QueryRow("select count(*) from "+query).Scan(&n))
		return n
	}
	require.Equal(t, 1, count("pg_indexes where indexname = 'bun_transfers_by_sender'"))
	require.Zero(t, count("pg_class where relkind = 'S'"), "sequences")
}

// What DSQL does to bun's ways of doing it.
func TestDefaults(t *testing.T) {
	ctx := t.Context()
	server := dsqltest.New(t)
	db := open(t, server)
	require.NoError(t, db.ResetModel(ctx, (*Account)(nil)))
	_, err := db.NewInsert().Model(&Account{Owner: "ada", Balance: 100}).Exec(ctx)
	require.NoError(t, err)

	t.Run("nested transaction", func(t *testing.T) {
		err := db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			return tx.RunInTx(ctx, nil, func(context.Context, bun.Tx) error { return nil })
		})
		requireCode(t, err, "0A000", "unsupported transaction statement: SAVEPOINT")
	})

	t.Run("a conflict in RunInTx", func(t *testing.T) {
		server.ConflictNext(1)
		attempts := 0
		err := db.RunInTx(ctx, nil, func(ctx context.Context, tx bun.Tx) error {
			attempts++
			_, err := tx.NewUpdate().Model((*Account)(nil)).Set("balance = 0").Where("true").Exec(ctx)
			return err
		})
		requireCode(t, err, "40001", "OC000")
		require.Equal(t, 1, attempts)
	})

	t.Run("several statements in one string", func(t *testing.T) {
		_, err := db.ExecContext(ctx, "create table a (id uuid); create table b (id uuid)")
		requireCode(t, err, "0A000", "multiple ddl statements not supported")
		_, err = db.ExecContext(ctx, "create table a (id uuid); insert into a values (gen_random_uuid())")
		requireCode(t, err, "0A000", "ddl and dml are not supported")
	})

	t.Run("index", func(t *testing.T) {
		_, err := db.NewCreateIndex().Model((*Account)(nil)).Index("by_balance").Column("balance").Exec(ctx)
		requireCode(t, err, "0A000", "CREATE INDEX ASYNC")
	})

	t.Run("truncate", func(t *testing.T) {
		_, err := db.NewTruncateTable().Model((*Account)(nil)).Exec(ctx)
		requireCode(t, err, "0A000", "unsupported statement: Truncate")
		_, err = db.NewDelete().Model((*Account)(nil)).Where("true").Exec(ctx)
		require.NoError(t, err)
	})
}

func open(t *testing.T, server *dsqltest.Server) *bun.DB {
	handle, err := dsql.OpenDB(t.Context(), server.Config())
	require.NoError(t, err)
	t.Cleanup(func() { handle.Close() })
	return bun.NewDB(handle, pgdialect.New())
}

func requireCode(t *testing.T, err error, code, message string) {
	t.Helper()
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, code, refused.Code)
	require.Contains(t, refused.Message, message)
}
