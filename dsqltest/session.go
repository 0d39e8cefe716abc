package dsqltest

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/binary"
	"errors"
	"net"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/relay"
	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// backendBuffer makes one full TLS record.
	backendBuffer = 16 * 1024

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
	backendKey []byte       // process ID and secret of PostgreSQL's backend, once there is one
	cancelled  bool         // a client asked for that
	relay      *relay.Relay // once there is one
	schema     int          // version of its namespace that the session has seen
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
	if c.server.namespaces[st.settings["search_path"]] != nil {
		s.namespace = st.settings["search_path"]
	}
	return s
}

func (s *session) unregister() {
	s.client.server.mu.Lock()
	defer s.client.server.mu.Unlock()
	delete(s.client.server.sessions, s.processID)
}

// acceptLogin answers a login with all that PostgreSQL sends before its first ReadyForQuery, in one
// write.
func (s *session) acceptLogin(st *startup) error {
	setting := func(name, fallback string) string {
		if value, ok := st.settings[name]; ok {
			return rules.SpellSetting(name, value)
		}
		return fallback
	}
	messages := []pgproto3.BackendMessage{&pgproto3.AuthenticationOk{}}
	for _, status := range [][2]string{
		{"server_version", "16.15"},
		{"server_encoding", "UTF8"},
		{"client_encoding", setting("client_encoding", "UTF8")},
		{"application_name", setting("application_name", "")},
		{"DateStyle", setting("datestyle", "ISO, MDY")},
		{"TimeZone", setting("timezone", "UTC")},
		{"IntervalStyle", setting("intervalstyle", "postgres")},
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
	// The backend waits for the client's first message: its fork costs more than all of the login,
	// and an idle session needs none.
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
	defer s.client.server.drop(backend)
	r := relay.New(relayHost{s}, s.client.conn, s.client.reader, backend, fromBackend)
	s.client.server.mu.Lock()
	s.relay = r
	s.client.server.mu.Unlock()
	r.Run()
}

// openBackend has PostgreSQL start a backend with the client's settings. What
// PostgreSQL says meanwhile the client has been told at its login.
func (s *session) openBackend() (net.Conn, *bufio.Reader, error) {
	server := s.client.server
	ctx, cancel := context.WithTimeout(server.ctx, backendTimeout)
	defer cancel()
	conn, err := server.postgres.Dial(ctx)
	if err != nil {
		return nil, nil, err
	}
	if !server.track(conn) {
		return nil, nil, net.ErrClosed
	}
	reader := bufio.NewReaderSize(conn, backendBuffer)
	key, err := s.startBackend(conn, reader)
	if err != nil {
		server.drop(conn)
		return nil, nil, err
	}
	server.mu.Lock()
	defer server.mu.Unlock()
	s.backendKey = key
	if n := server.namespaces[s.namespace]; n != nil {
		s.schema = n.version
	}
	return conn, reader, nil
}

// startBackend returns the backend's process ID and secret.
func (s *session) startBackend(conn net.Conn, reader *bufio.Reader) (key []byte, err error) {
	conn.SetDeadline(time.Now().Add(backendTimeout))
	parameters := map[string]string{"user": s.startup.user, "database": databaseName, "lock_timeout": relay.LockTimeout}
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
		kind, body, err := relay.ReadMessage(reader)
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

// cancel carries a CancelRequest to the backend of the session it names.
func (c *client) cancel(body []byte) error {
	c.record(func(a *Attempt) { a.Cancel = true })
	key := c.server.toCancel(body)
	if key == nil {
		return errors.New("cancel request: no session has this key, or none that runs a query")
	}
	if c.server.ignoreCancel {
		return errCancel
	}
	ctx, stop := context.WithTimeout(c.server.ctx, backendTimeout)
	defer stop()
	if err := c.server.postgres.Cancel(ctx, key); err != nil {
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
	session.cancelled = session.backendKey != nil && !s.ignoreCancel
	return session.backendKey
}

// backend is the number by which PostgreSQL knows the session.
func (s *session) backend() uint32 {
	s.client.server.mu.Lock()
	defer s.client.server.mu.Unlock()
	return s.backendPID()
}

// backendPID is backend for who holds server.mu.
func (s *session) backendPID() uint32 { return binary.BigEndian.Uint32(s.backendKey) }

func (s *session) key() []byte {
	s.client.server.mu.Lock()
	defer s.client.server.mu.Unlock()
	return s.backendKey
}
