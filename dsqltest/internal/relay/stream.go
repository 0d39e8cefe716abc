package relay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

const (
	// HeaderSize is that of the type byte and the length, of every message after the login.
	HeaderSize = 5

	// maxRequest is the longest message that a client may send. DSQL ends the connection on a
	// longer one and says nothing.
	maxRequest = 10 << 20

	// maxResponse is above the longest message that PostgreSQL can make (MaxAllocSize).
	maxResponse = 1 << 30

	// maxShort bounds what ReadMessage takes: the messages of a login.
	maxShort = 10_000

	responseBuffer = 16 * 1024 // makes one full TLS record
	requestBuffer  = 4 * 1024
)

// stream carries messages one way. It holds no more of one than its buffers do,
// unless it is asked to read it.
type stream struct {
	from  *bufio.Reader
	to    *bufio.Writer
	limit uint32 // bytes, as the length in a header counts
}

var errMessageLength = errors.New("invalid message length")

// run calls handle for every message, unread, with its size on the wire, until
// handle fails, either side ends, or there comes a message that is not one.
func (s *stream) run(handle func(kind byte, size int) error) error {
	for {
		kind, size, err := s.next()
		if err != nil {
			return err
		}
		if err := handle(kind, size); err != nil {
			return err
		}
	}
}

// next waits for a message and returns what its header says, leaving it unread.
func (s *stream) next() (kind byte, size int, err error) {
	header, err := s.peek(HeaderSize)
	if err != nil {
		return 0, 0, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length < HeaderSize-1 || length > s.limit {
		return 0, 0, errMessageLength
	}
	return header[0], 1 + int(length), nil
}

// forward carries the next size bytes over.
func (s *stream) forward(size int) error {
	return s.take(size, func(chunk []byte) error {
		_, err := s.to.Write(chunk)
		return err
	})
}

// discard drops the next size bytes.
func (s *stream) discard(size int) error {
	return s.take(size, func([]byte) error { return nil })
}

// read returns the next size bytes.
func (s *stream) read(size int) (message []byte, err error) {
	err = s.take(size, func(chunk []byte) error {
		message = append(message, chunk...)
		return nil
	})
	return message, err
}

func (s *stream) take(size int, use func(chunk []byte) error) error {
	for size > 0 {
		if _, err := s.peek(1); err != nil {
			return err
		}
		chunk, _ := s.from.Peek(min(size, s.from.Buffered()))
		if err := use(chunk); err != nil {
			return err
		}
		s.from.Discard(len(chunk))
		size -= len(chunk)
	}
	return nil
}

// peek never waits for input while there is output to send: the other side may
// be waiting for that.
func (s *stream) peek(n int) ([]byte, error) {
	if s.from.Buffered() < n {
		if err := s.to.Flush(); err != nil {
			return nil, err
		}
	}
	return s.from.Peek(n)
}

// ReadMessage reads a whole message, of the short ones that begin a session.
func ReadMessage(r io.Reader) (kind byte, body []byte, err error) {
	var header [HeaderSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length < 4 || length > maxShort {
		return 0, nil, fmt.Errorf("message %q has an unlikely length of %d bytes", header[0], length)
	}
	body = make([]byte, length-4)
	_, err = io.ReadFull(r, body)
	return header[0], body, err
}
