package dsqldoctor

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"syscall"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/wsconn"
)

// outcome is how a probe ended, as far as the verdict depends on it.
type outcome string

const (
	outcomeNone           outcome = "" // not tried, or no time was left
	outcomeOK             outcome = "ok"
	outcomeTimeout        outcome = "no answer"
	outcomeReset          outcome = "connection reset"
	outcomeClosed         outcome = "connection closed"
	outcomePortClosed     outcome = "connection refused"
	outcomeNoRoute        outcome = "no route"
	outcomeUnknownName    outcome = "unknown name"
	outcomeResolverFailed outcome = "the resolver failed"
	outcomeBadCertificate outcome = "certificate not accepted"
	outcomeTLSAlert       outcome = "TLS alert"
	outcomeNotTLS         outcome = "not TLS"
	outcomeNotDSQL        outcome = "not DSQL"
	outcomeNoWebSocket    outcome = "no WebSocket"
	outcomeRefused        outcome = "refused" // by an ErrorResponse
	outcomeFailed         outcome = "failed"  // any other error
)

// isCut tells whether something ended the connection.
func (o outcome) isCut() bool { return o == outcomeReset || o == outcomeClosed }

// isBlocked tells whether the connection ended, or was left without an answer, as a firewall does.
func (o outcome) isBlocked() bool { return o.isCut() || o == outcomeTimeout }

// outcomeOf classifies an error of net, crypto/tls, pgx or internal/login.
func outcomeOf(err error) outcome {
	var (
		refusal     *pgconn.PgError
		dns         *net.DNSError
		operation   *net.OpError
		timeout     net.Error
		certificate *tls.CertificateVerificationError
		record      tls.RecordHeaderError
		status      *wsconn.StatusError
	)
	switch {
	case err == nil:
		return outcomeOK
	case errors.As(err, &refusal):
		return outcomeRefused
	case errors.As(err, &dns) && dns.IsNotFound:
		return outcomeUnknownName
	case errors.As(err, &dns):
		return outcomeResolverFailed
	case errors.As(err, &certificate):
		return outcomeBadCertificate
	case errors.As(err, &record), errors.Is(err, login.ErrNoTLS):
		return outcomeNotTLS
	case errors.As(err, &status), errors.Is(err, wsconn.ErrNoWebSocket):
		return outcomeNoWebSocket
	case errors.Is(err, login.ErrProtocol):
		return outcomeNotDSQL
	case errors.As(err, &operation) && operation.Op == "remote error": // crypto/tls marks an alert by this text only
		return outcomeTLSAlert
	case isErrno(err, syscall.ECONNREFUSED, 10061):
		return outcomePortClosed
	case isErrno(err, syscall.ENETUNREACH, 10051), isErrno(err, syscall.EHOSTUNREACH, 10065),
		isErrno(err, syscall.EADDRNOTAVAIL, 10049), isErrno(err, syscall.EAFNOSUPPORT, 10047):
		return outcomeNoRoute
	case isErrno(err, syscall.ECONNRESET, 10054), isErrno(err, syscall.ECONNABORTED, 10053), isErrno(err, syscall.EPIPE, 10058):
		return outcomeReset
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return outcomeClosed
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return outcomeTimeout
	}
	return outcomeFailed
}

// isErrno compares with the error number of Windows Sockets as well, which package syscall does not
// name.
func isErrno(err error, unix, winsock syscall.Errno) bool {
	return errors.Is(err, unix) || errors.Is(err, winsock)
}
