package dsqlproxy

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
)

// What a client's first packet can be, beside a StartupMessage (PostgreSQL docs, "Message
// Formats").
const (
	tlsHandshakeRecord = 0x16 // first byte of a ClientHello: direct TLS
	cancelRequestCode  = 80877102
	sslRequestCode     = 80877103
	gssEncRequestCode  = 80877104

	protocolMajor = 3
	protocol30    = protocolMajor << 16

	// maxStartup is PostgreSQL's MAX_STARTUP_PACKET_LENGTH. The first four bytes of an HTTP request
	// are a larger number, so what a browser sends is no packet.
	maxStartup = 10_000

	// maxCancelKey is the longest secret key of protocol 3.2.
	maxCancelKey = 256

	alpnProtocol = "postgresql"
)

// errMalformed is a first packet that no PostgreSQL client sends. It is not answered: whoever sent
// it speaks another protocol.
var errMalformed = errors.New("not a PostgreSQL client")

// firstPacket is one of these.
type firstPacket struct {
	sslRequest    bool
	gssEncRequest bool
	cancel        []byte // process ID and secret key of a CancelRequest
	startup       *startup
}

// startup is a StartupMessage.
type startup struct {
	minor    int // of protocol 3
	user     string
	database string            // "": not said
	settings map[string]string // all other parameters, "options" among them
	unknown  []string          // protocol options, which begin with "_pq_."
}

// readFirstPacket reads one packet. It believes no length that such a packet does not have.
func readFirstPacket(r *bufio.Reader) (*firstPacket, error) {
	var header [8]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	length, code := binary.BigEndian.Uint32(header[:4]), binary.BigEndian.Uint32(header[4:])
	if length < uint32(len(header)) || length > maxStartup {
		return nil, fmt.Errorf("%w: a first packet of %d bytes", errMalformed, length)
	}
	size := int(length) - len(header)
	switch {
	case code == sslRequestCode && size == 0:
		return &firstPacket{sslRequest: true}, nil
	case code == gssEncRequestCode && size == 0:
		return &firstPacket{gssEncRequest: true}, nil
	case code == cancelRequestCode && size >= 4 && size <= 4+maxCancelKey, code>>16 == protocolMajor:
	default:
		if code>>16 == 2 || code>>16 == 1 {
			return nil, refuse("0A000", "use a client that speaks protocol 3", "protocol %d.%d is not supported; 3.0 is", code>>16, code&0xffff)
		}
		return nil, fmt.Errorf("%w: a first packet with code %#x and %d bytes", errMalformed, code, length)
	}
	body := make([]byte, size)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	if code == cancelRequestCode {
		return &firstPacket{cancel: body}, nil
	}
	st, err := parseStartup(body)
	if err != nil {
		return nil, err
	}
	st.minor = int(code & 0xffff)
	return &firstPacket{startup: st}, nil
}

// parseStartup reads names and values, each ended by a zero byte, up to an empty name.
func parseStartup(body []byte) (*startup, error) {
	st := &startup{settings: map[string]string{}}
	next := func() (string, bool) {
		text, rest, ok := bytes.Cut(body, []byte{0})
		body = rest
		return string(text), ok
	}
	for {
		name, ok := next()
		if !ok {
			return nil, fmt.Errorf("%w: a startup message without its end", errMalformed)
		}
		if name == "" {
			break
		}
		value, ok := next()
		if !ok {
			return nil, fmt.Errorf("%w: a startup message that ends in a name", errMalformed)
		}
		switch {
		case name == "user":
			st.user = value
		case name == "database":
			st.database = value
		case strings.HasPrefix(name, "_pq_."):
			st.unknown = append(st.unknown, name)
		default:
			st.settings[name] = value
		}
	}
	switch {
	case len(body) > 0:
		return nil, fmt.Errorf("%w: %d bytes behind the end of a startup message", errMalformed, len(body))
	case st.user == "":
		return nil, refuse("28000", "set the user to the database role", "the startup message names no user")
	}
	return st, nil
}

// startTLS takes over the connection. With direct, the ClientHello is in c.reader.
func (c *client) startTLS(direct bool) error {
	conn := c.conn
	if direct {
		conn = &prefixedConn{Conn: conn, reader: c.reader}
	} else if c.reader.Buffered() > 0 {
		// They could be an attacker's, to be taken for what the client sends inside TLS
		// (CVE-2021-23222).
		return fmt.Errorf("%w: bytes between SSLRequest and ClientHello", errMalformed)
	}
	tlsConn := tls.Server(conn, c.server.tls)
	if err := tlsConn.HandshakeContext(context.Background()); err != nil { // c.conn has a deadline
		return fmt.Errorf("TLS handshake: %w", err)
	}
	if direct && tlsConn.ConnectionState().NegotiatedProtocol != alpnProtocol {
		return fmt.Errorf("%w: direct TLS without ALPN", errMalformed)
	}
	c.conn, c.secure = tlsConn, true
	c.reader = bufio.NewReaderSize(tlsConn, startupBuffer)
	return nil
}

// prefixedConn reads what was read ahead first.
type prefixedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (p *prefixedConn) Read(b []byte) (int, error) { return p.reader.Read(b) }
