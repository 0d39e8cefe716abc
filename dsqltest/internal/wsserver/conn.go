package wsserver

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// The opcodes of frames (RFC 6455, 5.2).
const (
	opContinuation = 0
	opBinary       = 2
	opClose        = 8
	opPing         = 9
	opPong         = 10
)

// closeTimeout is how long it may take to send a close frame.
const closeTimeout = time.Second

// Conn is the server's end of a WebSocket. Read returns the bytes of binary frames in their order; each
// Write is a frame. Deadlines are those of the connection below.
type Conn struct {
	net.Conn // that the WebSocket runs in

	// Used by Read alone.
	reader    *bufio.Reader
	left      uint64 // bytes of the frame that are not read yet
	mask      [4]byte
	inMessage bool // the next frame continues a message
	err       error

	mu        sync.Mutex // guards the fields below, and keeps frames apart
	buffer    []byte
	closeSent bool
}

func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for c.left == 0 && c.err == nil {
		c.err = c.nextFrame()
	}
	if c.err != nil {
		return 0, c.err
	}
	n, err := c.reader.Read(p[:min(uint64(len(p)), c.left)])
	c.unmask(p[:n])
	c.left -= uint64(n)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// nextFrame reads frames up to the header of one with data.
func (c *Conn) nextFrame() error {
	var head [2]byte
	if _, err := io.ReadFull(c.reader, head[:]); err != nil {
		return err
	}
	final, opcode := head[0]&0x80 != 0, head[0]&0x0f
	length := uint64(head[1] & 0x7f)
	var long [8]byte
	switch length {
	case 126:
		if _, err := io.ReadFull(c.reader, long[6:]); err != nil {
			return err
		}
		length = binary.BigEndian.Uint64(long[:])
	case 127:
		if _, err := io.ReadFull(c.reader, long[:]); err != nil {
			return err
		}
		length = binary.BigEndian.Uint64(long[:])
	}
	switch {
	case head[0]&0x70 != 0:
		return errors.New("a WebSocket frame with a reserved bit")
	case head[1]&0x80 == 0:
		return errors.New("a WebSocket frame without a mask")
	case length>>63 != 0:
		return errors.New("a WebSocket frame of more than 2^63 bytes")
	}
	if _, err := io.ReadFull(c.reader, c.mask[:]); err != nil {
		return err
	}
	switch {
	case opcode >= opClose:
		return c.control(opcode, final, length)
	case opcode == opBinary && !c.inMessage, opcode == opContinuation && c.inMessage:
		c.left, c.inMessage = length, !final
		return nil
	}
	return fmt.Errorf("a WebSocket frame with the opcode %d, where it does not belong", opcode)
}

// control reads and answers a control frame.
func (c *Conn) control(opcode byte, final bool, length uint64) error {
	if !final || length > 125 || opcode > opPong {
		return fmt.Errorf("a control frame of a WebSocket with the opcode %d and %d bytes, which there is not", opcode, length)
	}
	payload := make([]byte, length)
	if _, err := io.ReadFull(c.reader, payload); err != nil {
		return err
	}
	c.unmask(payload)
	switch opcode {
	case opPing:
		return c.writeFrame(opPong, payload)
	case opClose:
		if err := c.sendClose(payload); err != nil {
			return err
		}
		return io.EOF
	}
	return nil
}

// unmask decodes what was read of the frame's payload.
func (c *Conn) unmask(p []byte) {
	key := binary.LittleEndian.Uint32(c.mask[:])
	wide := uint64(key)<<32 | uint64(key)
	for len(p) >= 8 {
		binary.LittleEndian.PutUint64(p, binary.LittleEndian.Uint64(p)^wide)
		p = p[8:]
	}
	for i := range p {
		p[i] ^= c.mask[i%4]
	}
	mask := c.mask
	for i := range mask { // the next byte's key comes first
		c.mask[i] = mask[(len(p)+i)%4]
	}
}

func (c *Conn) Write(p []byte) (int, error) {
	if err := c.writeFrame(opBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *Conn) writeFrame(opcode byte, payload []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closeSent {
		return net.ErrClosed
	}
	c.closeSent = opcode == opClose
	b := append(c.buffer[:0], 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		b = append(b, byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 127), uint64(n))
	}
	c.buffer = append(b, payload...)
	_, err := c.Conn.Write(c.buffer)
	return err
}

// sendClose sends a close frame, unless one was sent before. Its payload is a status and a reason. A
// Write that waits for the client to read ends.
func (c *Conn) sendClose(payload []byte) error {
	_ = c.SetWriteDeadline(time.Now().Add(closeTimeout))
	if err := c.writeFrame(opClose, payload); err != net.ErrClosed {
		return err
	}
	return nil
}

var normalClosure = []byte{1000 >> 8, 1000 & 0xff}

// CloseWrite sends a close frame, and says so to the connection below. What the client still sends can
// be read.
func (c *Conn) CloseWrite() error {
	err := c.sendClose(normalClosure)
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		err = errors.Join(err, half.CloseWrite())
	}
	return err
}

// Close sends a close frame and closes the connection below.
func (c *Conn) Close() error {
	return errors.Join(c.sendClose(normalClosure), c.Conn.Close())
}
