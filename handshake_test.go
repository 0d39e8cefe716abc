package dsql

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

func encode(t testing.TB, messages ...pgproto3.BackendMessage) []byte {
	t.Helper()
	var b []byte
	for _, m := range messages {
		var err error
		b, err = m.Encode(b)
		require.NoError(t, err)
	}
	return b
}

var (
	askPassword = &pgproto3.AuthenticationCleartextPassword{}
	authOk      = &pgproto3.AuthenticationOk{}
	ready       = &pgproto3.ReadyForQuery{TxStatus: 'I'}
	status      = &pgproto3.ParameterStatus{Name: "server_version", Value: "16.15"}
	keyData     = &pgproto3.BackendKeyData{ProcessID: 7, SecretKey: []byte{1, 2, 3, 4}}
	notice      = &pgproto3.NoticeResponse{Severity: "NOTICE", Message: "hello"}
	newProtocol = &pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: 0}
	denied      = &pgproto3.ErrorResponse{Severity: "FATAL", Code: "28000", Message: "unable to accept connection, access denied"}
)

func TestReadLogin(t *testing.T) {
	long := &pgproto3.ParameterStatus{Name: "x", Value: strings.Repeat("x", maxLoginMessage-100)}
	cases := map[string]struct {
		server []pgproto3.BackendMessage
		raw    []byte // behind server
		early  bool
		replay []pgproto3.BackendMessage // nil: an error
		is     error
		asks   int
	}{
		"usual":                         {server: []pgproto3.BackendMessage{askPassword, authOk, status, keyData, ready}, replay: []pgproto3.BackendMessage{authOk, status, keyData, ready}, asks: 1},
		"early":                         {early: true, server: []pgproto3.BackendMessage{askPassword, authOk, ready}, replay: []pgproto3.BackendMessage{authOk, ready}, asks: 1},
		"no password wanted":            {server: []pgproto3.BackendMessage{authOk, ready}, replay: []pgproto3.BackendMessage{authOk, ready}},
		"no password wanted, but early": {early: true, server: []pgproto3.BackendMessage{authOk, ready}, is: errTokenUnread},
		"SCRAM wanted, but early":       {early: true, server: []pgproto3.BackendMessage{&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}}}, is: errTokenUnread},
		"SCRAM wanted":                  {server: []pgproto3.BackendMessage{&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}}}, is: errProtocol},
		"MD5 wanted":                    {server: []pgproto3.BackendMessage{&pgproto3.AuthenticationMD5Password{}}, is: errProtocol},
		"asked twice":                   {server: []pgproto3.BackendMessage{askPassword, askPassword}, is: errProtocol, asks: 1},
		"accepted twice":                {server: []pgproto3.BackendMessage{askPassword, authOk, authOk}, is: errProtocol, asks: 1},
		"negotiated, noticed":           {server: []pgproto3.BackendMessage{newProtocol, notice, askPassword, notice, authOk, notice, ready}, replay: []pgproto3.BackendMessage{newProtocol, notice, notice, authOk, notice, ready}, asks: 1},
		"refused":                       {server: []pgproto3.BackendMessage{askPassword, denied}, is: &pgconn.PgError{}, asks: 1},
		"refused after AuthenticationOk": {server: []pgproto3.BackendMessage{askPassword, authOk, &pgproto3.ErrorResponse{Severity: "FATAL", Code: "53300", Message: "too many"}},
			is: &pgconn.PgError{}, asks: 1},
		"status before AuthenticationOk": {server: []pgproto3.BackendMessage{status}, is: errProtocol},
		"ready before AuthenticationOk":  {server: []pgproto3.BackendMessage{ready}, is: errProtocol},
		"rows":                           {server: []pgproto3.BackendMessage{authOk, &pgproto3.DataRow{}}, is: errProtocol},
		"ends":                           {server: []pgproto3.BackendMessage{askPassword}, is: io.EOF, asks: 1},
		"ends in a message":              {raw: []byte{'R', 0, 0, 0, 8, 0, 0}, is: io.ErrUnexpectedEOF},
		"ends in a header":               {raw: []byte{'R', 0}, is: io.ErrUnexpectedEOF},
		"1 GiB":                          {raw: []byte{'S', 0x40, 0, 0, 0, 1, 2, 3}, is: errProtocol},
		"length 3":                       {raw: []byte{'S', 0, 0, 0, 3}, is: errProtocol},
		"short authentication request":   {raw: []byte{'R', 0, 0, 0, 6, 0, 0}, is: errProtocol},
		"too much in all":                {server: []pgproto3.BackendMessage{authOk, long, long, long, long, long, ready}, is: errProtocol},
		"HTTP":                           {raw: []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), is: errProtocol},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			asks := 0
			replay, err := readLogin(bytes.NewReader(append(encode(t, c.server...), c.raw...)), func() error { asks++; return nil }, c.early)
			require.Equal(t, c.asks, asks)
			if c.replay != nil {
				require.NoError(t, err)
				require.Equal(t, encode(t, c.replay...), replay)
				return
			}
			if _, ok := c.is.(*pgconn.PgError); ok {
				var pgErr *pgconn.PgError
				require.ErrorAs(t, err, &pgErr)
			} else {
				require.ErrorIs(t, err, c.is)
			}
		})
	}
}

// What came behind ReadyForQuery is not lost.
func TestReadLoginKeepsWhatFollows(t *testing.T) {
	stream := encode(t, askPassword, authOk, ready, notice)
	replay, err := readLogin(bytes.NewReader(stream), func() error { return nil }, false)
	require.NoError(t, err)
	require.Equal(t, encode(t, authOk, ready, notice), replay)
}

// FuzzReadLogin: whatever a server sends, there is no panic, an end, and no more held
// than the bounds say.
func FuzzReadLogin(f *testing.F) {
	f.Add(encode(f, askPassword, authOk, status, keyData, ready), false)
	f.Add(encode(f, newProtocol, notice, askPassword, denied), true)
	f.Add([]byte{'R', 0x40, 0, 0, 0}, false)
	f.Add([]byte{'E', 0, 0, 0, 6, 'S', 0}, false)
	f.Fuzz(func(t *testing.T, stream []byte, early bool) {
		r := bytes.NewReader(stream)
		replay, err := readLogin(r, func() error { return nil }, early)
		if err != nil {
			require.Empty(t, replay)
			return
		}
		require.LessOrEqual(t, len(replay), maxLoginReplay+1024)
		require.True(t, bytes.Contains(stream, []byte{'Z'}))
		require.True(t, bytes.HasSuffix(stream[:len(stream)-r.Len()], replay[len(replay)-6:]))
	})
}

// The lengths that a login believes are those of a login.
func TestLoginMessageLength(t *testing.T) {
	for length, ok := range map[uint32]bool{3: false, 4: true, maxLoginMessage: true, maxLoginMessage + 1: false, 1 << 30: false, 1<<32 - 1: false} {
		header := binary.BigEndian.AppendUint32([]byte{'N'}, length)
		r := &hungry{rest: header}
		_, _, err := readLoginMessage(r)
		require.Equal(t, ok, !errors.Is(err, errProtocol), "%d", length)
		require.LessOrEqual(t, r.wanted, maxLoginMessage)
	}
}

// hungry gives header bytes, then ends, and remembers how much it was asked for.
type hungry struct {
	rest   []byte
	wanted int
}

func (h *hungry) Read(b []byte) (int, error) {
	h.wanted = max(h.wanted, len(b))
	if len(h.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}

func TestSessionConnStartup(t *testing.T) {
	expect := pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "admin", "database": "postgres"}}
	same, err := expect.Encode(nil)
	require.NoError(t, err)
	other, err := (&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion30, Parameters: map[string]string{"user": "other", "database": "postgres"}}).Encode(nil)
	require.NoError(t, err)

	t.Run("in pieces", func(t *testing.T) {
		c := &sessionConn{expect: expect, swallow: len(same)}
		for i := range same {
			n, err := c.Write(same[i : i+1])
			require.NoError(t, err)
			require.Equal(t, 1, n)
		}
		require.Zero(t, c.swallow)
	})
	t.Run("another", func(t *testing.T) {
		c := &sessionConn{expect: expect, swallow: len(same)}
		_, err := c.Write(other)
		require.ErrorContains(t, err, "startup message differs")
	})
	t.Run("replay in pieces", func(t *testing.T) {
		c := &sessionConn{replay: []byte("abc")}
		var got []byte
		for range 3 {
			var b [1]byte
			n, err := c.Read(b[:])
			require.NoError(t, err)
			got = append(got, b[:n]...)
		}
		require.Equal(t, "abc", string(got))
	})
}

func TestPasses(t *testing.T) {
	require.False(t, passes(phaseToken, ErrCredentials))
	require.False(t, passes(phaseDial, &net.DNSError{IsNotFound: true}))
	require.True(t, passes(phaseDial, &net.DNSError{IsTimeout: true}))
	require.False(t, passes(phaseDial, &net.AddrError{}))
	require.True(t, passes(phaseDial, &net.OpError{Op: "dial", Err: errors.New("connection refused")}))
	require.True(t, passes(phaseTLS, io.EOF))
	require.True(t, passes(phaseTLS, &net.OpError{Op: "local error", Err: errors.New("tls: bad record MAC")}))
	require.False(t, passes(phaseTLS, errors.New("tls: server selected unsupported protocol version 301")))
	require.False(t, passes(phaseLogin, &net.OpError{Op: "remote error", Err: errors.New("tls: certificate required")}))
	require.False(t, passes(phaseSSLRequest, errNoTLS))
	require.True(t, passes(phaseLogin, io.ErrUnexpectedEOF))
	require.False(t, passes(phaseLogin, errProtocol))
}

func TestClassify(t *testing.T) {
	for message, c := range map[string]struct {
		code, hint string
		is         error
	}{
		"unable to accept connection, access denied": {"28000", "", ErrAccessDenied},
		"UNABLE TO ACCEPT CONNECTION, ACCESS DENIED": {"", "", ErrAccessDenied},
		"something new": {"28000", "", ErrAccessDenied},
		"unable to accept connection, access denied ":             {"28000", "Signature expired: x", ErrTokenExpired},
		"unable to accept connection, access denied.":             {"28000", "Wrong user to action mapping. user: a, action: b", ErrAccessDenied},
		"Unable to accept connection, too many open connections.": {"53300", "", ErrTooManyConnections},
		"too many": {"53300", "", ErrTooManyConnections},
		"Unable to accept connection, rate exceeded.": {"53400", "", ErrRateExceeded},
		"slow down": {"53400", "", ErrRateExceeded},
		"unable to accept connection, waking up cluster, please retry later":  {"XX000", "", ErrClusterWaking},
		"unable to accept connection, sni was not received":                   {"08004", "", ErrInvalidSNI},
		"unable to accept connection, invalid sni":                            {"", "", ErrInvalidSNI},
		`database "x" does not exist`:                                         {"3D000", "", nil},
		"a query's text may say: unable to accept connection, rate exceeded.": {"42601", "", nil},
	} {
		advice, kind := classify(&pgconn.PgError{Code: c.code, Message: message, Hint: c.hint})
		require.Equal(t, c.is, kind, message)
		require.Equal(t, c.is == nil, advice == "", message)
	}
}
