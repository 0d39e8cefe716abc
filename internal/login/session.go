package login

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"sync/atomic"
	"time"
)

// maxSessionMessage is the largest message of a session. DSQL ends the connection at a larger one, and
// does not say why.
const maxSessionMessage = 10 << 20

// Session is a connection that is logged in. Read returns the server's answers to the login first.
type Session struct {
	net.Conn
	tcp     net.Conn // that TLS runs in
	tls     tls.ConnectionState
	opened  time.Time
	answers []byte

	// tooLarge is the size of a message that was written since the server sent something last, and is
	// larger than maxSessionMessage; else 0.
	tooLarge atomic.Int64
}

func (s *Session) Read(b []byte) (int, error) {
	if len(s.answers) > 0 {
		n := copy(b, s.answers)
		if s.answers = s.answers[n:]; len(s.answers) == 0 {
			s.answers = nil
		}
		return n, nil
	}
	n, err := s.Conn.Read(b)
	if err != nil {
		return n, s.explain(err)
	}
	s.tooLarge.Store(0)
	return n, nil
}

func (s *Session) Write(b []byte) (int, error) {
	if size := tooLargeMessage(b); size > 0 {
		s.tooLarge.Store(int64(size))
	}
	n, err := s.Conn.Write(b)
	if err != nil {
		err = s.explain(err)
	}
	return n, err
}

// explain adds to the error of a connection that ended that a message was too large. errors.Is finds
// the same errors as before, and io.ErrUnexpectedEOF, which pgx makes of io.EOF alone.
func (s *Session) explain(err error) error {
	size := s.tooLarge.Load()
	if size == 0 {
		return err
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("%w, after a message of %.1f MiB; DSQL ends the connection at messages above 10 MiB: send less in one statement", err, float64(size)/(1<<20))
}

// tooLargeMessage returns the size of the first message in b that is above maxSessionMessage, or 0. b
// begins with a message, since pgx writes whole ones.
func tooLargeMessage(b []byte) int {
	for len(b) > maxSessionMessage {
		size := 1 + int(binary.BigEndian.Uint32(b[1:])) // the length does not count the type
		if size > maxSessionMessage {
			return size
		}
		b = b[min(size, len(b)):]
	}
	return 0
}
