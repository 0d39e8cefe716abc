package dsqlproxy

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/stretchr/testify/require"
)

// FuzzClient: whatever a client sends until its session begins, it is answered by N for requests
// for encryption, by messages of PostgreSQL's protocol, or not at all; and the connection ends.
func FuzzClient(f *testing.F) {
	initial, err := (&pgproto3.SASLInitialResponse{AuthMechanism: scramMechanism, Data: []byte(rfc7677.clientFirst)}).Encode(nil)
	require.NoError(f, err)
	start := packet(protocol30, startupBody)
	f.Add([]byte("GET / HTTP/1.1\r\n\r\n"))
	f.Add(packet(cancelRequestCode, "\x00\x00\x00\x07secr"))
	f.Add(bytes.Join([][]byte{packet(sslRequestCode, ""), packet(gssEncRequestCode, ""), packet(protocol30|2, startupBody)}, nil))
	f.Add(bytes.Join([][]byte{start, initial, message('p', rfc7677.clientFinal)}, nil))
	f.Add(bytes.Join([][]byte{start, initial, message('p', "c=biws,r=,p=")}, nil))
	f.Add(append(start, message('Q', "select 1\x00")...))
	secret, err := newScramSecret("pencil")
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, sent []byte) {
		accepting, drain := context.WithCancel(t.Context())
		s := &server{log: slog.New(slog.DiscardHandler), ctx: t.Context(), accepting: accepting, secret: secret, keys: map[string]*clusterSession{}, proofs: make(chan struct{}, 1)}
		conn, proxy := net.Pipe()
		c := newClient(s, proxy)
		c.local = true
		served := make(chan struct{})
		go func() {
			defer close(served)
			c.serve()
		}()
		go func() {
			_, _ = conn.Write(sent)
			drain() // a wrong password is answered at once
			proxy.SetReadDeadline(aLongTimeAgo)
		}()
		checkAnswers(t, conn)
		<-served
	})
}

// checkAnswers reads everything that a client gets.
func checkAnswers(t *testing.T, conn net.Conn) {
	defer conn.Close()
	for {
		var kind [1]byte
		if _, err := io.ReadFull(conn, kind[:]); err != nil {
			return
		}
		if kind[0] == 'N' {
			continue // no NoticeResponse is sent before a session
		}
		require.Contains(t, "REv", string(kind[:]))
		var length [4]byte
		_, err := io.ReadFull(conn, length[:])
		require.NoError(t, err)
		_, err = io.CopyN(io.Discard, conn, int64(binary.BigEndian.Uint32(length[:])-4))
		require.NoError(t, err)
		if kind[0] == 'E' {
			return
		}
	}
}

// FuzzRelay: what either side sends reaches the other as it is, however it is cut, up to the first
// message that is none.
func FuzzRelay(f *testing.F) {
	f.Add(append(selectOne, message('X', "")...), answerOne, uint64(1))
	f.Add(bytes.Join([][]byte{message('P', "\x00select 1\x00\x00\x00"), message('B', ""), message('E', ""), message('S', "")}, nil), append(message('1', ""), readyForQuery...), uint64(2))
	f.Add([]byte{'Q', 0, 0, 0, 1}, []byte{'Z', 0, 0, 0, 0}, uint64(3))
	f.Fuzz(func(t *testing.T, requests, answers []byte, seed uint64) {
		toCluster, toClient := &sink{}, &sink{}
		r := newRelay(toClient, &clusterSession{conn: toCluster, hijacked: &pgconn.HijackedConn{}})
		random := rand.New(rand.NewPCG(seed, 0))
		pieces := func(b []byte, pass func([]byte) error) (err error) {
			for len(b) > 0 && err == nil {
				n := min(1+random.IntN(20), len(b))
				err, b = pass(b[:n]), b[n:]
			}
			return err
		}
		err := pieces(requests, r.request)
		require.True(t, bytes.HasPrefix(requests, toCluster.Bytes()))
		require.True(t, err == nil && toCluster.Len() == len(requests) || errors.Is(err, errMessageLength), "%v", err)
		err = pieces(answers, func(b []byte) error { return r.deliver(b, nil) })
		require.True(t, bytes.HasPrefix(answers, toClient.Bytes()))
		require.True(t, err == nil && toClient.Len() == len(answers) || errors.Is(err, errMessageLength), "%v", err)
		require.GreaterOrEqual(t, r.pending, 0)
	})
}

// sink is a connection that keeps what is written.
type sink struct {
	net.Conn
	bytes.Buffer
}

func (s *sink) Write(b []byte) (int, error) { return s.Buffer.Write(b) }
func (s *sink) Read(b []byte) (int, error)  { return s.Buffer.Read(b) }
func (s *sink) SetDeadline(time.Time) error { return nil }
func (s *sink) Close() error                { return nil }
