package wsconn

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// dial returns a client whose peer is package websocket's server, over TCP and TLS, as handle uses it.
func dial(t *testing.T, handle func(ctx context.Context, ws *websocket.Conn)) *Conn {
	done := make(chan struct{})
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer close(done)
		ws, err := websocket.Accept(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		defer ws.CloseNow()
		ws.SetReadLimit(-1)
		handle(context.Background(), ws)
	}))
	t.Cleanup(server.Close)
	config := server.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.ServerName, config.NextProtos = "example.com", []string{Protocol}
	raw := dialTLS(t, server, config)
	c, err := Upgrade(t.Context(), raw, "example.com")
	require.NoError(t, err)
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return c
}

// In whatever frames the bytes come, they are the same stream.
func TestReadFrames(t *testing.T) {
	data := []byte("frames are no messages, and messages are no frames")
	send := map[string]func(ctx context.Context, ws *websocket.Conn) error{
		"one frame": func(ctx context.Context, ws *websocket.Conn) error {
			return ws.Write(ctx, websocket.MessageBinary, data)
		},
		"a frame a byte": func(ctx context.Context, ws *websocket.Conn) error {
			for i := range data {
				if err := ws.Write(ctx, websocket.MessageBinary, data[i:i+1]); err != nil {
					return err
				}
			}
			return nil
		},
		"empty frames between": func(ctx context.Context, ws *websocket.Conn) error {
			for i := range data {
				if err := errors.Join(ws.Write(ctx, websocket.MessageBinary, nil), ws.Write(ctx, websocket.MessageBinary, data[i:i+1])); err != nil {
					return err
				}
			}
			return ws.Write(ctx, websocket.MessageBinary, nil)
		},
		"one message in fragments": func(ctx context.Context, ws *websocket.Conn) error {
			w, err := ws.Writer(ctx, websocket.MessageBinary)
			for i := range data {
				_, failed := w.Write(data[i : i+1])
				err = errors.Join(err, failed)
			}
			return errors.Join(err, w.Close())
		},
	}
	for name, send := range send {
		t.Run(name, func(t *testing.T) {
			c := dial(t, func(ctx context.Context, ws *websocket.Conn) {
				if err := send(ctx, ws); err != nil {
					t.Error(err)
				}
				ws.Close(websocket.StatusNormalClosure, "")
			})
			got, err := io.ReadAll(c)
			require.NoError(t, err)
			require.Equal(t, string(data), string(got))
		})
	}
	t.Run("cut at every byte", func(t *testing.T) {
		c := dial(t, func(ctx context.Context, ws *websocket.Conn) {
			for cut := range data {
				if err := errors.Join(ws.Write(ctx, websocket.MessageBinary, data[:cut]), ws.Write(ctx, websocket.MessageBinary, data[cut:])); err != nil {
					t.Error(err)
				}
			}
			ws.Close(websocket.StatusGoingAway, "")
		})
		got, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Equal(t, strings.Repeat(string(data), len(data)), string(got))
	})
}

// What is large goes through in both directions at once: each side reads while it writes.
func TestLargeTransfer(t *testing.T) {
	data := make([]byte, 12<<20)
	rand.Read(data)
	c := dial(t, func(ctx context.Context, ws *websocket.Conn) {
		// One frame, longer than anything that is buffered.
		if err := ws.Write(ctx, websocket.MessageBinary, data); err != nil {
			t.Error(err)
		}
		var longest int
		received := sha256.New()
		for left := len(data); left > 0; {
			_, message, err := ws.Read(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			longest = max(longest, len(message))
			received.Write(message)
			left -= len(message)
		}
		if longest > maxFrame {
			t.Errorf("a frame of %d bytes", longest)
		}
		if err := ws.Write(ctx, websocket.MessageBinary, received.Sum(nil)); err != nil {
			t.Error(err)
		}
	})
	written := make(chan error, 1)
	go func() {
		n, err := c.Write(data)
		if n != len(data) {
			err = errors.Join(err, io.ErrShortWrite)
		}
		written <- err
	}()
	got := make([]byte, len(data)+sha256.Size)
	_, err := io.ReadFull(c, got)
	require.NoError(t, err)
	require.NoError(t, <-written)
	require.True(t, bytes.Equal(data, got[:len(data)]))
	sum := sha256.Sum256(data)
	require.Equal(t, sum[:], got[len(data):])
}

// A read deadline can pass anywhere, also in the middle of a frame, and nothing is lost.
func TestReadDeadlineKeepsConnection(t *testing.T) {
	next := make(chan []byte)
	c := dialRaw(t, func(conn net.Conn) {
		for b := range next {
			conn.Write(b)
		}
	})
	frame := append([]byte{0x82, 126, 0x01, 0x00}, bytes.Repeat([]byte("x"), 256)...)
	var got []byte
	buffer := make([]byte, 300)
	for i := range frame {
		c.SetReadDeadline(time.Now().Add(-time.Second))
		_, err := c.Read(buffer)
		require.ErrorIs(t, err, os.ErrDeadlineExceeded)
		var network net.Error
		require.ErrorAs(t, err, &network)
		require.True(t, network.Timeout())
		next <- frame[i : i+1]
		if i%16 == 0 { // a deadline that passes in Read
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
			if _, err := c.Read(buffer); i < len(frame)-1 {
				require.ErrorIs(t, err, os.ErrDeadlineExceeded)
			}
		}
	}
	close(next)
	c.SetReadDeadline(time.Now().Add(time.Minute))
	for len(got) < 256 {
		n, err := c.Read(buffer)
		require.NoError(t, err)
		got = append(got, buffer[:n]...)
	}
	require.Equal(t, frame[4:], got)
}

// pgx interrupts a Read by setting a deadline of the past from another goroutine.
func TestDeadlineInterruptsRead(t *testing.T) {
	c := dial(t, func(ctx context.Context, ws *websocket.Conn) {
		ws.Read(ctx)
		if err := ws.Write(ctx, websocket.MessageBinary, []byte("late")); err != nil {
			t.Error(err)
		}
	})
	reading := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		reading <- err
	}()
	c.SetDeadline(time.Unix(1, 0))
	require.ErrorIs(t, <-reading, os.ErrDeadlineExceeded)
	_, err := c.Write([]byte("x"))
	require.ErrorIs(t, err, os.ErrDeadlineExceeded)

	c.SetDeadline(time.Time{})
	_, err = c.Write([]byte("x"))
	require.NoError(t, err, "a deadline of the past has killed the connection")
	got := make([]byte, 4)
	_, err = io.ReadFull(c, got)
	require.NoError(t, err)
	require.Equal(t, "late", string(got))
}

// A Write that meets its deadline, or Close, ends.
func TestBlockedWrite(t *testing.T) {
	for name, interrupt := range map[string]func(c *Conn){
		"deadline set before": func(c *Conn) {},
		"deadline set later":  func(c *Conn) { c.SetWriteDeadline(time.Now()) },
		"Close":               func(c *Conn) { c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			end := make(chan struct{})
			c := dialRaw(t, func(net.Conn) { <-end }) // does not read
			defer close(end)
			if name == "deadline set before" {
				c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
			}
			writing := make(chan error, 1)
			go func() {
				_, err := c.Write(make([]byte, 64<<20))
				writing <- err
			}()
			require.Eventually(t, func() bool { return c.written.Load() > 2 || len(writing) > 0 }, 10*time.Second, time.Millisecond)
			interrupt(c)
			err := <-writing
			if name == "Close" {
				require.ErrorIs(t, err, net.ErrClosed)
				return
			}
			var network net.Error
			require.ErrorAs(t, err, &network)
			require.True(t, network.Timeout())
		})
	}
}

// Close says goodbye, does not wait for an answer to it, and ends Read.
func TestClose(t *testing.T) {
	received := make(chan []byte, 1)
	c := dialRaw(t, func(conn net.Conn) {
		b, _ := io.ReadAll(conn) // no answer
		received <- b
	})
	reading := make(chan error, 1)
	go func() {
		_, err := c.Read(make([]byte, 1))
		reading <- err
	}()
	began := time.Now()
	require.NoError(t, c.Close())
	require.Less(t, time.Since(began), closeTimeout)
	require.ErrorIs(t, <-reading, net.ErrClosed)
	frame := <-received
	require.Len(t, frame, 8)
	require.Equal(t, []byte{0x88, 0x82}, frame[:2], "not a masked close frame with a status")
	require.Equal(t, []byte{1000 >> 8, 1000 & 0xff}, []byte{frame[6] ^ frame[2], frame[7] ^ frame[3]})

	require.ErrorIs(t, c.Close(), net.ErrClosed)
	_, err := c.Write([]byte("x"))
	require.ErrorIs(t, err, net.ErrClosed)
	_, err = c.Read(make([]byte, 1))
	require.ErrorIs(t, err, net.ErrClosed)
}

// What a server says before it leaves is read, and then how it left: FATAL errors come that way.
func TestPeerEnds(t *testing.T) {
	last := []byte{0x82, 3, 'b', 'y', 'e'}
	cases := map[string]struct {
		end  []byte
		is   error
		text string
	}{
		"normal closure":      {end: []byte{0x88, 2, 1000 >> 8, 1000 & 0xff}, is: io.EOF},
		"going away":          {end: []byte{0x88, 2, 1001 >> 8, 1001 & 0xff}, is: io.EOF},
		"no status":           {end: []byte{0x88, 0}, is: io.EOF},
		"internal error":      {end: append([]byte{0x88, 6, 1011 >> 8, 1011 & 0xff}, "oops"...), text: `the server closed the WebSocket with status 1011 ("oops")`},
		"no close frame":      {is: io.EOF},
		"in a frame's header": {end: []byte{0x82}, is: io.EOF},
		"text":                {end: []byte{0x81, 1, 'x'}, text: "text frame"},
		"unknown opcode":      {end: []byte{0x83, 0}, text: "unknown opcode"},
		"reserved bit":        {end: []byte{0xc2, 0}, text: "rsv"},
		"continues nothing":   {end: []byte{0x80, 0}, text: "continuation"},
	}
	for name, end := range cases {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, func(conn net.Conn) { conn.Write(append(last, end.end...)) })
			got, err := io.ReadAll(c)
			require.Equal(t, "bye", string(got))
			if end.is == io.EOF {
				require.NoError(t, err)
				return
			}
			require.ErrorContains(t, err, end.text)
			var network net.Error
			require.ErrorAs(t, err, &network)
			require.False(t, network.Timeout())
		})
	}
	t.Run("reset", func(t *testing.T) {
		c := dialRaw(t, func(conn net.Conn) {
			tcp := conn.(*net.TCPConn)
			tcp.SetLinger(0)
			tcp.Close()
		})
		_, err := io.ReadAll(c)
		require.ErrorIs(t, err, syscall.ECONNRESET)
		require.Eventually(t, func() bool { _, err = c.Write([]byte("x")); return err != nil }, 10*time.Second, time.Millisecond)
	})
}

func TestAddresses(t *testing.T) {
	c := dial(t, func(ctx context.Context, ws *websocket.Conn) { ws.Read(ctx) })
	require.Equal(t, Network, c.RemoteAddr().Network())
	require.Equal(t, c.stream.conn.RemoteAddr().String(), c.RemoteAddr().String())
	require.NotEqual(t, c.LocalAddr().String(), c.RemoteAddr().String())
	n, err := c.Read(nil)
	require.NoError(t, err)
	require.Zero(t, n)
}
