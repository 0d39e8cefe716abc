package dsqltest

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/relay"
	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
)

// namespace is what is known of the schema changes of sessions that see each other's tables: those
// in one of the schemas that Schema made, or all others.
type namespace struct {
	version int            // counts the changes
	changed map[string]int // when a table of the name was last changed
}

func newNamespace() *namespace { return &namespace{changed: make(map[string]int)} }

// schemaChange is one that is about to be committed.
type schemaChange struct {
	tables       map[uint32]string // by their OIDs, "" for those that only the transaction itself sees
	transactions []openTransaction // that have used the tables
}

type openTransaction struct {
	relay *relay.Relay
	id    int
}

// changingLocks are those that a schema change has on the tables that it changes.
const changingLocks = "('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"

// firstUserOID is the lowest OID that is not PostgreSQL's own (FirstNormalObjectId).
const firstUserOID = 16384

func (h relayHost) SchemaChanging(st *rules.Statement) (committed func()) {
	s := h.server()
	condition := fmt.Sprintf("oid IN (SELECT relation FROM pg_locks WHERE pid = %d AND relation >= %d AND mode IN %s)",
		h.session.backend(), firstUserOID, changingLocks)
	names := st.Names()
	if names[0] == "grant" || names[0] == "revoke" {
		// These lock no table.
		for i, name := range names {
			names[i] = rules.QuoteLiteral(name)
		}
		list := strings.Join(names, ", ")
		condition = fmt.Sprintf("oid >= %d AND (relname IN (%s) OR relnamespace::regnamespace::text IN (%s))", firstUserOID, list, list)
	}
	change := s.findChange(h.session, condition)
	if names[0] == "create" {
		s.addNewTables(h.session, change)
	}
	return func() { s.schemaChanged(h.session, change) }
}

// findChange returns the tables that meet a condition on pg_class, and who uses them.
func (s *Server) findChange(session *session, condition string) *schemaChange {
	change := &schemaChange{tables: make(map[uint32]string)}
	rows, err := s.postgres.Control("SELECT c.oid, relname, string_agg(DISTINCT pid::text, ',') FROM pg_class c" +
		" LEFT JOIN pg_locks ON relation = c.oid WHERE c." + condition + " GROUP BY c.oid, relname")
	if err != nil {
		return change // the server ends
	}
	for _, row := range rows {
		change.tables[parseOID(row[0])] = row[1]
		for pid := range strings.SplitSeq(row[2], ",") {
			if other := s.sessionOf(parseOID(pid)); other != nil && other != session {
				change.transactions = append(change.transactions, openTransaction{other.relay, other.relay.Transaction()})
			}
		}
	}
	return change
}

// addNewTables notes the tables that nobody else sees yet.
func (s *Server) addNewTables(session *session, change *schemaChange) {
	rows, err := s.postgres.Control(fmt.Sprintf("SELECT DISTINCT relation FROM pg_locks l WHERE pid = %d AND relation >= %d"+
		" AND mode = 'AccessExclusiveLock' AND NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = relation)", session.backend(), firstUserOID))
	if err != nil {
		return // the server ends
	}
	for _, row := range rows {
		change.tables[parseOID(row[0])] = ""
	}
}

func parseOID(text string) uint32 {
	n, _ := strconv.ParseUint(text, 10, 32) // 0, which is none's, for what is no number
	return uint32(n)
}

// schemaChanged has other sessions fail with OC001: at COMMIT where they have used a table in the
// transaction that they are in, and else at the next statement about it.
func (s *Server) schemaChanged(session *session, change *schemaChange) {
	s.nameNewTables(change)
	for _, t := range change.transactions {
		t.relay.Outdate(t.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.namespaces[session.namespace]
	if n == nil {
		return // the schema of a test that has ended
	}
	// A session that has missed another's change still has to hear of that.
	if session.schema == n.version {
		session.schema++
	}
	n.version++
	for _, name := range change.tables {
		n.changed[name] = n.version
	}
}

func (s *Server) nameNewTables(change *schemaChange) {
	var unnamed []string
	for id, name := range change.tables {
		if name == "" {
			unnamed = append(unnamed, strconv.FormatUint(uint64(id), 10))
		}
	}
	if len(unnamed) == 0 {
		return
	}
	rows, err := s.postgres.Control("SELECT oid, relname FROM pg_class WHERE oid IN (" + strings.Join(unnamed, ", ") + ")")
	if err != nil {
		return // the server ends
	}
	for _, row := range rows {
		change.tables[parseOID(row[0])] = row[1]
	}
}

// jobChanged tells of a table that a job of the session's has changed.
func (s *Server) jobChanged(session *session, table uint32) {
	s.schemaChanged(session, s.findChange(session, fmt.Sprintf("oid = %d", table)))
}

func (h relayHost) SchemaOutdated(st *rules.Statement) bool {
	s := h.server()
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.namespaces[h.session.namespace]
	if n == nil || h.session.schema == n.version {
		return false
	}
	for _, name := range st.Names() {
		if n.changed[name] > h.session.schema {
			h.session.schema = n.version
			return true
		}
	}
	return false
}

func (h relayHost) CatchUpSchema() {
	s := h.server()
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := s.namespaces[h.session.namespace]; n != nil {
		h.session.schema = n.version
	}
}

// A schema change that waits for a lock has the transactions displaced that hold it: at once those
// that are idle, and those with a statement that runs after a time in which most statements end.
const (
	unblockInterval = 5 * time.Millisecond
	statementGrace  = 4 * unblockInterval
)

func (h relayHost) Unblock() (stop func()) {
	s := h.server()
	ctx, cancel := context.WithCancel(s.ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(unblockInterval)
		defer ticker.Stop()
		for started := time.Now(); ; {
			select {
			case <-ticker.C:
				s.displace(h.session.backend(), time.Since(started) > statementGrace)
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// displace displaces the transactions that a backend waits for.
func (s *Server) displace(backend uint32, running bool) {
	rows, err := s.postgres.Control(fmt.Sprintf("SELECT unnest(pg_blocking_pids(%d))", backend))
	if err != nil {
		return // the server ends
	}
	for _, row := range rows {
		other := s.sessionOf(parseOID(row[0]))
		if other == nil {
			continue
		}
		other.relay.Displace(running, func() {
			ctx, cancel := context.WithTimeout(s.ctx, backendTimeout)
			defer cancel()
			s.postgres.Cancel(ctx, other.key()) // if it fails, we are here again
		})
	}
}

// sessionOf returns the session that a backend of PostgreSQL serves, or nil.
func (s *Server) sessionOf(backend uint32) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, session := range s.sessions {
		if session.relay != nil && session.backendPID() == backend {
			return session
		}
	}
	return nil
}
