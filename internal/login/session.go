package login

import (
	"crypto/tls"
	"errors"
	"maps"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Session is a connection that is logged in. For pgx it looks like one that is not yet: Write drops
// the StartupMessage that pgx writes first, and Read first returns the server's answers to the
// login.
type Session struct {
	*tls.Conn
	Opened time.Time // when the login ended

	// Used by Write alone.
	startup      pgproto3.StartupMessage // that the login sent
	held         []byte                  // of pgx's StartupMessage
	startupBytes int                     // length of pgx's StartupMessage; 0 once it was dropped

	replay []byte // used by Read alone
}

func newSession(conn *tls.Conn, startup pgproto3.StartupMessage, startupBytes int, replay []byte) *Session {
	return &Session{Conn: conn, Opened: time.Now(), startup: startup, startupBytes: startupBytes, replay: replay}
}

func (s *Session) Write(b []byte) (int, error) {
	if s.startupBytes == 0 {
		return s.Conn.Write(b)
	}
	n := min(len(b), s.startupBytes-len(s.held))
	s.held = append(s.held, b[:n]...)
	if len(s.held) < s.startupBytes {
		return n, nil
	}
	// The login sent it before pgx wrote it. If pgx asks for something else, the session is not
	// the one that pgx believes to have.
	var wrote pgproto3.StartupMessage
	err := wrote.Decode(s.held[4:])
	if err != nil || wrote.ProtocolVersion != s.startup.ProtocolVersion || !maps.Equal(wrote.Parameters, s.startup.Parameters) {
		return 0, errors.New("dsql: pgx's startup message differs from the one that the login sent; this version of pgx is not supported")
	}
	s.startupBytes, s.held, s.startup = 0, nil, pgproto3.StartupMessage{}
	if n == len(b) {
		return n, nil
	}
	m, err := s.Conn.Write(b[n:])
	return n + m, err
}

func (s *Session) Read(b []byte) (int, error) {
	if len(s.replay) == 0 {
		return s.Conn.Read(b)
	}
	n := copy(b, s.replay)
	if s.replay = s.replay[n:]; len(s.replay) == 0 {
		s.replay = nil
	}
	return n, nil
}
