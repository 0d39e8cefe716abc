package dsql

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

// IsConflict tells whether err is a lost conflict (OC000) or a changed schema (OC001, or a
// statement that was prepared before the change): nothing was applied, and running the whole
// transaction again may succeed. It holds through pgx, pgxpool and database/sql. An ErrCommitUnknown
// is none, whatever else it wraps.
func IsConflict(err error) bool { return conflictKind(err) != "" }

// conflictKind returns "OC000", "OC001" or "". The SQLSTATE is 40001 and the
// kind in the message; clients have looked for the kind as the SQLSTATE too.
func conflictKind(err error) string {
	var pgErr *pgconn.PgError
	if !errors.As(err, &pgErr) || errors.Is(err, ErrCommitUnknown) {
		return ""
	}
	switch {
	case pgErr.Code == "OC000", pgErr.Code == "OC001":
		return pgErr.Code
	case isOutdated(pgErr):
		return "OC001"
	case pgErr.Code != "40001":
		return ""
	case strings.Contains(pgErr.Message, "OC001"):
		return "OC001"
	}
	return "OC000"
}

// isOutdated tells that a statement's columns changed since it was prepared, or described, in the
// modes cache_statement and cache_describe. pgx has forgotten it by the time the error is seen.
func isOutdated(e *pgconn.PgError) bool {
	return e.Code == "0A000" && e.Message == "cached plan must not change result type" ||
		e.Code == "08P01" && strings.HasPrefix(e.Message, "bind message has ") && strings.Contains(e.Message, "result formats but query has")
}

// outcome is what is known of an attempt.
type outcome int

const (
	applied  outcome = iota
	conflict         // not applied: run it again
	lost             // the connection was, before it could be applied: run it again
	unknown          // the connection was, and it may have been applied
	failed           // not applied, and not worth another attempt
)

// begun judges BEGIN, or the connection it needed. A connect has made all its own attempts.
func begun(err error) outcome {
	var connect *pgconn.ConnectError
	switch {
	case errors.As(err, &connect), errors.Is(err, ErrCommitUnknown):
		return failed
	case IsConflict(err):
		return conflict
	case isLost(err):
		return lost
	}
	return failed
}

// ran judges an error of fn. One that speaks of a lost connection means this
// one only when it is gone indeed: fn may use others, and files.
func ran(err error, closed bool) outcome {
	switch {
	case errors.Is(err, ErrCommitUnknown):
		return failed // of another transaction, which must not run again with this one
	case IsConflict(err):
		return conflict
	case closed && isLost(err):
		return lost
	}
	return failed
}

// answered judges a COMMIT: what is neither the server's word nor a COMMIT that was not sent may
// have been applied.
func answered(err error) outcome {
	var pgErr *pgconn.PgError
	if o := committed(err); o != failed || errors.As(err, &pgErr) || pgconn.SafeToRetry(err) {
		return o
	}
	return unknown
}

// committed judges a statement that is a commit by itself, from errors that may be the caller's too.
func committed(err error) outcome {
	switch {
	case err == nil:
		return applied
	case errors.Is(err, ErrCommitUnknown):
		return unknown
	case IsConflict(err):
		return conflict
	case pgconn.SafeToRetry(err) && !errors.Is(err, pgconn.ErrConnClosed):
		// pgx did not send it. "conn closed" is no proof of that, though it says so: pgx
		// v5.12 returns it also when the connection ends after a query was sent.
		if isLost(err) {
			return lost
		}
		return failed
	case isLost(err), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return unknown
	}
	return failed
}

// isLost tells errors of a connection that is gone from errors of a statement, of
// fn and of a context. What pgx reports for a lost connection has no one type.
func isLost(err error) bool {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return false
	}
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Severity == "FATAL" || pgErr.Severity == "PANIC"
	}
	var network net.Error
	return errors.As(err, &network) || isGarbled(err) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed) ||
		errors.Is(err, pgconn.ErrConnClosed) || errors.Is(err, driver.ErrBadConn)
}

// isGarbled tells that the server's answer was none of PostgreSQL's protocol, after which pgx
// closes the connection. Its errors have unexported types, or only a text.
func isGarbled(err error) bool {
	for ; err != nil; err = errors.Unwrap(err) {
		t := reflect.TypeOf(err)
		if t.Kind() == reflect.Pointer {
			t = t.Elem()
		}
		if t.PkgPath() == reflect.TypeFor[pgproto3.Query]().PkgPath() ||
			strings.HasPrefix(err.Error(), "invalid message length: ") || strings.HasPrefix(err.Error(), "unknown message type: ") {
			return true
		}
	}
	return false
}
