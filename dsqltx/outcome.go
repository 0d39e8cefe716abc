package dsqltx

import (
	"context"
	"database/sql/driver"
	"errors"
	"io"
	"net"
	"reflect"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// outcome is what is known of an attempt.
type outcome int

const (
	applied  outcome = iota
	conflict         // not applied; another attempt may succeed
	connLost         // not applied, because the connection was lost; another attempt may succeed
	unknown          // the connection was lost, and the attempt may have been applied
	failed           // not applied; another attempt would fail as well
)

// classifyBegin says what an error of BEGIN, or of getting a connection for it, means. A connect
// that failed has made its own attempts.
func classifyBegin(err error) outcome {
	var connect *pgconn.ConnectError
	switch {
	case err == nil:
		return applied
	case errors.As(err, &connect), errors.Is(err, ErrCommitUnknown):
		return failed
	case IsConflict(err):
		return conflict
	case isConnLost(err):
		return connLost
	}
	return failed
}

// classifyFn says what an error that fn returned means. closed tells whether the transaction's
// connection is closed: fn may use other connections, and files, whose errors look the same.
func classifyFn(err error, closed bool) outcome {
	switch {
	case errors.Is(err, ErrCommitUnknown):
		return failed // of another transaction, which must not run again with this one
	case IsConflict(err):
		return conflict
	case closed && isConnLost(err):
		return connLost
	}
	return failed
}

// classifyCommit says what the end of COMMIT means. Any error leaves the outcome unknown, except a
// definite answer of the server or a failure before sending.
func classifyCommit(err error) outcome {
	var pgErr *pgconn.PgError
	o := classifyStatement(err)
	if o == failed && !errors.As(err, &pgErr) && !pgconn.SafeToRetry(err) {
		return unknown
	}
	return o
}

// classifyStatement says what the end of a statement in autocommit means. Unlike an error of
// COMMIT, err may also be the caller's own.
func classifyStatement(err error) outcome {
	switch {
	case err == nil:
		return applied
	case errors.Is(err, ErrCommitUnknown):
		return unknown
	case IsConflict(err):
		return conflict
	case isIndefinite(err):
		return unknown
	case wasNotSent(err) && isConnLost(err):
		return connLost
	case wasNotSent(err):
		return failed
	case isConnLost(err), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return unknown
	}
	return failed
}

// isIndefinite tells whether the server answered that it does not know itself: 08007
// (transaction_resolution_unknown), 40003 (statement_completion_unknown), and XX000, which DSQL
// sends as "server unavailable", also when a COMMIT was on its way.
func isIndefinite(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "08007" || pgErr.Code == "40003" || pgErr.Code == "XX000")
}

// wasNotSent tells whether pgx says that it sent nothing. pgx v5.12 says so of "conn closed" too,
// but returns that error also when the connection ended after a query was sent.
func wasNotSent(err error) bool {
	return pgconn.SafeToRetry(err) && !errors.Is(err, pgconn.ErrConnClosed)
}

// isConnLost tells errors of a lost connection from those of a statement, of fn and of a context.
// pgx has no type for them.
func isConnLost(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Severity == "FATAL" || pgErr.Severity == "PANIC"
	}
	var network net.Error
	return errors.As(err, &network) || isProtocolError(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, driver.ErrBadConn)
}

// isProtocolError tells whether the server's answer was not PostgreSQL's protocol. pgx closes the
// connection then. The errors have unexported types of pgproto3, or only a text.
func isProtocolError(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		t := reflect.TypeOf(err)
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.PkgPath() == reflect.TypeFor[pgproto3.Query]().PkgPath() ||
			strings.HasPrefix(err.Error(), "invalid message length: ") ||
			strings.HasPrefix(err.Error(), "unknown message type: ") {
			return true
		}
	}
	return false
}
