package dsqltx_test

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"testing"

	"github.com/jackc/pgx/v5/stdlib"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqltx"
)

// The connections of tracing drivers, which wrap another one.
type (
	opaqueConn  struct{ *pgxConn }
	rawConn     struct{ *pgxConn }
	unwrapConn  struct{ *pgxConn }
	wrappedConn struct{ *pgxConn }

	// pgxConn hides stdlib's method Conn.
	pgxConn struct{ *stdlib.Conn }
)

func (c rawConn) Raw() driver.Conn             { return c.pgxConn.Conn }
func (c unwrapConn) Unwrap() driver.Conn       { return rawConn(c) } // in layers
func (c wrappedConn) WrappedConn() driver.Conn { return c.pgxConn.Conn }

type wrappingConnector struct {
	driver.Connector
	wrap func(*pgxConn) driver.Conn
}

func (c wrappingConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	return c.wrap(&pgxConn{conn.(*stdlib.Conn)}), nil
}

// A connection that was lost before COMMIT is seen beneath every wrapper.
func TestWrappedDrivers(t *testing.T) {
	for name, wrap := range map[string]func(*pgxConn) driver.Conn{
		"Raw":         func(c *pgxConn) driver.Conn { return rawConn{c} },
		"Unwrap":      func(c *pgxConn) driver.Conn { return unwrapConn{c} },
		"WrappedConn": func(c *pgxConn) driver.Conn { return wrappedConn{c} },
		"none":        func(c *pgxConn) driver.Conn { return opaqueConn{c} },
	} {
		t.Run(name, func(t *testing.T) {
			s := newCounters(t, 1)
			db := sql.OpenDB(wrappingConnector{stdlib.GetConnector(*s.ConnConfig()), wrap})
			defer db.Close()
			runs := 0
			require.NoError(t, dsqltx.RunSQL(t.Context(), db, func(ctx context.Context, tx *sql.Tx) error {
				if _, err := tx.ExecContext(ctx, addOne); err != nil {
					return err
				}
				if runs++; runs == 1 {
					s.Reset()
				}
				_, err := tx.ExecContext(ctx, addOne)
				return err
			}))
			require.Equal(t, 2, runs)
			require.EqualValues(t, 2, s.Value(0))
		})
	}
}
