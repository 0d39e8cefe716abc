package main

import (
	"context"
	"database/sql"
	"io"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"
	"gorm.io/driver/postgres"
	"gorm.io/gorm"
	"gorm.io/gorm/logger"

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
	handle := openDB(t, server)
	for round := range 2 { // a second run finds the tables of the first
		require.NoError(t, show(t.Context(), io.Discard, server.Config()))
		require.Equal(t, round+1, server.Transactions().Conflicts)
	}

	var sender, receiver string
	var amount, sent, received int64
	require.NoError(t, handle.QueryRow(`select s.owner, r.owner, t.amount, s.balance, r.balance
		from gorm_transfers t join gorm_accounts s on s.id = t.sender join gorm_accounts r on r.id = t.receiver`).
		Scan(&sender, &receiver, &amount, &sent, &received))
	require.Equal(t, []any{"ada", "grace", int64(30), int64(75), int64(80)}, []any{sender, receiver, amount, sent, received})

	count := func(query string) (n int) {
		require.NoError(t, handle.QueryRow("select count(*) from "+query).Scan(&n))
		return n
	}
	require.Equal(t, 1, count("pg_indexes where indexname = 'gorm_transfers_by_sender'"))
	require.Equal(t, 2, count("sys.jobs where object_name like '%gorm_transfers_by_sender' and status = 'completed'"))
	require.Zero(t, count("pg_class where relkind = 'S'"), "sequences")

	// What is there already is left alone.
	db, err := open(handle)
	require.NoError(t, err)
	before := server.Transactions().Applied
	require.NoError(t, db.AutoMigrate(&Account{}, &Transfer{}))
	require.Equal(t, before, server.Transactions().Applied)
}

// What the settings are for: gorm as it comes.
func TestDefaults(t *testing.T) {
	server := dsqltest.New(t)
	statements := new(statements)
	handle := openDB(t, server, func(cc *pgx.ConnConfig) { cc.Tracer = statements })
	plain, err := gorm.Open(postgres.New(postgres.Config{Conn: handle}), &gorm.Config{Logger: logger.Discard})
	require.NoError(t, err)
	good, err := open(handle)
	require.NoError(t, err)
	require.NoError(t, good.AutoMigrate(&Account{}))

	t.Run("index", func(t *testing.T) {
		requireCode(t, plain.AutoMigrate(&Transfer{}), "0A000", "CREATE INDEX ASYNC")
		require.True(t, good.Migrator().HasTable(&Transfer{})) // committed before the index failed
		require.False(t, good.Migrator().HasIndex(&Transfer{}, "gorm_transfers_by_sender"))
		require.NoError(t, good.AutoMigrate(&Transfer{}))
		require.True(t, good.Migrator().HasIndex(&Transfer{}, "gorm_transfers_by_sender"))
	})

	t.Run("migration in a transaction", func(t *testing.T) {
		require.NoError(t, good.Migrator().DropTable(&Account{}, &Transfer{}))
		err := good.Transaction(func(tx *gorm.DB) error { return tx.AutoMigrate(&Account{}, &Transfer{}) })
		requireCode(t, err, "0A000", "multiple ddl statements not supported")
		require.False(t, good.Migrator().HasTable(&Account{}))
		require.NoError(t, good.AutoMigrate(&Account{}, &Transfer{}))
	})

	t.Run("nested transaction", func(t *testing.T) {
		nested := func(db *gorm.DB) error {
			return db.Transaction(func(tx *gorm.DB) error {
				return tx.Transaction(func(tx *gorm.DB) error { return tx.Create(&Account{Owner: "ada"}).Error })
			})
		}
		statements.failed = nil
		requireCode(t, nested(plain), "25P02", "aborted") // at the statement that follows
		requireCode(t, statements.failed[0], "0A000", "unsupported transaction statement: SAVEPOINT")
		require.NoError(t, nested(good))
	})

	t.Run("transaction around a statement", func(t *testing.T) {
		statements.begun = 0
		require.NoError(t, good.Create(&Account{Owner: "barbara"}).Error)
		require.Zero(t, statements.begun)
		require.NoError(t, plain.Create(&Account{Owner: "frances"}).Error)
		require.Equal(t, 1, statements.begun)
	})

	t.Run("conflict", func(t *testing.T) {
		attempts := 0
		update := func(tx *gorm.DB) error {
			attempts++
			return tx.Model(&Account{}).Where("owner = ?", "ada").Update("balance", 1).Error
		}
		server.ConflictNext(1)
		err := good.Transaction(update)
		requireCode(t, err, "40001", "OC000")
		require.True(t, dsqltx.IsConflict(err))
		require.Equal(t, 1, attempts)

		server.ConflictNext(1)
		require.NoError(t, dsqltx.RunSQL(t.Context(), handle, func(ctx context.Context, tx *sql.Tx) error { return update(in(t.Context(), good, tx)) }))
		require.Equal(t, 3, attempts)
	})
}

// A failed job is an error of the migration.
func TestIndexJob(t *testing.T) {
	handle := openDB(t, dsqltest.New(t))
	db, err := open(handle)
	require.NoError(t, err)
	_, err = handle.Exec("create table duplicates (name text)")
	require.NoError(t, err)
	_, err = handle.Exec("insert into duplicates values ('ada'), ('ada')")
	require.NoError(t, err)

	type duplicate struct {
		Name string `gorm:"uniqueIndex:names"`
	}
	require.ErrorIs(t, db.Migrator().CreateIndex(&duplicate{}, "names"), dsqltx.ErrJobFailed)
	require.ErrorContains(t, db.Migrator().CreateIndex(&duplicate{}, "other"), "index other: *main.duplicate has none")
}

// statements traces them.
type statements struct {
	begun  int // transactions
	failed []error
}

func (s *statements) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	if strings.HasPrefix(data.SQL, "begin") {
		s.begun++
	}
	return ctx
}

func (s *statements) TraceQueryEnd(_ context.Context, _ *pgx.Conn, data pgx.TraceQueryEndData) {
	if data.Err != nil {
		s.failed = append(s.failed, data.Err)
	}
}

func openDB(t *testing.T, server *dsqltest.Server, tune ...func(*pgx.ConnConfig)) *sql.DB {
	handle, err := dsql.OpenDB(t.Context(), server.Config(), tune...)
	require.NoError(t, err)
	t.Cleanup(func() { handle.Close() })
	return handle
}

func requireCode(t *testing.T, err error, code, message string) {
	t.Helper()
	var refused *pgconn.PgError
	require.ErrorAs(t, err, &refused)
	require.Equal(t, code, refused.Code)
	require.Contains(t, refused.Message, message)
}
