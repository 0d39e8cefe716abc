// Package counters serves a table of counters over PostgreSQL's protocol, in memory, with the
// concurrency control of DSQL: no lock is waited for, the first of several transactions that change
// a row to commit wins, and the others learn at COMMIT. A round trip takes as long as is set, and
// nothing else takes time. So benchmarks measure the client and not a server, and tests can fault
// at every message, also in the virtual time of testing/synctest.
//
// The server knows the statements in statement.go, each sent by the simple or the extended
// protocol. A snapshot is taken at a transaction's first statement, as PostgreSQL does.
package counters

import (
	"context"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Server is a table of counters and those who are connected to it.
type Server struct {
	table     *table
	roundTrip atomic.Int64 // nanoseconds
	jitter    atomic.Int64 // nanoseconds
	conflicts atomic.Int64

	mu     sync.Mutex // guards what follows
	ended  *sync.Cond // when a session has
	faults func(Event) Fault
	conns  map[*conn]bool // the server's ends of the open connections
}

// Event is a message of a client, before it is handled.
type Event struct {
	Number  int    // of the connection, 1 for the first after the login
	Name    string // Query, Parse, Describe, Bind, Execute, Sync or other
	SQL     string // of the last Query or Parse
	Commits bool   // it belongs to a COMMIT
}

// Fault is what goes wrong with a message. The zero Fault is nothing.
type Fault struct {
	Cut Cut
	// Error is the SQLSTATE to answer with in place of success. The message is handled all the same,
	// unless Unapplied.
	Error     string
	Unapplied bool
}

// Cut is where a connection ends.
type Cut int

const (
	NoCut       Cut = iota
	CutBefore       // before the message is handled
	CutAfter        // before what the message caused is answered
	CutAnswered     // behind the answer
)

// New returns a server with counters 0 to rows-1, which are 0.
func New(rows int) *Server {
	s := &Server{table: &table{rows: map[int64][]version{}}, conns: map[*conn]bool{}}
	s.ended = sync.NewCond(&s.mu)
	for id := range rows {
		s.table.rows[int64(id)] = []version{{0, 0}}
	}
	return s
}

// SetRoundTrip sets how long a message and its answer are under way together: d on average, and
// up to jitter more or less.
func (s *Server) SetRoundTrip(d, jitter time.Duration) {
	s.roundTrip.Store(int64(d))
	s.jitter.Store(int64(jitter))
}

// delay returns how long one message is under way.
func (s *Server) delay() time.Duration {
	delay := s.roundTrip.Load()
	if jitter := s.jitter.Load(); jitter > 0 {
		delay += rand.N(2*jitter) - jitter
	}
	return time.Duration(delay / 2)
}

// SetFaults has faults called for each message, by many goroutines at once; nil ends all faults.
func (s *Server) SetFaults(faults func(Event) Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = faults
}

func (s *Server) fault(e Event) Fault {
	s.mu.Lock()
	faults := s.faults
	s.mu.Unlock()
	if faults == nil {
		return Fault{}
	}
	return faults(e)
}

// Conflicts returns how many COMMITs were refused so far.
func (s *Server) Conflicts() int64 { return s.conflicts.Load() }

// Value returns a counter.
func (s *Server) Value(id int64) int64 {
	x := &tx{}
	s.table.begin(x)
	n, _ := s.table.read(x, id)
	return n
}

// ConnConfig returns what connects to s.
func (s *Server) ConnConfig() *pgx.ConnConfig {
	c, err := pgx.ParseConfig("host=counters user=u dbname=d sslmode=disable")
	if err != nil {
		panic(err)
	}
	c.Fallbacks = nil
	c.LookupFunc = func(_ context.Context, host string) ([]string, error) { return []string{host}, nil }
	c.DialFunc = s.Dial
	return c
}

// Dial connects, as a pgconn.DialFunc.
func (s *Server) Dial(context.Context, string, string) (net.Conn, error) {
	client, server := newConns(s.delay)
	session := &session{server: s, conn: server, backend: pgproto3.NewBackend(server, server), prepared: map[string]*statement{}}
	s.mu.Lock()
	s.conns[server] = true
	s.mu.Unlock()
	go func() {
		session.serve()
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.conns, server)
		s.ended.Broadcast()
	}()
	return client, nil
}

// Reset ends all connections, as a server that fails does.
func (s *Server) Reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		c.reset()
	}
}

// Wait returns when all connections have ended.
func (s *Server) Wait() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for len(s.conns) > 0 {
		s.ended.Wait()
	}
}
