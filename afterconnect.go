package dsql

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// AfterConnect returns a func for tune of Connect, NewConnector and OpenDB. It has f called with each
// new connection before it is used, in the goroutine that connects and with its context, for example
// to register types or to set settings. An error of f closes the connection, and the connect fails
// with it. Several such funcs are called in order. A pool has the like as AfterConnect of
// pgxpool.Config.
//
//	db, err := dsql.OpenDB(ctx, config, dsql.AfterConnect(func(ctx context.Context, conn *pgx.Conn) error {
//		conn.TypeMap().RegisterType(…)
//		return nil
//	}))
//
// Use it in place of stdlib.OptionAfterConnect of pgx, whose handles may apply a write twice (see
// NewConnector).
func AfterConnect(f func(ctx context.Context, conn *pgx.Conn) error) func(*pgx.ConnConfig) {
	return func(cc *pgx.ConnConfig) {
		// pgconn's hook comes before there is a *pgx.Conn, so it leaves f with the connection.
		before := cc.AfterConnect
		cc.AfterConnect = func(ctx context.Context, conn *pgconn.PgConn) error {
			if before != nil {
				if err := before(ctx, conn); err != nil {
					return err
				}
			}
			funcs, _ := conn.CustomData()[afterConnectKey].([]afterConnectFunc)
			conn.CustomData()[afterConnectKey] = append(funcs, f)
			return nil
		}
	}
}

type afterConnectFunc = func(ctx context.Context, conn *pgx.Conn) error

const afterConnectKey = "dsql.afterConnect"

// runAfterConnect calls the funcs of AfterConnect. It closes conn if one fails.
func runAfterConnect(ctx context.Context, conn *pgx.Conn) error {
	data := conn.PgConn().CustomData()
	funcs, _ := data[afterConnectKey].([]afterConnectFunc)
	delete(data, afterConnectKey)
	for _, f := range funcs {
		if err := f(ctx, conn); err != nil {
			conn.Close(ctx)
			return fmt.Errorf("dsql: AfterConnect: %w", err)
		}
	}
	return nil
}
