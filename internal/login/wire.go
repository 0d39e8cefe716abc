package login

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// Limits for what a server sends during a login: for one message, and for all messages that are
	// kept for pgx. Real logins take less than 1 KiB.
	maxMessage = 16 << 10
	maxAnswers = 64 << 10

	headerSize = 5 // type byte and length
)

var (
	// ErrProtocol means that the server's answer is not part of a PostgreSQL login.
	ErrProtocol = errors.New("unexpected answer")

	// ErrTokenUnread means that the server did not ask for the token that was sent early. It would
	// take the token for a message of the session, so the session cannot be used.
	ErrTokenUnread = errors.New("the server did not ask for the token that was sent early")
)

// ReadAnswers reads the server's messages of a login up to ReadyForQuery. It returns those that pgx
// has to read: all but the request for the password. It calls sendPassword when the server asks for
// a cleartext password; passwordSent says that the password was sent early. A refusal is a
// *pgconn.PgError.
func ReadAnswers(conn io.Reader, sendPassword func() error, passwordSent bool) (answers []byte, err error) {
	r := bufio.NewReaderSize(conn, 1024)
	passwordAsked, accepted := false, false
	for {
		kind, message, err := readMessage(r)
		if err != nil {
			return nil, err
		}
		body := message[headerSize:]
		switch {
		case kind == 'E':
			var response pgproto3.ErrorResponse
			if err := response.Decode(body); err != nil {
				return nil, fmt.Errorf("%w: an ErrorResponse that cannot be read", ErrProtocol)
			}
			return nil, pgconn.ErrorResponseToPgError(&response)
		case kind == 'R' && !accepted:
			method, err := authenticationMethod(body)
			switch {
			case err != nil:
				return nil, err
			case method == pgproto3.AuthTypeCleartextPassword && !passwordAsked:
				passwordAsked = true
				if err := sendPassword(); err != nil {
					return nil, err
				}
				continue // not for pgx
			case passwordSent && !passwordAsked:
				return nil, ErrTokenUnread
			case method == pgproto3.AuthTypeOk:
				accepted = true
			default:
				return nil, fmt.Errorf("%w: authentication request %d; DSQL asks for a cleartext password (3), so this is another server", ErrProtocol, method)
			}
		case kind == 'N', // NoticeResponse, at any time
			kind == 'v' && !accepted, // NegotiateProtocolVersion
			(kind == 'S' || kind == 'K' || kind == 'Z') && accepted:
		default:
			return nil, fmt.Errorf("%w: a message of type %q", ErrProtocol, kind)
		}
		if len(answers)+len(message) > maxAnswers {
			return nil, fmt.Errorf("%w: more than %d bytes before the session began", ErrProtocol, maxAnswers)
		}
		answers = append(answers, message...)
		if kind == 'Z' {
			// Bytes after ReadyForQuery that arrived with it are for pgx as well.
			more, _ := r.Peek(r.Buffered())
			return append(answers, more...), nil
		}
	}
}

func authenticationMethod(body []byte) (uint32, error) {
	if len(body) < 4 {
		return 0, fmt.Errorf("%w: an authentication request of %d bytes", ErrProtocol, len(body))
	}
	return binary.BigEndian.Uint32(body), nil
}

// readMessage reads one message: type, length and body. Before it allocates memory, it refuses a
// length that no message of a login has.
func readMessage(r io.Reader) (kind byte, message []byte, err error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length < 4 || length > maxMessage {
		return 0, nil, fmt.Errorf("%w: a message of type %q that says it is %d bytes long", ErrProtocol, header[0], length)
	}
	message = make([]byte, 1+length)
	copy(message, header[:])
	if _, err := io.ReadFull(r, message[headerSize:]); err != nil {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return header[0], message, nil
}
