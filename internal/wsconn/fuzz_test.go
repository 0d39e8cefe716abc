package wsconn

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// FuzzRead: whatever frames a server sends, and wherever the network cuts them, Read returns the
// bytes of the binary ones up to the first that is wrong, and ends.
func FuzzRead(f *testing.F) {
	f.Add([]byte{0x82, 3, 'a', 'b', 'c', 0x82, 0, 0x89, 1, 'p', 0x82, 1, 'd', 0x88, 2, 3, 232}, uint8(1), uint8(1))
	f.Add([]byte{0x02, 1, 'a', 0x00, 1, 'b', 0x80, 0, 0x82, 1, 'c'}, uint8(3), uint8(2))
	f.Add([]byte{0x82, 126, 0, 4, 'a', 'b', 'c', 'd', 0x8a, 0}, uint8(5), uint8(200))
	f.Add([]byte{0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 1, 'x'}, uint8(7), uint8(7))
	f.Add([]byte{0x82, 0x81, 1, 2, 3, 4, 'x'}, uint8(0), uint8(0))
	f.Add([]byte{0x81, 1, 'x'}, uint8(0), uint8(9))
	f.Add([]byte{0x02, 1, 'x', 0x82, 1, 'y'}, uint8(0), uint8(9))
	f.Fuzz(func(t *testing.T, frames []byte, cut, size uint8) {
		in, peerOut := net.Pipe()
		out, peerIn := net.Pipe()
		conn, peer := halves{in, out}, halves{peerIn, peerOut}
		defer peer.Close()
		go func() {
			if accept(peer) == nil {
				return
			}
			go io.Copy(io.Discard, peer)
			for rest := frames; len(rest) > 0; {
				piece := rest[:min(len(rest), 1+int(cut))]
				if _, err := peer.Write(piece); err != nil {
					return
				}
				rest = rest[len(piece):]
			}
			peerOut.Close()
		}()
		c, err := Upgrade(t.Context(), conn, "example.com")
		require.NoError(t, err)
		defer c.Close()

		var got []byte
		buffer := make([]byte, 1+int(size))
		for err == nil {
			var n int
			n, err = c.Read(buffer)
			got = append(got, buffer[:n]...)
		}
		want, end := payloads(frames)
		require.Equal(t, want, got)
		if end == nil {
			require.ErrorIs(t, err, io.EOF)
		}
		_, again := c.Read(buffer)
		require.Equal(t, err, again)
	})
}

// halves is a connection of which one direction can end while pongs still go the other way.
type halves struct {
	net.Conn // for reading
	out      net.Conn
}

func (h halves) Write(b []byte) (int, error) { return h.out.Write(b) }

func (h halves) Close() error { return errors.Join(h.Conn.Close(), h.out.Close()) }

func (h halves) SetWriteDeadline(t time.Time) error { return h.out.SetWriteDeadline(t) }

func (h halves) SetDeadline(t time.Time) error {
	return errors.Join(h.Conn.SetReadDeadline(t), h.out.SetWriteDeadline(t))
}

var errFrames = errors.New("not what RFC 6455 allows, or the end of the connection")

// payloads is a second reading of RFC 6455, as simple as can be: the bytes of binary frames that
// come before anything else than frames, and an error where a close frame with an unusual status
// or a violation follows.
func payloads(frames []byte) (data []byte, err error) {
	inMessage := false
	for {
		if len(frames) < 2 {
			return data, nil
		}
		final, reserved, opcode := frames[0]&0x80 != 0, frames[0]&0x70, frames[0]&0x0f
		masked, length, head := frames[1]&0x80 != 0, uint64(frames[1]&0x7f), 2
		switch {
		case length == 126 && len(frames) >= 4:
			length, head = uint64(binary.BigEndian.Uint16(frames[2:])), 4
		case length == 127 && len(frames) >= 10:
			length, head = binary.BigEndian.Uint64(frames[2:]), 10
		case length >= 126:
			return data, nil
		}
		if length>>63 != 0 {
			return data, errFrames
		}
		if masked {
			head += 4
		}
		if len(frames) < head {
			return data, nil
		}
		payload := frames[head:]
		complete := length <= uint64(len(payload))
		if complete {
			payload = payload[:length]
		}
		switch {
		case reserved != 0:
			return data, errFrames
		case opcode == 0 && !inMessage, opcode == 2 && inMessage, opcode == 1, opcode > 2 && opcode < 8, opcode > 10:
			return data, errFrames
		case opcode >= 8:
			if length > 125 || !final {
				return data, errFrames
			}
			if !complete {
				return data, nil
			}
			if opcode == 8 {
				return data, errFrames
			}
		default:
			data = append(data, payload...)
			inMessage = !final
		}
		if !complete {
			return data, nil
		}
		frames = frames[head+int(length):]
	}
}
