package dsqldoctor

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"syscall"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/internal/login"
)

func TestOutcomeOf(t *testing.T) {
	for want, errs := range map[outcome][]error{
		outcomeOK:             {nil},
		outcomeTimeout:        {context.DeadlineExceeded, os.ErrDeadlineExceeded, &net.OpError{Op: "read", Err: os.ErrDeadlineExceeded}, syscall.ETIMEDOUT},
		outcomeReset:          {&net.OpError{Op: "read", Err: os.NewSyscallError("read", syscall.ECONNRESET)}, syscall.EPIPE, syscall.Errno(10054)},
		outcomeClosed:         {io.EOF, fmt.Errorf("reading: %w", io.ErrUnexpectedEOF)},
		outcomePortClosed:     {&net.OpError{Op: "dial", Err: os.NewSyscallError("connect", syscall.ECONNREFUSED)}, syscall.Errno(10061)},
		outcomeNoRoute:        {syscall.ENETUNREACH, syscall.EHOSTUNREACH, syscall.Errno(10051)},
		outcomeUnknownName:    {&net.DNSError{IsNotFound: true}},
		outcomeResolverFailed: {&net.DNSError{IsTimeout: true}, &net.DNSError{IsTemporary: true}},
		outcomeBadCertificate: {&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}},
		outcomeTLSAlert:       {&net.OpError{Op: "remote error", Err: errors.New("tls: unrecognized name")}},
		outcomeNotTLS:         {tls.RecordHeaderError{Msg: "first record does not look like a TLS handshake"}, fmt.Errorf("%w: the answer is 'N'", login.ErrNoTLS)},
		outcomeNotDSQL:        {fmt.Errorf("%w: SCRAM", login.ErrProtocol)},
		outcomeRefused:        {&pgconn.PgError{Code: "28000"}},
		outcomeFailed:         {errors.New("anything"), context.Canceled},
	} {
		for _, err := range errs {
			require.Equal(t, want, outcomeOf(err), "%v", err)
		}
	}
}
