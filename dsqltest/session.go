package dsqltest

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	headerSize = 5 // type byte and length, of every message after the login

	// maxMessage is the longest message that a client may send. DSQL ends the
	// connection on a longer one and says nothing.
	maxMessage = 10 << 20

	// maxAnswer is above the longest message that PostgreSQL can make (MaxAllocSize).
	maxAnswer = 1 << 30

	// writeBuffer makes one full TLS record.
	writeBuffer = 16 * 1024

	// backendTimeout bounds a backend's start: a fork and a catalog read.
	backendTimeout = 30 * time.Second
)

// session is a client that is logged in.
type session struct {
	client    *client
	startup   *startup
	processID uint32
	secret    [4]byte
	internal  bool   // the server's own: no faults, and not counted
	namespace string // the schema of Server.Schema that it works in, or ""

	// Guarded by server.mu.
	backendKey []byte // process ID and secret of PostgreSQL's backend, once there is one
	cancelled  bool   // a client asked for that
	schema     int    // version of namespace that the session has seen
}

// newSession registers a session under a process ID that no other has.
func newSession(c *client, st *startup) *session {
	s := &session{client: c, startup: st}
	rand.Read(s.secret[:]) // never fails, see crypto/rand
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	for s.processID == 0 || c.server.sessions[s.processID] != nil {
		var id [4]byte
		rand.Read(id[:])
		s.processID = binary.BigEndian.Uint32(id[:]) >> 1 // clients take it for an int32
	}
	c.server.sessions[s.processID] = s
	if _, ok := c.server.versions[st.settings["search_path"]]; ok {
		s.namespace = st.settings["search_path"]
	}
	return s
}

func (s *session) unregister() {
	s.client.server.mu.Lock()
	defer s.client.server.mu.Unlock()
	delete(s.client.server.sessions, s.processID)
}

// greet answers a login with all that PostgreSQL sends before its first
// ReadyForQuery, in one write.
func (s *session) greet(st *startup) error {
	asked := func(setting, fallback string) string {
		if value, ok := st.settings[setting]; ok {
			return value
		}
		return fallback
	}
	messages := []pgproto3.BackendMessage{&pgproto3.AuthenticationOk{}}
	for _, status := range [][2]string{
		{"server_version", "16.15"},
		{"server_encoding", "UTF8"},
		{"client_encoding", asked("client_encoding", "UTF8")},
		{"application_name", asked("application_name", "")},
		{"DateStyle", asked("datestyle", "ISO, MDY")},
		{"TimeZone", asked("timezone", "UTC")},
		{"IntervalStyle", asked("intervalstyle", "postgres")},
		{"integer_datetimes", "on"},
		{"standard_conforming_strings", "on"},
		{"default_transaction_read_only", "off"},
		{"in_hot_standby", "off"},
		{"is_superuser", "off"},
		{"session_authorization", st.user},
	} {
		messages = append(messages, &pgproto3.ParameterStatus{Name: status[0], Value: status[1]})
	}
	return s.client.send(append(messages,
		&pgproto3.BackendKeyData{ProcessID: s.processID, SecretKey: s.secret[:]},
		&pgproto3.ReadyForQuery{TxStatus: 'I'})...)
}

// run relays the session until either side ends it.
func (s *session) run() {
	defer s.client.conn.Close()
	// The backend waits for the client's first message: its fork costs more than
	// all of the login, and an idle session needs none.
	first, err := s.client.reader.Peek(1)
	if err != nil || first[0] == 'X' {
		return
	}
	backend, fromBackend, err := s.openBackend()
	if err != nil {
		var refused *refusal
		if !errors.As(err, &refused) {
			refused = refuse("08006", "dsqltest: PostgreSQL gave no backend: %v", err)
		}
		s.client.send(&refused.response)
		s.client.linger()
		return
	}
	server := s.client.server
	defer server.drop(backend)

	conversation := newConversation(s)
	var answering sync.WaitGroup
	answering.Go(func() {
		defer s.client.conn.Close()
		defer conversation.end()
		answers{
			conversation: conversation,
			relay:        &relay{from: fromBackend, to: bufio.NewWriterSize(s.client.conn, writeBuffer), limit: maxAnswer},
		}.run()
	})
	err = newRequests(conversation, &relay{from: s.client.reader, to: bufio.NewWriterSize(backend, readBuffer), limit: maxMessage}).run()
	if err == errCut {
		server.count(func(c *TransactionCounts) { c.Cuts++ })
		s.client.network.Close()
	}
	backend.Close()
	answering.Wait()
}

// openBackend has PostgreSQL start a backend with the client's settings. What
// PostgreSQL says meanwhile the client has been told at its login.
func (s *session) openBackend() (net.Conn, *bufio.Reader, error) {
	server := s.client.server
	ctx, cancel := context.WithTimeout(server.ctx, backendTimeout)
	defer cancel()
	conn, err := server.postgres.dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !server.track(conn) {
		return nil, nil, net.ErrClosed
	}
	reader := bufio.NewReaderSize(conn, writeBuffer)
	key, err := s.startBackend(conn, reader)
	if err != nil {
		server.drop(conn)
		return nil, nil, err
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	s.backendKey, s.schema = key, server.versions[s.namespace]
	return conn, reader, nil
}

// startBackend returns the backend's process ID and secret.
func (s *session) startBackend(conn net.Conn, reader *bufio.Reader) (key []byte, err error) {
	conn.SetDeadline(time.Now().Add(backendTimeout))
	parameters := map[string]string{"user": s.startup.user, "database": databaseName, "lock_timeout": lockTimeout}
	for name, value := range s.startup.settings {
		parameters[name] = value
	}
	message, err := (&pgproto3.StartupMessage{ProtocolVersion: protocolVersion3, Parameters: parameters}).Encode(nil)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(message); err != nil {
		return nil, err
	}
	for {
		kind, body, err := readMessage(reader)
		if err != nil {
			return nil, err
		}
		switch kind {
		case 'K':
			key = body
		case 'E':
			refused := new(refusal)
			if err := refused.response.Decode(body); err != nil {
				return nil, err
			}
			return nil, refused
		case 'Z':
			return key, conn.SetDeadline(time.Time{})
		}
	}
}

// readMessage reads a whole message, of the short ones that begin a session.
func readMessage(r io.Reader) (kind byte, body []byte, err error) {
	var header [headerSize]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return 0, nil, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length < 4 || length > maxStartup {
		return 0, nil, fmt.Errorf("message %q has an unlikely length of %d bytes", header[0], length)
	}
	body = make([]byte, length-4)
	_, err = io.ReadFull(r, body)
	return header[0], body, err
}

// relay carries messages one way. It holds no more of one than its buffers do,
// unless it is asked to read it.
type relay struct {
	from  *bufio.Reader
	to    *bufio.Writer
	limit uint32 // bytes, as the length in a header counts
}

var errMessageLength = errors.New("invalid message length")

// run calls handle for every message, unread, with its size on the wire, until
// handle fails, either side ends, or there comes a message that is not one.
func (r *relay) run(handle func(kind byte, size int) error) error {
	for {
		kind, size, err := r.next()
		if err != nil {
			return err
		}
		if err := handle(kind, size); err != nil {
			return err
		}
	}
}

// next waits for a message and returns what its header says, leaving it unread.
func (r *relay) next() (kind byte, size int, err error) {
	header, err := r.peek(headerSize)
	if err != nil {
		return 0, 0, err
	}
	length := binary.BigEndian.Uint32(header[1:])
	if length < headerSize-1 || length > r.limit {
		return 0, 0, errMessageLength
	}
	return header[0], 1 + int(length), nil
}

// forward carries the next size bytes over.
func (r *relay) forward(size int) error {
	return r.take(size, func(chunk []byte) error {
		_, err := r.to.Write(chunk)
		return err
	})
}

// discard drops the next size bytes.
func (r *relay) discard(size int) error {
	return r.take(size, func([]byte) error { return nil })
}

// read returns the next size bytes.
func (r *relay) read(size int) (message []byte, err error) {
	err = r.take(size, func(chunk []byte) error {
		message = append(message, chunk...)
		return nil
	})
	return message, err
}

func (r *relay) take(size int, use func(chunk []byte) error) error {
	for size > 0 {
		if _, err := r.peek(1); err != nil {
			return err
		}
		chunk, _ := r.from.Peek(min(size, r.from.Buffered()))
		if err := use(chunk); err != nil {
			return err
		}
		r.from.Discard(len(chunk))
		size -= len(chunk)
	}
	return nil
}

// peek never waits for input while there is output to send: the other side may
// be waiting for that.
func (r *relay) peek(n int) ([]byte, error) {
	if r.from.Buffered() < n {
		if err := r.to.Flush(); err != nil {
			return nil, err
		}
	}
	return r.from.Peek(n)
}

// cancel carries a CancelRequest to the backend of the session it names.
func (c *client) cancel(body []byte) error {
	c.record(func(a *Attempt) { a.Cancel = true })
	key := c.server.toCancel(body)
	if key == nil {
		return errors.New("cancel request: no session has this key, or none that runs a query")
	}
	ctx, stop := context.WithTimeout(c.server.ctx, backendTimeout)
	defer stop()
	if err := c.server.postgres.cancel(ctx, key); err != nil {
		return err
	}
	return errCancel
}

// toCancel returns what PostgreSQL knows the session by whose process ID and
// secret are in body, or nil, and marks it.
func (s *Server) toCancel(body []byte) []byte {
	if len(body) != 8 {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	session := s.sessions[binary.BigEndian.Uint32(body)]
	if session == nil || subtle.ConstantTimeCompare(body[4:], session.secret[:]) == 0 {
		return nil
	}
	session.cancelled = session.backendKey != nil
	return session.backendKey
}

func (s *session) wasCancelled() bool {
	s.client.server.mu.Lock()
	defer s.client.server.mu.Unlock()
	return s.cancelled
}
