package dsql

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

	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/internal/httpproxy"
	"github.com/dsqlgo/dsql/internal/login"
	"github.com/dsqlgo/dsql/internal/transport"
	"github.com/dsqlgo/dsql/internal/wsconn"
)

// Which ends of an attempt are the network's doing, and which of a WebSocket's may be gone the next time.
func TestIsStopped(t *testing.T) {
	var (
		reset       = &net.OpError{Op: "read", Err: syscall.ECONNRESET}
		refused     = &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED}
		alert       = &net.OpError{Op: "remote error", Err: tls.AlertError(40)}
		unknownName = &net.DNSError{IsNotFound: true}
		noServer    = &net.DNSError{IsTemporary: true}
		certificate = &tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}
		tcp, ws     = transport.TCP, transport.WebSocket
	)
	for name, c := range map[string]struct {
		transport transport.Transport
		phase     login.Phase
		err       error
		proxied   bool
		stopped   bool
		transient bool
	}{
		"no slot":             {tcp, phasePacing, errNoSlot, false, false, false},
		"no credentials":      {tcp, phaseToken, io.EOF, false, false, false},
		"port closed":         {tcp, login.PhaseDial, refused, false, true, true},
		"port filtered":       {tcp, login.PhaseDial, context.DeadlineExceeded, false, true, true},
		"no name":             {tcp, login.PhaseDial, unknownName, false, false, false},
		"no name, but proxy":  {tcp, login.PhaseDial, unknownName, true, true, false},
		"no name server":      {tcp, login.PhaseDial, noServer, false, false, true},
		"SSLRequest reset":    {tcp, login.PhaseSSLRequest, reset, false, true, true},
		"SSLRequest refused":  {tcp, login.PhaseSSLRequest, fmt.Errorf("%w: 'N'", login.ErrNoTLS), false, false, false},
		"TLS reset":           {tcp, login.PhaseTLS, reset, false, true, true},
		"TLS hung up":         {tcp, login.PhaseTLS, io.EOF, false, true, true},
		"TLS in silence":      {tcp, login.PhaseTLS, os.ErrDeadlineExceeded, false, true, true},
		"TLS alert":           {tcp, login.PhaseTLS, alert, false, false, false},
		"another certificate": {tcp, login.PhaseTLS, certificate, false, false, false},
		"login reset":         {tcp, login.PhaseLogin, reset, false, false, true},

		"WebSocket, port closed":         {ws, login.PhaseDial, refused, false, true, true},
		"WebSocket, no name":             {ws, login.PhaseDial, unknownName, false, false, false},
		"WebSocket, proxy says 407":      {ws, login.PhaseDial, &httpproxy.StatusError{Code: 407}, true, true, false},
		"WebSocket, proxy says 503":      {ws, login.PhaseDial, &httpproxy.StatusError{Code: 503}, true, true, true},
		"WebSocket, no proxy's URL":      {ws, login.PhaseDial, fmt.Errorf("%w: x", httpproxy.ErrEnvironment), true, true, false},
		"WebSocket, proxy's certificate": {ws, login.PhaseDial, certificate, true, true, false},
		"WebSocket, another certificate": {ws, login.PhaseTLS, certificate, false, true, false},
		"WebSocket, TLS reset":           {ws, login.PhaseTLS, reset, false, true, true},
		"upgrade reset":                  {ws, login.PhaseUpgrade, reset, false, true, true},
		"upgrade hung up":                {ws, login.PhaseUpgrade, io.EOF, false, true, true},
		"upgrade forbidden":              {ws, login.PhaseUpgrade, &wsconn.StatusError{Code: 403}, false, true, false},
		"upgrade answered by a page":     {ws, login.PhaseUpgrade, &wsconn.StatusError{Code: 200}, false, true, false},
		"upgrade unavailable":            {ws, login.PhaseUpgrade, &wsconn.StatusError{Code: 503}, false, true, true},
		"no WebSocket":                   {ws, login.PhaseUpgrade, fmt.Errorf("%w: x", wsconn.ErrNoWebSocket), false, true, false},
		"login over WebSocket reset":     {ws, login.PhaseLogin, reset, false, false, true},
		"WebSocket closed in the login":  {ws, login.PhaseLogin, errors.New("status 1011"), false, false, true},
	} {
		t.Run(name, func(t *testing.T) {
			require.Equal(t, c.stopped, isStopped(c.transport, c.phase, c.err, c.proxied))
			require.Equal(t, c.transient, isTransient(c.phase, c.err))
		})
	}
}
