package dsqlproxy

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/internal/refusal"
)

// clusterSession is a session at the cluster that is logged in.
type clusterSession struct {
	conn     net.Conn
	hijacked *pgconn.HijackedConn // what a CancelRequest needs
	greeting []byte               // AuthenticationOk, ParameterStatus, BackendKeyData: what a client is told first
	spare    bool                 // it was logged in before its client came

	cancelling sync.Mutex // held while a CancelRequest is forwarded
}

var readyForQuery = []byte{'Z', 0, 0, 0, 5, 'I'}

// obtain returns a spare session, or logs in.
func (s *server) obtain(ctx context.Context, role *pgconn.Config, settings map[string]string) (*clusterSession, error) {
	if s.spares != nil {
		if session := s.spares.take(spareKey(role.User, settings)); session != nil {
			s.count(func(st *Stats) { st.SparesUsed++ })
			return session, nil
		}
	}
	return s.logIn(ctx, role, settings)
}

// logIn opens a session. Retries, pacing and the token are the library's.
func (s *server) logIn(ctx context.Context, role *pgconn.Config, settings map[string]string) (*clusterSession, error) {
	config := role.Copy()
	for name, value := range settings {
		maps.DeleteFunc(config.RuntimeParams, func(other, _ string) bool { return strings.EqualFold(other, name) })
		config.RuntimeParams[name] = value
	}
	var notices []*pgproto3.NoticeResponse
	config.OnNotice = func(_ *pgconn.PgConn, n *pgconn.Notice) { notices = append(notices, encodeNotice(n)) }
	conn, err := pgconn.ConnectConfig(ctx, config)
	s.count(func(st *Stats) { st.Failing = err != nil && ctx.Err() == nil && !isClientsFault(err) })
	if err != nil {
		return nil, err
	}
	session, err := newClusterSession(conn, notices)
	if err != nil {
		conn.Conn().Close()
		return nil, err
	}
	return session, nil
}

// logInSpare opens a session for the clients of a key.
func (s *server) logInSpare(ctx context.Context, key string) (*clusterSession, error) {
	user, settings := parseSpareKey(key)
	return s.logIn(ctx, s.roles[user], settings)
}

func newClusterSession(conn *pgconn.PgConn, notices []*pgproto3.NoticeResponse) (*clusterSession, error) {
	h, err := conn.Hijack()
	if err != nil {
		return nil, err
	}
	messages := []pgproto3.BackendMessage{&pgproto3.AuthenticationOk{}}
	for _, name := range slices.Sorted(maps.Keys(h.ParameterStatuses)) {
		messages = append(messages, &pgproto3.ParameterStatus{Name: name, Value: h.ParameterStatuses[name]})
	}
	if len(h.SecretKey) > 0 {
		messages = append(messages, &pgproto3.BackendKeyData{ProcessID: h.PID, SecretKey: h.SecretKey})
	}
	for _, n := range notices {
		messages = append(messages, n)
	}
	// Messages that came behind ReadyForQuery, which the client gets before it.
	for h.Frontend.ReadBufferLen() > 0 {
		m, err := h.Frontend.Receive()
		if err != nil {
			return nil, err
		}
		messages = append(messages, m)
	}
	session := &clusterSession{conn: h.Conn, hijacked: h}
	for _, m := range messages {
		if session.greeting, err = m.Encode(session.greeting); err != nil {
			return nil, err
		}
	}
	h.Frontend, h.Config.OnNotice = nil, nil // for what they hold
	return session, nil
}

func encodeNotice(n *pgconn.Notice) *pgproto3.NoticeResponse {
	return &pgproto3.NoticeResponse{
		Severity: n.Severity, SeverityUnlocalized: cmp.Or(n.SeverityUnlocalized, n.Severity),
		Code: n.Code, Message: n.Message, Detail: n.Detail, Hint: n.Hint,
	}
}

// explainLogin makes what a client is told of a login that failed. What the cluster said stays as
// it is, with advice where it has no HINT of its own.
func explainLogin(err error, settings map[string]string) *fatal {
	f := &fatal{failed: true}
	if said := new(pgconn.PgError); errors.As(err, &said) {
		_, advice := refusal.Classify(said)
		f.response = pgproto3.ErrorResponse{
			Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: said.Code, Message: said.Message, Detail: said.Detail,
			Hint: cmp.Or(said.Hint, settingHint(said, settings), advice),
		}
		return f
	}
	// The library's errors end with what to do, behind a semicolon.
	message, hint := libraryText(err), ""
	if i := strings.LastIndex(message, "; "); i >= 0 {
		message, hint = message[:i], message[i+2:]
	}
	f.response = refuse(loginState(err), hint, "%s", message).response
	return f
}

// libraryText is the library's own text, without what pgconn puts before it.
func libraryText(err error) string {
	for e := err; e != nil; e = errors.Unwrap(e) {
		if text := e.Error(); strings.HasPrefix(text, "dsql: ") {
			return text
		}
	}
	return err.Error()
}

// loginState is the SQLSTATE for a login that failed before the cluster said anything.
func loginState(err error) string {
	switch {
	case errors.Is(err, dsql.ErrCredentials):
		return "28000" // invalid_authorization_specification
	case errors.Is(err, dsql.ErrConfig):
		return "F0000" // config_file_error
	case errors.Is(err, dsql.ErrRateExceeded):
		return "53400" // configuration_limit_exceeded, as the cluster says it
	case errors.Is(err, dsql.ErrTooManyConnections):
		return "53300" // too_many_connections
	case errors.Is(err, dsql.ErrClusterWaking):
		return "57P03" // cannot_connect_now
	}
	return "08001" // sqlclient_unable_to_establish_sqlconnection
}

// isClientsFault tells whether a login failed by what the client asked for.
func isClientsFault(err error) bool {
	said := new(pgconn.PgError)
	if !errors.As(err, &said) {
		return false
	}
	switch said.Code {
	case "0A000", "42704", "22023", "3D000": // a setting, its name, its value, the database
		return true
	}
	return false
}

// key is what a CancelRequest for the session holds: process ID and secret key.
func (c *clusterSession) key() string { return cancelKey(c.hijacked.PID, c.hijacked.SecretKey) }

// cancel asks the cluster to cancel what the session runs. It goes by TLS to the address that the
// session has, whichever way the client's own request came.
func (c *clusterSession) cancel(ctx context.Context) error {
	h := *c.hijacked
	conn, err := pgconn.Construct(&h)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, cancelTimeout)
	defer stop()
	return conn.CancelRequest(ctx)
}
