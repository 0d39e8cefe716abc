package dsqltx

import (
	"context"
	"database/sql"
	"errors"

	"github.com/jackc/pgx/v5"
)

var errNoPgxConn = errors.New("dsqltx: the driver of the *sql.DB does not give its *pgx.Conn; open it with dsql.OpenDB or pgx's stdlib")

// sqlBeginner begins transactions on the pgx connections beneath a *sql.DB.
type sqlBeginner struct{ db *sql.DB }

func (b sqlBeginner) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	conn, err := b.db.Conn(ctx)
	if err != nil {
		return nil, err
	}
	tx := &sqlPgxTx{conn: conn}
	err = conn.Raw(func(driverConn any) error {
		c, ok := driverConn.(interface{ Conn() *pgx.Conn })
		if !ok {
			return errNoPgxConn
		}
		// conn is the transaction's own until it ends, so nothing else uses the connection.
		tx.Tx, err = c.Conn().BeginTx(ctx, options)
		return err
	})
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return tx, nil
}

// sqlPgxTx gives the connection back at its end.
type sqlPgxTx struct {
	pgx.Tx
	conn *sql.Conn
}

func (t *sqlPgxTx) Commit(ctx context.Context) error {
	defer t.conn.Close()
	return t.Tx.Commit(ctx)
}

func (t *sqlPgxTx) Rollback(ctx context.Context) error {
	defer t.conn.Close()
	return t.Tx.Rollback(ctx)
}
