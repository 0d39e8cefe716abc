package postgres

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

// cancelCode begins a CancelRequest, see "Message Formats" in the PostgreSQL manual.
const cancelCode = 80877102

// Session is a session in which one statement runs after the other. Its methods must not be called
// at once.
type Session struct {
	Key []byte // process ID and secret, as a CancelRequest has them

	frontend *pgproto3.Frontend
	close    func()
	detach   func() bool // from the context of Open
	status   byte
}

// NewSession returns a session on a connection that is logged in. Close calls close.
func NewSession(frontend *pgproto3.Frontend, close func()) *Session {
	return &Session{frontend: frontend, close: close, status: 'I'}
}

// Open opens a session of the superuser. It fails once ctx has ended. It speaks the few messages
// itself, because every configuration of pgx begins with the PG* environment, and fails when that
// names a file that does not exist.
func (s *Server) Open(ctx context.Context) (*Session, error) {
	conn, err := s.Dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := interruptWhenDone(ctx, conn)
	session := NewSession(pgproto3.NewFrontend(conn, conn), func() {
		stop()
		conn.Close()
	})
	session.detach = stop
	session.frontend.Send(&pgproto3.StartupMessage{
		ProtocolVersion: pgproto3.ProtocolVersion30,
		Parameters:      map[string]string{"user": "postgres", "database": "postgres"},
	})
	if err := session.begin(); err != nil {
		session.Close()
		return nil, fmt.Errorf("log in to PostgreSQL: %w", causeOf(ctx, err))
	}
	return session, nil
}

// begin reads the answers to a startup message up to ReadyForQuery or the first error.
func (s *Session) begin() error {
	if err := s.frontend.Flush(); err != nil {
		return err
	}
	for {
		message, err := s.frontend.Receive()
		if err != nil {
			return err
		}
		switch message := message.(type) {
		case *pgproto3.BackendKeyData:
			s.Key = append(binary.BigEndian.AppendUint32(nil, message.ProcessID), message.SecretKey...)
		case *pgproto3.ReadyForQuery:
			return nil
		case *pgproto3.ErrorResponse:
			return pgconn.ErrorResponseToPgError(message)
		}
	}
}

// Close ends the session.
func (s *Session) Close() { s.close() }

// TxStatus is I, T or E, as the last ReadyForQuery had it.
func (s *Session) TxStatus() byte { return s.status }

// Exec runs statements, each in a transaction of its own, up to the first that fails.
func (s *Session) Exec(statements ...string) error {
	for _, sql := range statements {
		if _, err := s.Query(sql); err != nil {
			return err
		}
	}
	return nil
}

// Query returns the last row that a statement has, with "" for NULL. No row is nil.
func (s *Session) Query(sql string) (row []string, err error) {
	rows, err := s.QueryAll(sql)
	if len(rows) > 0 {
		row = rows[len(rows)-1]
	}
	return row, err
}

// QueryAll returns the rows that a statement has, with "" for NULL.
func (s *Session) QueryAll(sql string) (rows [][]string, err error) {
	s.frontend.Send(&pgproto3.Query{String: sql})
	if err := s.frontend.Flush(); err != nil {
		return nil, err
	}
	for {
		message, receiveErr := s.frontend.Receive()
		if receiveErr != nil {
			return nil, receiveErr
		}
		switch message := message.(type) {
		case *pgproto3.DataRow:
			var row []string
			for _, value := range message.Values {
				row = append(row, string(value))
			}
			rows = append(rows, row)
		case *pgproto3.CopyInResponse:
			s.frontend.Send(&pgproto3.CopyFail{Message: "there is no data: use INSERT"})
			if err := s.frontend.Flush(); err != nil {
				return nil, err
			}
		case *pgproto3.ErrorResponse:
			err = pgconn.ErrorResponseToPgError(message)
		case *pgproto3.ReadyForQuery:
			s.status = message.TxStatus
			return rows, err
		}
	}
}

// Cancel has PostgreSQL end the statement that the session with the key runs. When it returns
// without an error, the signal is sent: no later statement is hit.
func (s *Server) Cancel(ctx context.Context, key []byte) error {
	conn, err := s.Dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer interruptWhenDone(ctx, conn)()
	message := binary.BigEndian.AppendUint32(nil, uint32(8+len(key)))
	message = binary.BigEndian.AppendUint32(message, cancelCode)
	if _, err := conn.Write(append(message, key...)); err != nil {
		return fmt.Errorf("cancel request: %w", causeOf(ctx, err))
	}
	// PostgreSQL hangs up when the signal is sent. Clients rely on the same: one that saw its
	// connection end may not be hit by the cancel afterwards.
	if _, err := io.Copy(io.Discard, conn); err != nil {
		return fmt.Errorf("cancel request: %w", causeOf(ctx, err))
	}
	return nil
}

// interruptWhenDone makes reads and writes on conn fail once ctx ends, until the
// function it returns is called.
func interruptWhenDone(ctx context.Context, conn net.Conn) func() bool {
	return context.AfterFunc(ctx, func() { conn.SetDeadline(time.Unix(1, 0)) })
}

// causeOf is ctx's error where that is what interrupted us, else err.
func causeOf(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return context.Cause(ctx)
	}
	return err
}
