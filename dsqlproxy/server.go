package dsqlproxy

import (
	"cmp"
	"container/list"
	"context"
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dsqlgo/dsql/internal/configerr"
)

const (
	defaultUser     = "admin"
	defaultDatabase = "postgres"

	// acceptPause is how long to wait after a failed accept, which is out of file descriptors as a
	// rule, before the next one.
	acceptPause = 10 * time.Millisecond

	// maxHalfOpen bounds the connections that have not said who they are. One more ends the oldest:
	// a client sends its startup within milliseconds, so the oldest is not one.
	maxHalfOpen = 1000
)

// server is one run of Serve.
type server struct {
	log         *slog.Logger
	secret      *scramSecret // nil: no password
	tls         *tls.Config
	roles       map[string]*pgconn.Config // how to log in, by role
	database    string
	anyDatabase bool
	compat      bool
	maxClients  int
	drainTime   time.Duration
	spares      *spares // nil: none

	accepting context.Context // ends when Serve's ctx does: the drain begins
	ctx       context.Context // ends when nothing may run any more
	cancel    context.CancelFunc
	done      chan struct{} // closed when Serve returns
	clients   sync.WaitGroup
	proofs    chan struct{} // a place for each password that is looked at

	mu       sync.Mutex // guards what follows
	halfOpen list.List  // of net.Conn, in the order of their accept
	admitted int        // clients that have or wait for a session
	relays   map[*relay]struct{}
	keys     map[string]*clusterSession // by BackendKeyData, for CancelRequest
	stats    Stats
}

// newServer checks p. ctx bounds the reading of the AWS environment.
func newServer(ctx context.Context, p *Proxy) (*server, error) {
	s := &server{
		log:         p.Logger,
		database:    cmp.Or(p.Config.Database, defaultDatabase),
		anyDatabase: p.AnyDatabase,
		compat:      p.Compat,
		maxClients:  p.MaxConnections,
		drainTime:   cmp.Or(p.DrainTimeout, defaultDrainTimeout),
		roles:       map[string]*pgconn.Config{},
		done:        make(chan struct{}),
		proofs:      make(chan struct{}, maxProofs),
		relays:      map[*relay]struct{}{},
		keys:        map[string]*clusterSession{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if p.MaxConnections < 0 {
		return nil, configerr.New("MaxConnections", "is %d; set how many clients may be connected, or 0 for no bound", p.MaxConnections)
	}
	if p.Spares < 0 {
		return nil, configerr.New("Spares", "is %d; set how many sessions to keep logged in, or 0 for none", p.Spares)
	}
	if p.Password != "" {
		var err error
		if s.secret, err = newScramSecret(p.Password); err != nil {
			return nil, err
		}
	}
	if p.TLS != nil {
		s.tls = serverTLS(p.TLS)
	}
	users := p.Users
	if len(users) == 0 {
		users = []string{cmp.Or(p.Config.User, defaultUser)}
	}
	for _, user := range users {
		config := p.Config
		config.User = user
		conn, err := config.ConnConfig(ctx)
		if err != nil {
			return nil, err
		}
		s.roles[user] = &conn.Config
	}
	s.ctx, s.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if p.Spares > 0 {
		s.spares = newSpares(s.ctx, p.Spares, spareKey(users[0], nil), s.logInSpare, s.log)
	}
	return s, nil
}

// protected tells whether the proxy may be reached from other machines.
func (s *server) protected() bool { return s.secret != nil && s.tls != nil }

func (s *server) ended() bool {
	select {
	case <-s.done:
		return true
	default:
		return false
	}
}

func (s *server) isDraining() bool { return s.accepting.Err() != nil }

func (s *server) serve(ctx context.Context, l net.Listener) error {
	defer close(s.done)
	accepting, stopAccepting := context.WithCancel(ctx)
	defer stopAccepting()
	s.accepting = accepting
	if s.spares != nil {
		s.spares.start()
	}
	stop := context.AfterFunc(accepting, func() { l.Close() })
	err := s.accept(l)
	stop()
	stopAccepting() // also when l failed
	s.drain()
	return err
}

func (s *server) accept(l net.Listener) error {
	for {
		conn, err := l.Accept()
		switch {
		case s.isDraining():
			if err == nil {
				conn.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		case err != nil:
			s.log.Warn("dsqlproxy: accept failed; trying again", "error", err)
			select {
			case <-time.After(acceptPause):
			case <-s.accepting.Done():
			}
			continue
		}
		s.clients.Go(func() { newClient(s, conn).serve() })
	}
}

// drain ends everything, and returns when nothing runs any more.
func (s *server) drain() {
	s.mu.Lock()
	relays := make([]*relay, 0, len(s.relays))
	for r := range s.relays {
		relays = append(relays, r)
	}
	for e := s.halfOpen.Front(); e != nil; e = e.Next() {
		e.Value.(net.Conn).Close()
	}
	s.stats.Draining = true
	s.mu.Unlock()

	if len(relays) > 0 {
		s.log.Info("dsqlproxy: draining", "sessions", len(relays), "timeout", s.drainTime)
	}
	for _, r := range relays {
		s.clients.Go(r.drain) // one whose client reads slowly is not to hold up the others
	}
	timer := time.AfterFunc(max(s.drainTime, 0), s.cancel)
	s.clients.Wait()
	timer.Stop()
	s.cancel()
	if s.spares != nil {
		s.spares.close()
	}
}

// enterHalfOpen notes a connection that has not said who it is, and returns how to take it off the
// list again.
func (s *server) enterHalfOpen(conn net.Conn) (leave func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stats.Connections++
	if s.isDraining() {
		conn.Close()
		return func() {}
	}
	if s.halfOpen.Len() == maxHalfOpen {
		oldest := s.halfOpen.Front()
		oldest.Value.(net.Conn).Close()
		s.halfOpen.Remove(oldest)
	}
	e := s.halfOpen.PushBack(conn)
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.halfOpen.Remove(e) // does nothing when it is off the list
	}
}

// admit counts a client, and tells whether MaxConnections allows it.
func (s *server) admit() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.maxClients > 0 && s.admitted >= s.maxClients {
		return false
	}
	s.admitted++
	return true
}

func (s *server) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.admitted--
}

// register makes a relay known to drain, and its session to CancelRequests.
func (s *server) register(r *relay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.relays[r] = struct{}{}
	s.keys[r.session.key()] = r.session
	s.stats.Sessions++
}

func (s *server) unregister(r *relay) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.relays, r)
	if key := r.session.key(); s.keys[key] == r.session {
		delete(s.keys, key)
	}
	toCluster, toClient := r.bytes()
	s.stats.BytesToCluster += toCluster
	s.stats.BytesToClient += toClient
}

func (s *server) count(change func(*Stats)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(&s.stats)
}

// isLocal tells whether only this machine can reach an address.
func isLocal(a net.Addr) bool {
	switch a := a.(type) {
	case *net.UnixAddr:
		return true
	case *net.TCPAddr:
		return a.IP.IsLoopback()
	}
	return false
}

// serverTLS adds what PostgreSQL's direct TLS needs. A browser offers other protocols than this
// one, so its handshake fails (PostgreSQL docs, "SSL Session Encryption").
func serverTLS(c *tls.Config) *tls.Config {
	c = c.Clone()
	c.NextProtos = []string{alpnProtocol}
	if c.MinVersion < tls.VersionTLS12 {
		c.MinVersion = tls.VersionTLS12
	}
	return c
}

// roleNames are what clients may ask for, sorted.
func (s *server) roleNames() []string {
	var names []string
	for name := range s.roles {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
