package dsqlproxy

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// A spare that its client gets near the end of the 60 minutes would surprise it soon after. So
	// spares are replaced after 10 minutes, which leaves 50.
	spareLifetime = 10 * time.Minute

	// A spare's connection is read all the time, so one that the cluster ends is noticed at once.
	// One that the network has swallowed is noticed by a Sync that is not answered.
	sparePing        = 20 * time.Second
	sparePingTimeout = 5 * time.Second

	// spareRetry is the wait after a login that failed; the login itself has tried for
	// ConnectTimeout.
	spareRetry = 5 * time.Second
)

// spares keeps sessions logged in for clients to come. A spare's states, and what ends each:
//
//	logging in   a session  -> idle           a failure: another login after 5 s
//	idle         a client with its key: taken; 20 s -> checking; the cluster ends it, 10 minutes: replaced
//	checking     ReadyForQuery -> idle        5 s of silence, an error: replaced
//	taken        it is the client's, for ever
//
// A spare belongs to a key, the role and the settings that it was logged in with. A client whose
// key has no spare takes over the place of the key that was not asked for longest.
type spares struct {
	want  int
	logIn func(ctx context.Context, key string) (*clusterSession, error)
	log   *slog.Logger

	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	mu        sync.Mutex // guards what follows
	recent    []string   // keys, the last one asked for first
	idle      map[string][]*spare
	loggingIn int // or waiting to, or checking
}

// spare is a session that no client has.
type spare struct {
	session *clusterSession
	key     string
	expires time.Time
	stopped chan error // gets what ended its watch: nil if it is good

	taken bool // guarded by spares.mu
}

// spareKey is the same for sessions that a client cannot tell apart. It can be turned back.
func spareKey(user string, settings map[string]string) string {
	parts := []string{user}
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		parts = append(parts, name, settings[name])
	}
	return strings.Join(parts, "\x00") // which no startup message can hold inside
}

func parseSpareKey(key string) (user string, settings map[string]string) {
	parts := strings.Split(key, "\x00")
	settings = map[string]string{}
	for i := 1; i+1 < len(parts); i += 2 {
		settings[parts[i]] = parts[i+1]
	}
	return parts[0], settings
}

// newSpares keeps want spares, at first with the key that is given.
func newSpares(ctx context.Context, want int, first string, logIn func(context.Context, string) (*clusterSession, error), log *slog.Logger) *spares {
	p := &spares{want: want, logIn: logIn, log: log, recent: []string{first}, idle: map[string][]*spare{}}
	p.ctx, p.cancel = context.WithCancel(ctx)
	return p
}

func (p *spares) start() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fill()
}

// close ends all spares, and returns when nothing of them runs any more.
func (p *spares) close() {
	p.cancel()
	p.running.Wait()
}

func (p *spares) len() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.count()
}

func (p *spares) count() (n int) {
	for _, list := range p.idle {
		n += len(list)
	}
	return n
}

// take returns a spare for key that works, or nil, and has another one logged in.
func (p *spares) take(key string) *clusterSession {
	for {
		s := p.pop(key)
		if s == nil {
			return nil
		}
		s.session.conn.SetReadDeadline(aLongTimeAgo) // ends its watch
		if err := <-s.stopped; err != nil {
			s.session.conn.Close()
			continue
		}
		if s.session.conn.SetReadDeadline(time.Time{}) == nil {
			return s.session
		}
	}
}

// pop takes the oldest spare for key off the list.
func (p *spares) pop(key string) *spare {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.touch(key)
	list := p.idle[key]
	if len(list) == 0 {
		p.makeRoom(key)
		p.fill()
		return nil
	}
	s := list[0]
	p.remove(s)
	s.taken = true
	p.fill()
	return s
}

// touch makes key the one that was asked for last.
func (p *spares) touch(key string) {
	p.recent = slices.DeleteFunc(p.recent, func(k string) bool { return k == key })
	p.recent = slices.Insert(p.recent, 0, key)
	if len(p.recent) > p.want+1 {
		p.recent = p.recent[:p.want+1] // every key may have one
	}
}

// makeRoom ends one spare of the key that was not asked for longest, if all places are taken.
func (p *spares) makeRoom(key string) {
	if p.count()+p.loggingIn < p.want {
		return
	}
	last := -1
	var victim *spare
	for k, list := range p.idle {
		age := slices.Index(p.recent, k)
		if age < 0 {
			age = len(p.recent) // not asked for since longer than the list goes back
		}
		if k != key && age > last {
			last, victim = age, list[0]
		}
	}
	if victim != nil {
		p.remove(victim)
		victim.session.conn.SetReadDeadline(aLongTimeAgo) // its watch finds that it is off the list
	}
}

// remove takes a spare off the list, and tells whether it was on it.
func (p *spares) remove(s *spare) bool {
	before := len(p.idle[s.key])
	p.idle[s.key] = slices.DeleteFunc(p.idle[s.key], func(other *spare) bool { return other == s })
	left := len(p.idle[s.key])
	if left == 0 {
		delete(p.idle, s.key)
	}
	return left < before
}

// fill starts logins for the key that was asked for last, until there are enough.
func (p *spares) fill() {
	for ; p.count()+p.loggingIn < p.want && p.ctx.Err() == nil; p.loggingIn++ {
		key := p.recent[0]
		p.running.Go(func() { p.add(key) })
	}
}

// add logs in, and watches the spare until its end.
func (p *spares) add(key string) {
	session, err := p.logIn(p.ctx, key)
	if err != nil {
		if p.ctx.Err() == nil {
			p.log.Warn("dsqlproxy: no spare session", "error", libraryText(err))
		}
		select {
		case <-time.After(spareRetry):
		case <-p.ctx.Done():
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.loggingIn--
		p.fill()
		return
	}
	session.spare = true
	s := &spare{session: session, key: key, expires: time.Now().Add(spareLifetime), stopped: make(chan error, 1)}
	p.offer(s)
	p.watch(s)
}

// offer puts a spare on the list.
func (p *spares) offer(s *spare) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.loggingIn--
	p.idle[s.key] = append(p.idle[s.key], s)
}

// watch reads a spare until a client takes it, or it is of no more use.
func (p *spares) watch(s *spare) {
	stop := context.AfterFunc(p.ctx, func() { s.session.conn.Close() })
	defer stop()
	for {
		err := p.await(s)
		p.mu.Lock()
		if s.taken {
			p.mu.Unlock()
			s.stopped <- err
			return
		}
		listed := p.remove(s)
		if listed && err == nil && time.Now().Before(s.expires) {
			p.loggingIn++ // its place is kept while it is checked
			p.mu.Unlock()
			if err = s.ping(); err == nil {
				p.offer(s)
				continue
			}
			p.mu.Lock()
			p.loggingIn--
		}
		p.fill()
		p.mu.Unlock()
		s.session.conn.Close()
		return
	}
}

// await waits until the spare is to be checked (nil), is taken (nil), or says something: a spare
// that speaks is about to end.
func (p *spares) await(s *spare) error {
	s.session.conn.SetReadDeadline(time.Now().Add(sparePing))
	p.mu.Lock()
	taken := s.taken
	p.mu.Unlock()
	if taken { // perhaps before the deadline was set
		return nil
	}
	var b [1]byte
	_, err := s.session.conn.Read(b[:])
	switch {
	case err == nil:
		return errors.New("the cluster said something to a spare session")
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil
	}
	return err
}

// ping has the cluster answer a Sync.
func (s *spare) ping() error {
	s.session.conn.SetDeadline(time.Now().Add(sparePingTimeout))
	defer s.session.conn.SetDeadline(time.Time{})
	if _, err := s.session.conn.Write([]byte{'S', 0, 0, 0, 4}); err != nil {
		return err
	}
	answer := make([]byte, len(readyForQuery))
	if _, err := io.ReadFull(s.session.conn, answer); err != nil {
		return err
	}
	if string(answer) != string(readyForQuery) {
		return errors.New("a spare session answers a Sync with something else")
	}
	return nil
}
