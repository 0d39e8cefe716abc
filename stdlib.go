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

// sqlDriver is the driver of sql.Open("dsql", connString).
type sqlDriver struct{}

// OpenConnector is called by sql.Open, so the connection string is parsed once.
func (sqlDriver) OpenConnector(connString string) (driver.Connector, error) {
	c, err := ParseConfig(connString)
	if err != nil {
		return nil, err
	}
	return NewConnector(context.Background(), c)
}

// Open implements driver.Driver. database/sql uses OpenConnector instead.
func (d sqlDriver) Open(connString string) (driver.Conn, error) {
	c, err := d.OpenConnector(connString)
	if err != nil {
		return nil, err
	}
	return c.Connect(context.Background())
}

// NewConnector returns a connector for sql.OpenDB. Its connections are those of pgx's package stdlib.
// They are replaced after 50 to 58 minutes, as in a pgx pool. The *pgx.Conn is reachable through
// sql.Conn.Raw:
//
//	err := conn.Raw(func(driverConn any) error {
//		pgxConn := driverConn.(interface{ Conn() *pgx.Conn }).Conn()
//		…
//	})
//
// driverConn has the methods of pgx's *stdlib.Conn, but is none: driverConn.(*stdlib.Conn) panics.
// A *stdlib.Conn may have database/sql apply a write twice.
//
// tune may change the configuration first, as in Connect. AfterConnect has a func called with each
// new connection. Of the pool_… settings in Params the
// connector uses those for the lifetime of connections and its jitter; OpenDB uses the others that
// database/sql has. The error is ErrConfig or ErrCredentials.
func NewConnector(ctx context.Context, c Config, tune ...func(*pgx.ConnConfig)) (driver.Connector, error) {
	return newsqlConnector(ctx, c, tune)
}

func newsqlConnector(ctx context.Context, c Config, tune []func(*pgx.ConnConfig)) (*sqlConnector, error) {
	pool, err := tunedPoolConfig(ctx, c, tune)
	if err != nil {
		return nil, err
	}
	return &sqlConnector{Connector: stdlib.GetConnector(*pool.ConnConfig), pool: pool}, nil
}

// OpenDB returns a database handle. Like sql.Open it does not connect yet.
//
// At most pool_max_conns connections are open; without that parameter there is no limit. As many as a
// pgx pool would have stay open when idle, for 10 minutes or pool_max_conn_idle_time. (By default
// database/sql closes all but two, and each new one counts against the cluster's quota.)
// SetMaxOpenConns and the like may change that.
func OpenDB(ctx context.Context, c Config, tune ...func(*pgx.ConnConfig)) (*sql.DB, error) {
	connector, err := newsqlConnector(ctx, c, tune)
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
	if err := runAfterConnect(ctx, conn.(*stdlib.Conn).Conn()); err != nil {
		return nil, err
	}
	lifetime := c.pool.MaxConnLifetime
	if jitter := c.pool.MaxConnLifetimeJitter; jitter > 0 {
		lifetime += rand.N(jitter)
	}
	return &sqlConn{
		stdlibConn:  conn.(*stdlib.Conn),
		expires:     time.Now().Add(lifetime),
		pingTimeout: c.pool.PingTimeout,
		mode:        c.pool.ConnConfig.DefaultQueryExecMode,
	}, nil
}

func (c *sqlConnector) Driver() driver.Driver { return sqlDriver{} }

// sqlConn is a pgx connection for database/sql. It has the methods of pgx's *stdlib.Conn, but cannot be
// one, because it differs in two of them.
//
// It expires, so that database/sql replaces it before DSQL ends it.
//
// It returns driver.ErrBadConn only if the statement was not sent, since database/sql then runs the
// statement again. Package stdlib returns ErrBadConn for every error that pgx calls safe to retry, and
// pgx v5.12 says that of "conn closed" even if the connection ended after a query was sent by the
// simple protocol.
type sqlConn struct {
	*stdlibConn
	expires     time.Time
	pingTimeout time.Duration
	mode        pgx.QueryExecMode
}

// An embedded stdlib.Conn would be a field named Conn, which hides the method of that name.
type stdlibConn = stdlib.Conn

// NeverSent reports whether err, returned by a method of c, means that nothing was sent. Package dsqltx
// asks.
func (c *sqlConn) NeverSent(err error) bool { return errors.Is(err, driver.ErrBadConn) }

// IsValid is called when a connection returns to the pool (driver.Validator).
func (c *sqlConn) IsValid() bool {
	return time.Now().Before(c.expires) && !c.Conn().IsClosed()
}

// BeginTx refuses the isolation levels that DSQL does not have.
func (c *sqlConn) BeginTx(ctx context.Context, opts driver.TxOptions) (driver.Tx, error) {
	switch level := sql.IsolationLevel(opts.Isolation); level {
	case sql.LevelDefault, sql.LevelRepeatableRead, sql.LevelSnapshot:
		return c.stdlibConn.BeginTx(ctx, opts)
	default:
		return nil, configerr.New("sql.TxOptions.Isolation", "is %s; DSQL has only repeatable read, so leave it at the default", level)
	}
}

// ResetSession is called before a connection is used again, perhaps long after it returned to the
// pool. It pings one that was idle for a second.
func (c *sqlConn) ResetSession(ctx context.Context) error {
	if !c.IsValid() {
		return driver.ErrBadConn
	}
	if c.pingTimeout > 0 {
		// On a dead network the ping would last until ctx ends.
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, c.pingTimeout)
		defer cancel()
	}
	return c.stdlibConn.ResetSession(ctx)
}

// ExecContext is that of stdlib, but returns ErrBadConn only if the statement was not sent. It does
// not call stdlib's, since pgx uses the simple protocol for an Exec without arguments in every mode.
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

// QueryContext is that of stdlib, but never returns ErrBadConn for the simple protocol, with which
// stdlib's may mean that the query was sent.
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
