package wsserver

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
)

const request = "GET / HTTP/1.1\r\nHost: example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"

// FuzzRead: this server and another implementation read the same from the same frames.
func FuzzRead(f *testing.F) {
	f.Add([]byte{0x82, 0x83, 1, 2, 3, 4, 'a', 'b', 'c', 0x82, 0x80, 0, 0, 0, 0, 0x89, 0x81, 9, 9, 9, 9, 'p', 0x88, 0x82, 0, 0, 0, 0, 3, 232})
	f.Add([]byte{0x02, 0x81, 1, 2, 3, 4, 'a', 0x00, 0x81, 5, 6, 7, 8, 'b', 0x80, 0x80, 0, 0, 0, 0})
	f.Add([]byte{0x82, 0xfe, 0, 10, 1, 2, 3, 4, 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j'})
	f.Add([]byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 1, 1, 2, 3, 4, 'x'})
	f.Add([]byte{0x82, 1, 'x'})
	f.Fuzz(func(t *testing.T, frames []byte) {
		conn := &recorded{in: io.MultiReader(bytes.NewReader([]byte(request)), bytes.NewReader(frames))}
		c, err := Accept(conn, bufio.NewReader(conn))
		require.NoError(t, err)
		got, err := io.ReadAll(c)

		want, wantErr := readOther(t, frames)
		require.True(t, bytes.HasPrefix(got, want))
		if wantErr == nil {
			require.NoError(t, err)
			require.Equal(t, string(want), string(got))
		}
	})
}

// readOther is what package websocket reads; the error is nil after a close frame.
func readOther(t *testing.T, frames []byte) (data []byte, err error) {
	conn := &recorded{in: bytes.NewReader(frames)}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader([]byte(request))))
	require.NoError(t, err)
	ws, err := websocket.Accept(&hijacked{conn: conn}, r, nil)
	require.NoError(t, err)
	defer ws.CloseNow()
	ws.SetReadLimit(-1)
	for {
		kind, message, err := ws.Reader(context.Background())
		if err == nil && kind != websocket.MessageBinary {
			return data, io.ErrUnexpectedEOF
		}
		if websocket.CloseStatus(err) != -1 {
			return data, nil
		}
		if err != nil {
			return data, err
		}
		payload, err := io.ReadAll(message)
		if err != nil {
			return data, err // it does not decode what is cut off
		}
		data = append(data, payload...)
	}
}

// recorded is a connection that reads what was recorded, and writes to nowhere.
type recorded struct {
	net.Conn
	in io.Reader
}

func (r *recorded) Read(p []byte) (int, error)       { return r.in.Read(p) }
func (r *recorded) Write(p []byte) (int, error)      { return len(p), nil }
func (r *recorded) Close() error                     { return nil }
func (r *recorded) SetWriteDeadline(time.Time) error { return nil }

type hijacked struct {
	http.ResponseWriter
	conn net.Conn
}

func (h *hijacked) Header() http.Header { return http.Header{} }
func (h *hijacked) WriteHeader(int)     {}
func (h *hijacked) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return h.conn, bufio.NewReadWriter(bufio.NewReader(h.conn), bufio.NewWriter(h.conn)), nil
}
