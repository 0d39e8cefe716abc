package dsqltx_test

import (
	"context"
	"database/sql"
	"errors"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqltx"
)

// fn ends the transaction by SQL, and then meets a conflict: what it committed must not be applied
// again.
func TestTransactionEndedBySQL(t *testing.T) {
	s := newCounters(t, 1)
	pool, db := countersPool(t, s, 1), countersDB(t, s, 1)
	lost := &pgconn.PgError{Severity: "ERROR", Code: "40001", Message: "change conflicts with another transaction (OC000)"}
	ways := map[string]func(ctx context.Context, tx pgx.Tx) error{
		"Exec":          func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "commit"); return err },
		"Exec, COMMIT;": func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Exec(ctx, "COMMIT;"); return err },
		"Query": func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, "commit")
			rows.Close()
			return errors.Join(err, rows.Err())
		},
		"Conn": func(ctx context.Context, tx pgx.Tx) error { _, err := tx.Conn().Exec(ctx, "commit"); return err },
		"commit and begin": func(ctx context.Context, tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, "commit"); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, "begin")
			require.ErrorContains(t, err, "ended the transaction by SQL")
			return nil
		},
	}
	for name, end := range ways {
		for _, result := range []error{nil, lost, errors.New("fn's own")} {
			t.Run("Run, "+name, func(t *testing.T) {
				before, runs := s.Value(0), 0
				err := dsqltx.Run(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
					runs++
					if _, err := tx.Exec(ctx, addOne); err != nil {
						return err
					}
					if err := end(ctx, tx); err != nil {
						return err
					}
					_, err := tx.Exec(ctx, addOne) // would be in autocommit
					require.ErrorContains(t, err, "ended the transaction by SQL")
					return result
				})
				require.ErrorContains(t, err, "ended the transaction by SQL")
				if result != nil {
					require.ErrorIs(t, err, result)
				}
				require.Equal(t, 1, runs)
				require.Equal(t, before+1, s.Value(0))
			})
			t.Run("RunSQL, "+name, func(t *testing.T) {
				before, runs := s.Value(0), 0
				err := dsqltx.RunSQL(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
					runs++
					if _, err := tx.ExecContext(ctx, addOne); err != nil {
						return err
					}
					if _, err := tx.ExecContext(ctx, "commit"); err != nil {
						return err
					}
					return result
				})
				require.ErrorContains(t, err, "ended the transaction by SQL")
				require.Equal(t, 1, runs)
				require.Equal(t, before+1, s.Value(0))
			})
		}
	}
	t.Run("as the first statement", func(t *testing.T) {
		err := dsqltx.Run(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
			rows, err := tx.Query(ctx, "commit")
			rows.Close()
			return err
		})
		require.ErrorContains(t, err, "ended the transaction by SQL")
	})
	t.Run("the connection is lost with fn's COMMIT", func(t *testing.T) {
		runs := 0
		err := dsqltx.Run(t.Context(), pool, func(ctx context.Context, tx pgx.Tx) error {
			runs++
			if _, err := tx.Exec(ctx, addOne); err != nil {
				return err
			}
			s.Reset()
			_, err := tx.Exec(ctx, "commit")
			return err
		})
		require.ErrorIs(t, err, dsqltx.ErrCommitUnknown)
		require.Equal(t, 1, runs)
	})
	t.Run("RunSQL, by the methods of sql.Tx", func(t *testing.T) {
		for _, end := range []func(*sql.Tx) error{(*sql.Tx).Commit, (*sql.Tx).Rollback} {
			runs := 0
			err := dsqltx.RunSQL(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
				runs++
				require.NoError(t, end(tx))
				return lost
			})
			require.ErrorContains(t, err, "leave Commit and Rollback to RunSQL")
			require.Equal(t, 1, runs)
		}
	})
}
