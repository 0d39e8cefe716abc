package dsqlproxy

import (
	"encoding/binary"
	"errors"
)

const headerSize = 5 // type byte and length, of every message after the startup

var errMessageLength = errors.New("a message with a length that is none")

// framer finds the messages in a stream that is read in pieces of any size. It keeps nothing of a
// message but its header.
type framer struct {
	header [headerSize]byte
	have   int    // bytes of the header that were seen
	left   uint32 // bytes of the body that were not
	last   byte   // of the body so far: all of a ReadyForQuery's
}

// next goes on in b up to the end of a message, and returns its type and what is behind it. The
// type is 0 where b ends first.
func (f *framer) next(b []byte) (kind byte, rest []byte, err error) {
	if f.have < headerSize {
		if f.have == 0 && len(b) >= headerSize {
			f.have = headerSize
			f.header = [headerSize]byte(b)
			b = b[headerSize:]
		} else {
			n := copy(f.header[f.have:], b)
			f.have += n
			if b = b[n:]; f.have < headerSize {
				return 0, nil, nil
			}
		}
		length := binary.BigEndian.Uint32(f.header[1:])
		if length < 4 {
			return 0, nil, errMessageLength
		}
		f.left = length - 4
	}
	if n := uint32(len(b)); n < f.left {
		f.left -= n
		if n > 0 {
			f.last = b[n-1]
		}
		return 0, nil, nil
	}
	if f.left > 0 {
		f.last = b[f.left-1]
	}
	b = b[f.left:]
	f.have, f.left = 0, 0
	return f.header[0], b, nil
}

// between tells whether the stream is at the end of a message.
func (f *framer) between() bool { return f.have == 0 }
