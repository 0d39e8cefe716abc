package login

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
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

func TestReadAnswers(t *testing.T) {
	long := &pgproto3.ParameterStatus{Name: "x", Value: strings.Repeat("x", maxMessage-100)}
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
		"no password wanted, but early": {early: true, server: []pgproto3.BackendMessage{authOk, ready}, is: ErrTokenUnread},
		"SCRAM wanted, but early":       {early: true, server: []pgproto3.BackendMessage{&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}}}, is: ErrTokenUnread},
		"SCRAM wanted":                  {server: []pgproto3.BackendMessage{&pgproto3.AuthenticationSASL{AuthMechanisms: []string{"SCRAM-SHA-256"}}}, is: ErrProtocol},
		"MD5 wanted":                    {server: []pgproto3.BackendMessage{&pgproto3.AuthenticationMD5Password{}}, is: ErrProtocol},
		"asked twice":                   {server: []pgproto3.BackendMessage{askPassword, askPassword}, is: ErrProtocol, asks: 1},
		"accepted twice":                {server: []pgproto3.BackendMessage{askPassword, authOk, authOk}, is: ErrProtocol, asks: 1},
		"negotiated, noticed":           {server: []pgproto3.BackendMessage{newProtocol, notice, askPassword, notice, authOk, notice, ready}, replay: []pgproto3.BackendMessage{newProtocol, notice, notice, authOk, notice, ready}, asks: 1},
		"refused":                       {server: []pgproto3.BackendMessage{askPassword, denied}, is: &pgconn.PgError{}, asks: 1},
		"refused after AuthenticationOk": {server: []pgproto3.BackendMessage{askPassword, authOk, &pgproto3.ErrorResponse{Severity: "FATAL", Code: "53300", Message: "too many"}},
			is: &pgconn.PgError{}, asks: 1},
		"status before AuthenticationOk": {server: []pgproto3.BackendMessage{status}, is: ErrProtocol},
		"ready before AuthenticationOk":  {server: []pgproto3.BackendMessage{ready}, is: ErrProtocol},
		"rows":                           {server: []pgproto3.BackendMessage{authOk, &pgproto3.DataRow{}}, is: ErrProtocol},
		"ends":                           {server: []pgproto3.BackendMessage{askPassword}, is: io.EOF, asks: 1},
		"ends in a message":              {raw: []byte{'R', 0, 0, 0, 8, 0, 0}, is: io.ErrUnexpectedEOF},
		"ends in a header":               {raw: []byte{'R', 0}, is: io.ErrUnexpectedEOF},
		"1 GiB":                          {raw: []byte{'S', 0x40, 0, 0, 0, 1, 2, 3}, is: ErrProtocol},
		"length 3":                       {raw: []byte{'S', 0, 0, 0, 3}, is: ErrProtocol},
		"short authentication request":   {raw: []byte{'R', 0, 0, 0, 6, 0, 0}, is: ErrProtocol},
		"too much in all":                {server: []pgproto3.BackendMessage{authOk, long, long, long, long, long, ready}, is: ErrProtocol},
		"HTTP":                           {raw: []byte("HTTP/1.1 400 Bad Request\r\n\r\n"), is: ErrProtocol},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			asks := 0
			replay, err := ReadAnswers(bytes.NewReader(append(encode(t, c.server...), c.raw...)), func() error { asks++; return nil }, c.early)
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

// Bytes after ReadyForQuery are kept.
func TestReadAnswersKeepsWhatFollows(t *testing.T) {
	stream := encode(t, askPassword, authOk, ready, notice)
	replay, err := ReadAnswers(bytes.NewReader(stream), func() error { return nil }, false)
	require.NoError(t, err)
	require.Equal(t, encode(t, authOk, ready, notice), replay)
}

// FuzzReadAnswers checks that any stream of a server ends without a panic, and that no more is kept
// than the limits allow.
func FuzzReadAnswers(f *testing.F) {
	f.Add(encode(f, askPassword, authOk, status, keyData, ready), false)
	f.Add(encode(f, newProtocol, notice, askPassword, denied), true)
	f.Add([]byte{'R', 0x40, 0, 0, 0}, false)
	f.Add([]byte{'E', 0, 0, 0, 6, 'S', 0}, false)
	f.Fuzz(func(t *testing.T, stream []byte, early bool) {
		r := bytes.NewReader(stream)
		replay, err := ReadAnswers(r, func() error { return nil }, early)
		if err != nil {
			require.Empty(t, replay)
			return
		}
		require.LessOrEqual(t, len(replay), maxAnswers+1024)
		require.True(t, bytes.Contains(stream, []byte{'Z'}))
		require.True(t, bytes.HasSuffix(stream[:len(stream)-r.Len()], replay[len(replay)-6:]))
	})
}

// Only lengths that a message of a login may have are accepted.
func TestMessageLength(t *testing.T) {
	for length, ok := range map[uint32]bool{3: false, 4: true, maxMessage: true, maxMessage + 1: false, 1 << 30: false, 1<<32 - 1: false} {
		header := binary.BigEndian.AppendUint32([]byte{'N'}, length)
		r := &countingReader{rest: header}
		_, _, err := readMessage(r)
		require.Equal(t, ok, !errors.Is(err, ErrProtocol), "%d", length)
		require.LessOrEqual(t, r.wanted, maxMessage)
	}
}

// countingReader returns rest, and remembers the largest read.
type countingReader struct {
	rest   []byte
	wanted int
}

func (h *countingReader) Read(b []byte) (int, error) {
	h.wanted = max(h.wanted, len(b))
	if len(h.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, h.rest)
	h.rest = h.rest[n:]
	return n, nil
}
