package dsqlproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// farm stands for the cluster: it counts logins, and answers a Sync as long as a session is alive.
type farm struct {
	t      *testing.T
	mu     sync.Mutex // guards what follows, while spares log in
	logins map[string]int
	open   []*farmSession
	fail   atomic.Bool
}

type farmSession struct {
	key     string
	cluster net.Conn // the cluster's end
	proxy   net.Conn
	silent  atomic.Bool
	syncs   atomic.Int64
}

func (f *farm) logIn(_ context.Context, key string) (*clusterSession, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.logins[key]++
	if f.fail.Load() {
		return nil, errors.New("no")
	}
	proxy, cluster := net.Pipe()
	s := &farmSession{key: key, cluster: cluster, proxy: proxy}
	f.open = append(f.open, s)
	go func() {
		b := make([]byte, 5)
		for {
			if _, err := io.ReadFull(cluster, b); err != nil {
				return
			}
			s.syncs.Add(1)
			if !s.silent.Load() {
				cluster.Write(readyForQuery)
			}
		}
	}()
	return &clusterSession{conn: proxy}, nil
}

// first is the first session that was opened, and count how many logins a key has had.
func (f *farm) first() *farmSession {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open[0]
}

func (f *farm) count(key string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.logins[key]
}

// of finds the farm's end of a session.
func (f *farm) of(session *clusterSession) *farmSession {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, s := range f.open {
		if s.proxy == session.conn {
			return s
		}
	}
	f.t.Fatal("not a session of the farm")
	return nil
}

// withSpares runs a test with spares in a bubble of its own time.
func withSpares(t *testing.T, want int, test func(t *testing.T, f *farm, p *spares)) {
	synctest.Test(t, func(t *testing.T) {
		f := &farm{t: t, logins: map[string]int{}}
		p := newSpares(t.Context(), want, "first", f.logIn, slog.New(slog.DiscardHandler))
		p.start()
		defer func() {
			p.close()
			require.Zero(t, p.len())
			for _, s := range f.open {
				s.cluster.Close()
				s.proxy.Close()
			}
		}()
		synctest.Wait()
		test(t, f, p)
	})
}

func TestSpareKey(t *testing.T) {
	settings := map[string]string{"TimeZone": "UTC", "application_name": ""}
	user, got := parseSpareKey(spareKey("admin", settings))
	require.Equal(t, "admin", user)
	require.Equal(t, settings, got)
	user, got = parseSpareKey(spareKey("admin", nil))
	require.Equal(t, "admin", user)
	require.Empty(t, got)
	require.NotEqual(t, spareKey("a", map[string]string{"b": "c"}), spareKey("a", map[string]string{"b": "d"}))
}

// Each spare is handed out once, and another takes its place.
func TestSpareOnce(t *testing.T) {
	withSpares(t, 3, func(t *testing.T, f *farm, p *spares) {
		require.Equal(t, 3, p.len())
		seen := map[*clusterSession]bool{}
		taken := make(chan *clusterSession)
		for range 10 {
			go func() { taken <- p.take("first") }()
		}
		for range 10 {
			if session := <-taken; session != nil {
				require.False(t, seen[session], "handed out twice")
				seen[session] = true
			}
		}
		require.GreaterOrEqual(t, len(seen), 3)
		synctest.Wait()
		require.Equal(t, 3, p.len())
		require.Equal(t, len(seen)+3, f.count("first"))
		for session := range seen { // they are whole: nothing reads them, and there is no deadline
			go f.of(session).cluster.Write([]byte("x"))
			b := make([]byte, 1)
			_, err := session.conn.Read(b)
			require.NoError(t, err)
		}
	})
}

// A client that asks for other settings gets no spare, but the next one like it does.
func TestSpareKeys(t *testing.T) {
	withSpares(t, 3, func(t *testing.T, f *farm, p *spares) {
		require.Nil(t, p.take("other"))
		synctest.Wait()
		require.Equal(t, 3, p.len())
		require.Equal(t, 3, f.count("first"))
		require.Equal(t, 1, f.count("other"))
		session := p.take("other")
		require.NotNil(t, session)
		require.Equal(t, "other", f.of(session).key)
		synctest.Wait()
		require.Equal(t, 3, p.len())

		for i := range 20 { // keys that are asked for once do not pile up
			p.take(fmt.Sprint("key ", i))
			synctest.Wait()
			require.Equal(t, 3, p.len())
		}
		p.mu.Lock()
		require.LessOrEqual(t, len(p.recent), 4)
		require.LessOrEqual(t, len(p.idle), 3)
		p.mu.Unlock()
	})
}

// The place that a new key takes is that of the key which was not asked for longest.
func TestSparePlaces(t *testing.T) {
	withSpares(t, 3, func(t *testing.T, f *farm, p *spares) {
		for range 3 {
			for _, key := range []string{"a", "b", "c"} {
				p.take(key)
				synctest.Wait()
			}
		}
		for _, key := range []string{"a", "b", "c"} {
			require.Len(t, p.idle[key], 1)
			require.Equal(t, 3, f.count(key))
		}
		p.take("d")
		synctest.Wait()
		require.Empty(t, p.idle["a"])
		require.Len(t, p.idle["d"], 1)
	})
}

// A spare whose cluster ends it is replaced at once, and never handed out.
func TestSpareEnds(t *testing.T) {
	for name, end := range map[string]func(*farmSession){
		"closed": func(s *farmSession) { s.cluster.Close() },
		"words":  func(s *farmSession) { s.cluster.Write([]byte("E")) },
	} {
		t.Run(name, func(t *testing.T) {
			withSpares(t, 1, func(t *testing.T, f *farm, p *spares) {
				end(f.first())
				synctest.Wait()
				require.Equal(t, 2, f.count("first"))
				require.NotSame(t, f.first(), f.of(p.take("first")))
			})
		})
	}
}

// A spare that the network has swallowed is found by a Sync, within 25 s.
func TestSparePing(t *testing.T) {
	withSpares(t, 1, func(t *testing.T, f *farm, p *spares) {
		time.Sleep(3*sparePing + time.Second)
		require.Equal(t, 1, f.count("first"))
		require.EqualValues(t, 3, f.first().syncs.Load())
		f.first().silent.Store(true)
		time.Sleep(sparePing + sparePingTimeout)
		synctest.Wait()
		require.Equal(t, 2, f.count("first"))
		require.NotSame(t, f.first(), f.of(p.take("first")))
	})
}

// While it is checked it is not handed out, and afterwards it is.
func TestSpareWhileChecked(t *testing.T) {
	withSpares(t, 1, func(t *testing.T, f *farm, p *spares) {
		f.first().silent.Store(true)
		time.Sleep(sparePing + time.Second)
		require.Nil(t, p.take("first"))
		f.first().cluster.Write(readyForQuery)
		synctest.Wait()
		require.NotNil(t, p.take("first"))
	})
}

func TestSpareLifetime(t *testing.T) {
	withSpares(t, 1, func(t *testing.T, f *farm, p *spares) {
		time.Sleep(spareLifetime - sparePing)
		require.Equal(t, 1, f.count("first"))
		time.Sleep(2 * sparePing)
		synctest.Wait()
		require.Equal(t, 2, f.count("first"))
		require.Equal(t, 1, p.len())
	})
}

// Logins that fail are tried again, and not in a hurry.
func TestSpareLoginFails(t *testing.T) {
	withSpares(t, 2, func(t *testing.T, f *farm, p *spares) {
		f.fail.Store(true)
		f.first().cluster.Close()
		time.Sleep(10*spareRetry + time.Second)
		require.Equal(t, 2+11, f.count("first"))
		f.fail.Store(false)
		time.Sleep(spareRetry)
		synctest.Wait()
		require.Equal(t, 2, p.len())
	})
}
