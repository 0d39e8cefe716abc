package dsqlproxy_test

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	mathrand "math/rand/v2"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql/dsqlproxy"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

var (
	soakFor  = flag.Duration("soak.duration", 10*time.Second, "how long TestSoak runs")
	soakSeed = flag.Uint64("soak.seed", 0, "the seed of TestSoak's choices; 0 takes a new one")
)

const (
	soakWorkers = 16
	soakOpTime  = 8 * time.Second
)

// TestSoak has clients write through a proxy while everything breaks on both sides of it: the
// cluster refuses, resets, falls silent, cuts commits and ends sessions after seconds; clients
// vanish in the middle of a message, stop reading, send other protocols, and cancel each other. At
// the end, what was acknowledged is there once, what was reported unknown at most once, what failed
// is not there; no session is left at the cluster, and the proxy's memory and goroutines are back.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = mathrand.Uint64()
	}
	t.Logf("seed %d, for %s", seed, *soakFor)
	memory, goroutines := heap(), runtime.NumGoroutine()
	s := newSoak(t, seed)
	s.run()
	s.settle()
	s.balance()
	s.close()
	if !eventually(15*time.Second, func() bool { return runtime.NumGoroutine() <= goroutines }) {
		stacks := make([]byte, 1<<20)
		t.Errorf("more than the %d goroutines of the start:\n%s", goroutines, stacks[:runtime.Stack(stacks, true)])
	}
	require.True(t, eventually(10*time.Second, func() bool { return heap() < memory+4<<20 }), "%d bytes, %d at the start", heap(), memory)
	t.Logf("heap: %d KiB before, %d KiB after", memory>>10, heap()>>10)
}

// eventually is require.Eventually without a goroutine of its own, which would be counted.
func eventually(within time.Duration, condition func() bool) bool {
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if condition() {
			return true
		}
	}
	return condition()
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

type soak struct {
	*testing.T
	seed    uint64
	cluster *dsqltest.Server
	proxy   *dsqlproxy.Proxy
	address string
	stop    func()
	pool    *pgxpool.Pool
	calm    atomic.Bool // no more faults

	mu      sync.Mutex // guards what follows
	written map[string]fate
	ended   map[string]int // operations, by kind and result
	faults  map[string]int
}

// fate is what a writer was told of a row.
type fate string

const (
	acknowledged fate = "acknowledged"
	unknown      fate = "unknown"
	failed       fate = "failed"
)

func newSoak(t *testing.T, seed uint64) *soak {
	s := &soak{T: t, seed: seed, written: map[string]fate{}, ended: map[string]int{}, faults: map[string]int{}}
	var err error
	// Not New, which holds the server, and its record of all attempts, until the test ends.
	s.cluster, err = dsqltest.Start(t.Context(), dsqltest.WithConnectQuota(500, 500), dsqltest.WithSessionLifetime(5*time.Second))
	require.NoError(t, err)
	t.Cleanup(func() {
		if s.cluster != nil { // it failed on the way
			_ = s.cluster.Close()
		}
	})
	s.proxy = &dsqlproxy.Proxy{Config: throughVPC(s.cluster), Spares: 4, DrainTimeout: 5 * time.Second, Logger: slog.New(slog.DiscardHandler)}
	s.proxy.Config.ConnectTimeout = 4 * time.Second
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s.address = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- s.proxy.Serve(ctx, l) }()
	s.stop = sync.OnceFunc(func() {
		cancel()
		require.NoError(t, <-served)
	})
	t.Cleanup(s.stop)

	config, err := pgxpool.ParseConfig(clientURL(s.address, "pool_max_conns=12 pool_max_conn_lifetime=4s"))
	require.NoError(t, err)
	config.ConnConfig.DialFunc = s.dial
	s.pool, err = pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	setup, err := pgxpool.New(t.Context(), clientURL(s.address, "")) // by connections that nothing cuts
	require.NoError(t, err)
	defer setup.Close()
	for _, q := range []string{
		"create table ledger (id text not null)", // no key: what is written twice is there twice
		"create table counters (id int primary key, n bigint not null)",
		"insert into counters select id, 0 from generate_series(0, 7) id",
	} {
		_, err := setup.Exec(t.Context(), q)
		require.NoError(t, err)
	}
	return s
}

func (s *soak) struck(fault string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[fault]++
}

// brokenConn is a client that vanishes after some bytes, in either direction.
type brokenConn struct {
	net.Conn
	left  atomic.Int64
	reset bool
	slow  bool
}

// dial opens connections of which a third break.
func (s *soak) dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if err != nil || s.calm.Load() || mathrand.IntN(3) > 0 {
		return conn, err
	}
	b := &brokenConn{Conn: conn, reset: mathrand.IntN(2) == 0, slow: mathrand.IntN(10) == 0}
	b.left.Store(mathrand.Int64N([]int64{100, 2_000, 20_000}[mathrand.IntN(3)]))
	s.struck("client breaks")
	return b, nil
}

func (b *brokenConn) Read(p []byte) (int, error) {
	if b.slow {
		p = p[:min(len(p), 7)]
	}
	n, err := b.Conn.Read(p)
	return b.spend(n, err)
}

func (b *brokenConn) Write(p []byte) (int, error) {
	if left := b.left.Load(); int64(len(p)) > left {
		n, _ := b.Conn.Write(p[:max(left, 0)]) // in the middle of a message
		return b.spend(n+1, io.ErrClosedPipe)
	}
	n, err := b.Conn.Write(p)
	return b.spend(n, err)
}

func (b *brokenConn) spend(n int, err error) (int, error) {
	if b.left.Add(-int64(n)) >= 0 {
		return n, err
	}
	if tcp, ok := b.Conn.(*net.TCPConn); ok && b.reset {
		tcp.SetLinger(0)
	}
	b.Conn.Close()
	return n, err
}

// run has the workers work and the faults strike for a while.
func (s *soak) run() {
	ctx, cancel := context.WithTimeout(s.Context(), *soakFor)
	defer cancel()
	s.spoil()
	var wg sync.WaitGroup
	wg.Go(func() { s.refuse(ctx) })
	wg.Go(func() { s.disturb(ctx) })
	for w := range soakWorkers {
		wg.Go(func() { s.work(ctx, w) })
	}
	wg.Wait()
}

// spoil has the cluster's side break a third of the connections, and a part of the commits.
func (s *soak) spoil() {
	connections := mathrand.New(mathrand.NewPCG(s.seed, 1)) // dsqltest asks for one at a time
	s.cluster.SetFaults(func() dsqltest.Fault {
		if connections.IntN(3) > 0 {
			return dsqltest.Fault{}
		}
		effects := []dsqltest.Effect{dsqltest.Reset, dsqltest.HangUp, dsqltest.Garbage}
		f := dsqltest.Fault{Phase: dsqltest.Phase(connections.IntN(6)), Effect: effects[connections.IntN(len(effects))]}
		if f.Phase == dsqltest.OnQuery {
			f.After = connections.IntN(4_000)
		}
		s.struck("cluster: " + f.Effect.String())
		return f
	})
	var mu sync.Mutex
	commits := mathrand.New(mathrand.NewPCG(s.seed, 2))
	s.cluster.SetCommitFaults(func() dsqltest.CommitFault {
		mu.Lock()
		defer mu.Unlock()
		if commits.IntN(12) > 0 {
			return dsqltest.NoFault
		}
		return []dsqltest.CommitFault{dsqltest.BeforeCommit, dsqltest.AfterCommit, dsqltest.Conflict}[commits.IntN(3)]
	})
}

// refuse has logins refused.
func (s *soak) refuse(ctx context.Context) {
	refusals := []dsqltest.Refusal{dsqltest.RefuseWaking, dsqltest.RefuseRate, dsqltest.RefuseConnections, dsqltest.RefuseExpired, dsqltest.RefuseAccess}
	for tick := time.Tick(300 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick:
			s.cluster.RefuseNext(1, refusals[mathrand.IntN(len(refusals))])
			s.struck("refusal")
		}
	}
}

// disturb has connections that are no clients, or that leave in the middle of their startup.
func (s *soak) disturb(ctx context.Context) {
	startup := startupBytes(3<<16, "user\x00admin\x00")
	for tick := time.Tick(20 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		conn, err := new(net.Dialer).DialContext(ctx, "tcp", s.address)
		if err != nil {
			continue
		}
		kind := mathrand.IntN(6)
		var first []byte
		switch kind {
		case 0:
			first = make([]byte, mathrand.IntN(200))
			rand.Read(first)
		case 1:
			first = []byte("GET / HTTP/1.1\r\n\r\n")
		case 2:
			first = startup[:mathrand.IntN(len(startup))]
		case 3:
			first = startup // and then it leaves
		case 4:
			first = append(startup, query("select repeat('x', 1000000)")...) // it does not read that
		case 5:
			first = append([]byte{0, 0, 0, 16, 0x04, 0xd2, 0x16, 0x2e}, make([]byte, 8)...) // a cancel request
		}
		_, _ = conn.Write(first)
		time.AfterFunc(time.Duration(mathrand.IntN(100))*time.Millisecond, func() { conn.Close() })
		s.struck(fmt.Sprint("disturbance ", kind))
	}
}

func (s *soak) work(ctx context.Context, worker int) {
	operations := []struct {
		name  string
		share int
		run   func(ctx context.Context, id string) error
	}{{"Run", 8, s.runTx}, {"Exec", 4, s.exec}, {"Connect", 3, s.connect}, {"Cancel", 1, s.cancel}}
	for n := 0; ctx.Err() == nil; n++ {
		o, choice := operations[0], mathrand.IntN(16)
		for _, o = range operations {
			if choice -= o.share; choice < 0 {
				break
			}
		}
		id := fmt.Sprintf("%s %d-%d", o.name, worker, n)
		running, cancel := context.WithTimeout(s.Context(), soakOpTime) // not ctx: what was begun ends
		err := o.run(running, id)
		cancel()
		became := failed
		switch {
		case err == nil:
			became = acknowledged
		case errors.Is(err, dsqltx.ErrCommitUnknown):
			became = unknown
		}
		s.mu.Lock()
		s.written[id] = became
		s.ended[o.name+": "+string(became)]++
		s.mu.Unlock()
	}
}

func (s *soak) runTx(ctx context.Context, id string) error { return insert(ctx, s.pool, id) }

// insert writes a row and counts it.
func insert(ctx context.Context, db dsqltx.Beginner, id string) error {
	return dsqltx.Run(ctx, db, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "insert into ledger values ($1)", id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "update counters set n = n + 1 where id = $1", mathrand.IntN(8))
		return err
	})
}

func (s *soak) exec(ctx context.Context, id string) error {
	_, err := dsqltx.Exec(ctx, s.pool, "insert into ledger values ($1)", id)
	return err
}

// connect is a client for one transaction, which may get a spare.
func (s *soak) connect(ctx context.Context, id string) error {
	config, err := pgx.ParseConfig(clientURL(s.address, "application_name=one"))
	if err != nil {
		return err
	}
	config.DialFunc = s.dial
	conn, err := pgx.ConnectConfig(ctx, config)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	return insert(ctx, conn, id)
}

// cancel writes a row in a transaction that is cancelled on its way, by a request that comes at any
// time.
func (s *soak) cancel(ctx context.Context, id string) error {
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	var cancelling sync.WaitGroup
	defer cancelling.Wait()
	cancelling.Go(func() { _ = conn.Conn().PgConn().CancelRequest(ctx) })
	return insert(ctx, conn, id)
}

// settle ends the faults, and waits until the pool works as on any day.
func (s *soak) settle() {
	s.calm.Store(true)
	s.cluster.SetFaults(nil)
	s.cluster.SetCommitFaults(nil)
	s.cluster.SetSessionLifetime(time.Hour)
	var err error
	require.True(s, eventually(time.Minute, func() bool {
		s.pool.Reset()
		ctx, cancel := context.WithTimeout(s.Context(), soakOpTime)
		defer cancel()
		err = s.pool.Ping(ctx)
		return err == nil
	}), "%v", err)
}

// balance compares what was told with what is there.
func (s *soak) balance() {
	rows, err := s.pool.Query(s.Context(), "select id, count(*) from ledger group by id")
	require.NoError(s, err)
	found := map[string]int{}
	var id string
	var times int
	_, err = pgx.ForEachRow(rows, []any{&id, &times}, func() error { found[id] = times; return nil })
	require.NoError(s, err)
	counted, fates := 0, map[fate]int{}
	for id, became := range s.written {
		n := found[id]
		delete(found, id)
		fates[became]++
		if became == acknowledged && n != 1 || became == unknown && n > 1 || became == failed && n > 0 {
			s.Errorf("row %q was reported %s and is there %d times", id, became, n)
		}
		if !strings.HasPrefix(id, "Exec ") {
			counted += n
		}
	}
	require.Empty(s, found, "rows that nobody wrote")
	var counters int
	require.NoError(s, s.pool.QueryRow(s.Context(), "select sum(n)::int from counters").Scan(&counters))
	require.Equal(s, counted, counters)
	s.Logf("rows: %v", fates)
	s.Logf("operations: %v", s.ended)
	s.Logf("faults: %v", s.faults)
	s.Logf("proxy: %+v", s.proxy.Stats())
	for _, kind := range []string{"Run", "Exec", "Connect", "Cancel"} {
		require.Positive(s, s.ended[kind+": acknowledged"], kind)
	}
	require.Positive(s, fates[unknown])
	stats := s.proxy.Stats()
	require.Positive(s, stats.SparesUsed)
	require.Positive(s, stats.Cancels)
	require.Positive(s, stats.Refused)
	require.Positive(s, stats.Failed)
}

func (s *soak) close() {
	s.pool.Close()
	s.stop()
	require.True(s, eventually(10*time.Second, func() bool { return s.cluster.Sessions() == 0 }), "%d sessions are left", s.cluster.Sessions())
	stats := s.proxy.Stats()
	require.Zero(s, stats.Clients)
	require.Zero(s, stats.Relaying)
	require.Zero(s, stats.HalfOpen)
	require.NoError(s, s.cluster.Close())
	s.cluster, s.proxy, s.pool, s.written, s.stop = nil, nil, nil, nil, nil
}
