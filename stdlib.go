package dsql

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"

	"github.com/dsqlgo/dsql/internal/configerr"
)

func init() { sql.Register("dsql", sqlDriver{}) }

// sqlDriver is what sql.Open("dsql", connString) uses.
type sqlDriver struct{}

// OpenConnector parses the connection string once, when sql.Open is called.
func (sqlDriver) OpenConnector(connString string) (driver.Connector, error) {
	c, err := ParseConfig(connString)
	if err != nil {
		return nil, err
	}
	return NewConnector(context.Background(), c)
}

// Open is for callers that know no driver.DriverContext; database/sql does.
func (d sqlDriver) Open(connString string) (driver.Conn, error) {
	c, err := d.OpenConnector(connString)
	if err != nil {
		return nil, err
	}
	return c.Connect(context.Background())
}

// NewConnector returns a connector for sql.OpenDB. Its connections are pgx's
// (package stdlib) and are replaced after 50 to 58 minutes, as PoolConfig says.
// The *pgx.Conn is reachable through sql.Conn.Raw:
//
//	err := conn.Raw(func(driverConn any) error {
//		pgxConn := driverConn.(interface{ Conn() *pgx.Conn }).Conn()
//		…
//	})
//
// tune may change the configuration first, as in Connect. Of the pool_…
// settings in Params the connector heeds the connection's lifetime and its jitter;
// OpenDB heeds the others that database/sql knows. The error is ErrConfig or
// ErrCredentials.
func NewConnector(ctx context.Context, c Config, tune ...func(*pgx.ConnConfig)) (driver.Connector, error) {
	return newSQLConnector(ctx, c, tune)
}

func newSQLConnector(ctx context.Context, c Config, tune []func(*pgx.ConnConfig)) (*sqlConnector, error) {
	pool, err := tunedPoolConfig(ctx, c, tune)
	if err != nil {
		return nil, err
	}
	return &sqlConnector{Connector: stdlib.GetConnector(*pool.ConnConfig), pool: pool}, nil
}

// OpenDB returns a database handle. Like sql.Open it opens no connection yet.
// As in a pgx pool at most pool_max_conns of Params are open (no limit unless
// set), and as many stay open when idle, for 10 minutes or pool_max_conn_idle_time;
// database/sql by itself would close all but two, only to open them again
// against the cluster's quota of new connections. SetMaxOpenConns and the like
// may change that.
func OpenDB(ctx context.Context, c Config, tune ...func(*pgx.ConnConfig)) (*sql.DB, error) {
	connector, err := newSQLConnector(ctx, c, tune)
	if err != nil {
		return nil, err
	}
	db := sql.OpenDB(connector)
	db.SetMaxIdleConns(int(connector.pool.MaxConns))
	if _, ok := c.Params["pool_max_conns"]; ok {
		db.SetMaxOpenConns(int(connector.pool.MaxConns))
	}
	db.SetConnMaxIdleTime(connector.pool.MaxConnIdleTime)
	return db, nil
}

type sqlConnector struct {
	driver.Connector
	pool *pgxpool.Config
}

func (c *sqlConnector) Connect(ctx context.Context) (driver.Conn, error) {
	conn, err := c.Connector.Connect(ctx)
	if err != nil {
		return nil, err
	}
	lifetime := c.pool.MaxConnLifetime
	if jitter := c.pool.MaxConnLifetimeJitter; jitter > 0 {
		lifetime += rand.N(jitter)
	}
	return &sqlConn{
		stdlibConn:  conn.(*stdlib.Conn),
		ends:        time.Now().Add(lifetime),
		pingTimeout: c.pool.PingTimeout,
		mode:        c.pool.ConnConfig.DefaultQueryExecMode,
	}, nil
}

func (c *sqlConnector) Driver() driver.Driver { return sqlDriver{} }

// sqlConn is a pgx connection for database/sql that is replaced in time. It also has the last word on
// driver.ErrBadConn, at which database/sql runs a statement again: package stdlib returns that for
// every error that pgx calls safe to retry, and pgx v5.12 calls "conn closed" so even when the
// connection ended after a query was sent by the simple protocol. What may have been applied is not an ErrBadConn.
type sqlConn struct {
	*stdlibConn
	ends        time.Time
	pingTimeout time.Duration
	mode        pgx.QueryExecMode
}

// An embedded stdlib.Conn would be a field named Conn and hide the method.
type stdlibConn = stdlib.Conn

// IsValid is asked when a connection goes back to the pool (driver.Validator).
func (c *sqlConn) IsValid() bool {
	return time.Now().Before(c.ends) && !c.Conn().IsClosed()
}

// BeginTx refuses an isolation level that DSQL would refuse.
func (c *sqlConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	switch level := sql.IsolationLevel(opts.Isolation); level {
	case sql.LevelDefault, sql.LevelRepeatableRead, sql.LevelSnapshot:
		return c.stdlibConn.BeginTx(ctx, opts)
	default:
		return nil, configerr.New("sql.TxOptions.Isolation", "is %s; DSQL has repeatable read only, so leave it at the default", level)
	}
}

// ResetSession is asked before a connection is used again, which may be long
// after it went back.
func (c *sqlConn) ResetSession(ctx context.Context) error {
	if !c.IsValid() {
		return driver.ErrBadConn
	}
	if c.pingTimeout > 0 {
		// It pings what was idle for a second, which a dead network would let last until ctx ends.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.pingTimeout)
		defer cancel()
	}
	return c.stdlibConn.ResetSession(ctx)
}

// ExecContext is stdlib's but for the errors that are ErrBadConn. Without arguments it is
// simple protocol, in every mode.
func (c *sqlConn) ExecContext(ctx context.Context, query string, named []driver.NamedValue) (driver.Result, error) {
	if c.Conn().IsClosed() {
		return nil, driver.ErrBadConn
	}
	args := make([]any, len(named))
	for i, v := range named {
		args[i] = v.Value
	}
	tag, err := c.Conn().Exec(ctx, query, args...)
	if pgconn.SafeToRetry(err) && !errors.Is(err, pgconn.ErrConnClosed) {
		return nil, driver.ErrBadConn
	}
	return driver.RowsAffected(tag.RowsAffected()), err
}

// QueryContext is stdlib's, but by the simple protocol there is no telling what its ErrBadConn was.
func (c *sqlConn) QueryContext(ctx context.Context, query string, named []driver.NamedValue) (driver.Rows, error) {
	if c.Conn().IsClosed() {
		return nil, driver.ErrBadConn
	}
	mode := c.mode
	for _, v := range named {
		if m, ok := v.Value.(pgx.QueryExecMode); ok {
			mode = m
		}
	}
	rows, err := c.stdlibConn.QueryContext(ctx, query, named)
	if err == driver.ErrBadConn && mode == pgx.QueryExecModeSimpleProtocol {
		return nil, pgconn.ErrConnClosed
	}
	return rows, err
}
