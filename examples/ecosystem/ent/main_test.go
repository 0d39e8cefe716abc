package main

import (
	"context"
	"database/sql"
	"io"
	"strings"
	"testing"

	"ariga.io/atlas/sql/migrate"
	"entgo.io/ent/dialect"
	entsql "entgo.io/ent/dialect/sql"
	"entgo.io/ent/dialect/sql/schema"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
	"github.com/dsqlgo/dsql/examples/ecosystem/ent/ent"
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
	client, db := open(t, server)
	for round := range 2 { // a second run finds the tables of the first
		require.NoError(t, show(ctx, io.Discard, server.Config()))
		require.Equal(t, round+1, server.Transactions().Conflicts)
	}

	var sender, receiver string
	var amount, sent, received int64
	require.NoError(t, db.QueryRow(`select s.owner, r.owner, t.amount, s.balance, r.balance
		from ent_transfers t join ent_accounts s on s.id = t.account_sent join ent_accounts r on r.id = t.account_received`).
		Scan(&sender, &receiver, &amount, &sent, &received))
	require.Equal(t, []any{"ada", "grace", int64(30), int64(75), int64(80)}, []any{sender, receiver, amount, sent, received})
	require.Equal(t, 2, count(t, db, "pg_indexes where tablename like 'ent_%' and indexname not like '%_pkey'"))
	require.Equal(t, 4, count(t, db, "sys.jobs where job_type = 'INDEX_BUILD' and status = 'completed'"))
	require.Zero(t, count(t, db, "pg_class where relkind = 'S'"), "sequences")

	// Foreign keys are part of CREATE TABLE, so they are there too.
	err := client.Transfer.Create().SetSenderID(uuid.New()).SetReceiverID(uuid.New()).SetAmount(1).Exec(ctx)
	requireCode(t, err, "23503", "foreign key")

	// What is there already is left alone.
	before := server.Transactions().Applied
	require.NoError(t, create(ctx, client, db))
	require.Equal(t, before, server.Transactions().Applied)
}

// What create and txDriver are for: ent as it comes.
func TestDefaults(t *testing.T) {
	ctx := t.Context()
	server := dsqltest.New(t)
	client, db := open(t, server)

	t.Run("index", func(t *testing.T) {
		requireCode(t, client.Schema.Create(ctx), "0A000", "CREATE INDEX ASYNC")
		require.Zero(t, count(t, db, "pg_tables where tablename like 'ent_%'"))
	})

	t.Run("migration in one transaction", func(t *testing.T) {
		async := func(next schema.Applier) schema.Applier {
			return schema.ApplyFunc(func(ctx context.Context, conn dialect.ExecQuerier, plan *migrate.Plan) error {
				for _, change := range plan.Changes {
					change.Cmd = strings.Replace(change.Cmd, " INDEX ", " INDEX ASYNC ", 1)
				}
				return next.Apply(ctx, conn, plan)
			})
		}
		requireCode(t, client.Schema.Create(ctx, schema.WithApplyHook(async)), "0A000", "multiple ddl statements not supported")
		require.Zero(t, count(t, db, "pg_tables where tablename like 'ent_%'"))
	})

	require.NoError(t, create(ctx, client, db))
	ada := client.Account.Create().SetOwner("ada").SetBalance(100).SaveX(ctx)

	t.Run("conflict", func(t *testing.T) {
		server.ConflictNext(1)
		err := client.Account.UpdateOne(ada).AddBalance(1).Exec(ctx)
		requireCode(t, err, "40001", "OC000")
		require.True(t, dsqltx.IsConflict(err))

		attempts := 0
		server.ConflictNext(1)
		require.NoError(t, dsqltx.RunSQL(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
			attempts++
			return in(tx).Account.UpdateOne(ada).AddBalance(1).Exec(ctx)
		}))
		require.Equal(t, 2, attempts)
		require.EqualValues(t, 101, client.Account.GetX(ctx, ada.ID).Balance)
	})

	t.Run("update in a transaction of others", func(t *testing.T) {
		require.NoError(t, dsqltx.RunSQL(ctx, db, func(ctx context.Context, tx *sql.Tx) error {
			plain := ent.NewClient(ent.Driver(entsql.NewDriver(dialect.Postgres, entsql.Conn{ExecQuerier: tx})))
			require.Panics(t, func() { plain.Account.UpdateOne(ada).AddBalance(1).ExecX(ctx) })
			return in(tx).Account.UpdateOne(ada).AddBalance(1).Exec(ctx)
		}))
		require.EqualValues(t, 102, client.Account.GetX(ctx, ada.ID).Balance)
	})
}

// A failed job is an error of the migration.
func TestIndexJob(t *testing.T) {
	_, db := open(t, dsqltest.New(t))
	for _, statement := range []string{"create table duplicates (name text)", "insert into duplicates values ('ada'), ('ada')"} {
		_, err := db.Exec(statement)
		require.NoError(t, err)
	}
	err := apply(t.Context(), db, "CREATE UNIQUE INDEX names ON duplicates (name)")
	require.ErrorIs(t, err, dsqltx.ErrJobFailed)
}

func open(t *testing.T, server *dsqltest.Server) (*ent.Client, *sql.DB) {
	db, err := dsql.OpenDB(t.Context(), server.Config())
	require.NoError(t, err)
	t.Cleanup(func() { db.Close() })
	return ent.NewClient(ent.Driver(entsql.OpenDB(dialect.Postgres, db))), db
}

func count(t *testing.T, db *sql.DB, from string) (n int) {
	t.Helper()
	require.NoError(t, db.QueryRow("select count(*) from "+from).Scan(&n))
	return n
}

func requireCode(t *testing.T, err error, code, message string) {
	t.Helper()
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, code, refused.Code)
	require.Contains(t, refused.Message, message)
}
