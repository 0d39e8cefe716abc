package wsconn

import (
	"bytes"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// dialPipe returns a client, and its peer's end after the upgrade. Both live in a synctest bubble.
func dialPipe(t *testing.T) (c *Conn, peer net.Conn) {
	conn, peer := net.Pipe()
	go accept(peer)
	c, err := Upgrade(t.Context(), conn, "example.com")
	require.NoError(t, err)
	return c, peer
}

// readFrame reads a short masked frame.
func readFrame(t *testing.T, conn net.Conn) (opcode byte, payload []byte) {
	head := make([]byte, 6)
	_, err := io.ReadFull(conn, head)
	require.NoError(t, err)
	require.Equal(t, byte(0x80), head[0]&0xf0, "a fragment")
	require.Equal(t, byte(0x80), head[1]&0x80, "a frame without a mask")
	payload = make([]byte, head[1]&0x7f)
	_, err = io.ReadFull(conn, payload)
	require.NoError(t, err)
	for i := range payload {
		payload[i] ^= head[2+i%4]
	}
	return head[0] & 0x0f, payload
}

const (
	opClose = 8
	opPing  = 9
	opPong  = 10
)

// A silent connection is pinged for as long as the peer answers, whether or not anybody reads.
func TestPings(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := dialPipe(t)
		began := time.Now()
		var last time.Duration
		for range 100 {
			opcode, payload := readFrame(t, peer)
			require.Equal(t, byte(opPing), opcode)
			now := time.Since(began)
			require.LessOrEqual(t, now-last, pingInterval+lookInterval+idleTime)
			last = now
			peer.Write(append([]byte{0x80 | opPong, byte(len(payload))}, payload...))
		}
		// 60 s are what many proxies allow.
		require.Less(t, pingInterval+lookInterval+idleTime, 60*time.Second)
		peer.Write([]byte{0x82, 1, 'x'})
		n, err := c.Read(make([]byte, 10))
		require.NoError(t, err)
		require.Equal(t, 1, n)
		go io.Copy(io.Discard, peer)
		c.Close()
		peer.Close()
	})
}

// A peer that is gone is noticed as soon as over TCP.
func TestNoPong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := dialPipe(t)
		go io.Copy(io.Discard, peer)
		began := time.Now()
		_, err := c.Read(make([]byte, 1))
		require.ErrorIs(t, err, errNoPong)
		require.LessOrEqual(t, time.Since(began), 75*time.Second)
		_, err = c.Write([]byte("x"))
		require.ErrorIs(t, err, errNoPong)
		require.NoError(t, c.Close())
	})
}

// Traffic in either direction is as good as a ping.
func TestNoPingsInTraffic(t *testing.T) {
	for name, traffic := range map[string]func(c *Conn, peer net.Conn){
		"read":    func(c *Conn, peer net.Conn) { peer.Write([]byte{0x82, 1, 'x'}) },
		"written": func(c *Conn, peer net.Conn) { c.Write([]byte("x")) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, peer := dialPipe(t)
				var sent bytes.Buffer
				go io.Copy(&sent, peer)
				go io.Copy(io.Discard, c)
				for range 20 {
					traffic(c, peer)
					time.Sleep(pingInterval - time.Second)
				}
				synctest.Wait()
				if name == "read" {
					require.Empty(t, sent.Bytes())
				} else {
					require.Len(t, sent.Bytes(), 20*7, "more than the frames that were written")
				}
				c.Close()
				peer.Close()
			})
		})
	}
}

// A program that does not read for long, while the server has more to say, is no peer that is gone.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := dialPipe(t)
		go io.Copy(io.Discard, peer)
		const frames = 20
		go func() {
			for range frames {
				peer.Write(append([]byte{0x82, 126, 0x40, 0}, make([]byte, 0x4000)...))
			}
			peer.Write([]byte{0x88, 0})
		}()
		time.Sleep(time.Hour)
		got, err := io.ReadAll(c)
		require.NoError(t, err)
		require.Len(t, got, frames*0x4000)
		c.Close()
		peer.Close()
	})
}

// Pings of the server are answered at once, also while nobody reads.
func TestPongs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, peer := dialPipe(t)
		for range 50 {
			time.Sleep(pingInterval / 2)
			peer.Write([]byte{0x80 | opPing, 2, 'h', 'i'})
			began := time.Now()
			opcode, payload := readFrame(t, peer)
			require.Equal(t, byte(opPong), opcode)
			require.Equal(t, "hi", string(payload))
			require.Zero(t, time.Since(began))
		}
		go io.Copy(io.Discard, peer)
		c.Close()
		peer.Close()
	})
}
