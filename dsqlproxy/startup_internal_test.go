package dsqlproxy

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"
)

// packet frames a first packet.
func packet(code uint32, body string) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(8+len(body)))
	return append(binary.BigEndian.AppendUint32(b, code), body...)
}

const startupBody = "user\x00admin\x00database\x00postgres\x00application_name\x00psql\x00\x00"

func readBytes(b []byte) (*firstPacket, error) {
	return readFirstPacket(bufio.NewReader(bytes.NewReader(b)))
}

func TestReadFirstPacket(t *testing.T) {
	p, err := readBytes(packet(sslRequestCode, ""))
	require.NoError(t, err)
	require.True(t, p.sslRequest)

	p, err = readBytes(packet(gssEncRequestCode, ""))
	require.NoError(t, err)
	require.True(t, p.gssEncRequest)

	p, err = readBytes(packet(cancelRequestCode, "\x00\x00\x00\x07secr"))
	require.NoError(t, err)
	require.Equal(t, []byte("\x00\x00\x00\x07secr"), p.cancel)

	p, err = readBytes(packet(protocol30, startupBody))
	require.NoError(t, err)
	require.Equal(t, &startup{user: "admin", database: "postgres", settings: map[string]string{"application_name": "psql"}}, p.startup)

	p, err = readBytes(packet(protocol30|2, "user\x00app\x00_pq_.future\x00on\x00\x00"))
	require.NoError(t, err)
	require.Equal(t, &startup{minor: 2, user: "app", settings: map[string]string{}, unknown: []string{"_pq_.future"}}, p.startup)
}

// What is not PostgreSQL's protocol gets no answer, and no length is believed.
func TestReadFirstPacketMalformed(t *testing.T) {
	for name, b := range map[string][]byte{
		"HTTP GET":               []byte("GET / HTTP/1.1\r\nHost: localhost:5432\r\n\r\n"),
		"HTTP POST":              []byte("POST / HTTP/1.1\r\nHost: localhost:5432\r\n\r\n"),
		"HTTP/2 preface":         []byte("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
		"ClientHello":            {tlsHandshakeRecord, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3},
		"STUN":                   {0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12},
		"too short":              {0, 0, 0, 7, 0, 3, 0, 0},
		"too long":               binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, maxStartup+1), protocol30),
		"longest":                {0xff, 0xff, 0xff, 0xff, 0, 3, 0, 0},
		"unknown code":           packet(77, ""),
		"SSLRequest with a body": packet(sslRequestCode, "x"),
		"CancelRequest, short":   packet(cancelRequestCode, "\x00\x00\x00"),
		"CancelRequest, long":    packet(cancelRequestCode, string(make([]byte, 5+maxCancelKey))),
		"no end":                 packet(protocol30, "user\x00admin\x00"),
		"ends in a name":         packet(protocol30, "user\x00"),
		"bytes behind the end":   packet(protocol30, startupBody+"x"),
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readBytes(b)
			require.ErrorIs(t, err, errMalformed)
			require.False(t, errors.As(err, new(*fatal)), "it would be answered")
		})
	}
}

func TestReadFirstPacketRefused(t *testing.T) {
	for name, c := range map[string]struct {
		b    []byte
		code string
	}{
		"protocol 2":  {packet(2<<16, "user\x00admin\x00\x00"), "0A000"},
		"no user":     {packet(protocol30, "database\x00postgres\x00\x00"), "28000"},
		"empty user":  {packet(protocol30, "user\x00\x00\x00"), "28000"},
		"no settings": {packet(protocol30, "\x00"), "28000"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := readBytes(c.b)
			reply := new(fatal)
			require.ErrorAs(t, err, &reply)
			require.Equal(t, c.code, reply.response.Code)
			require.Equal(t, "FATAL", reply.response.Severity)
		})
	}
}

// FuzzFirstPacket: whatever a client sends first, there is no panic, and a packet that is taken is
// one.
func FuzzFirstPacket(f *testing.F) {
	f.Add(packet(sslRequestCode, ""))
	f.Add(packet(cancelRequestCode, "\x00\x00\x00\x07secr"))
	f.Add(packet(protocol30, startupBody))
	f.Add(packet(protocol30|2, "user\x00app\x00_pq_.future\x00on\x00\x00"))
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := readBytes(b)
		if err != nil {
			return
		}
		require.LessOrEqual(t, int(binary.BigEndian.Uint32(b)), maxStartup)
		if p.startup != nil {
			require.NotEmpty(t, p.startup.user)
			kept, _ := dropSettings(p.startup.settings)
			require.LessOrEqual(t, len(kept), len(p.startup.settings))
		}
	})
}
