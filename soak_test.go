package dsql_test

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/dsqlgo/dsql"
	"github.com/dsqlgo/dsql/dsqltest"
	"github.com/dsqlgo/dsql/dsqltx"
)

// The flags of "make soak".
var (
	soakFor  = flag.Duration("soak.duration", 20*time.Second, "how long TestSoak runs")
	soakSeed = flag.Uint64("soak.seed", 0, "the seed of TestSoak's choices; 0 takes a new one")
)

const (
	soakWorkers  = 24
	soakAccounts = 20
	soakOpTime   = 8 * time.Second
)

// TestSoak has pools of pgx and database/sql, and single connections, read and write while
// everything goes wrong that dsqltest can have go wrong, with tokens and sessions that last
// seconds and credentials that rotate and fail. At the end the books balance: what was
// acknowledged is there once, what was reported unknown at most once, what failed is not there,
// and no other row is.
//
// The seed decides every choice of a worker and the sequence of faults; how they meet is left to
// the scheduler.
func TestSoak(t *testing.T) {
	seed := *soakSeed
	if seed == 0 {
		seed = rand.Uint64()
	}
	t.Logf("seed %d, for %s", seed, *soakFor)

	memory, goroutines := heap(), runtime.NumGoroutine()
	s := newSoak(t, seed)
	s.run(*soakFor)
	s.settle()
	s.report()
	s.balance()
	s.close()

	if !eventually(10*time.Second, func() bool { return runtime.NumGoroutine() <= goroutines }) {
		stacks := make([]byte, 1<<20)
		t.Errorf("more than the %d goroutines of the start:\n%s", goroutines, stacks[:runtime.Stack(stacks, true)])
	}
	// What pgx, TLS and the SDK keep for good is less; a leak of 1 KiB a connection is more in ten minutes.
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
	seed        uint64
	server      *dsqltest.Server
	config      dsql.Config
	pool        *pgxpool.Pool
	db          *sql.DB
	calm        atomic.Bool // no more faults
	credentials atomic.Uint64
	dials       atomic.Int64

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
	// Not New, which holds the server, and its record of all attempts, until the test ends.
	var err error
	s.server, err = dsqltest.Start(t.Context(), dsqltest.WithConnectQuota(200, 100), dsqltest.WithSessionLifetime(5*time.Second))
	require.NoError(t, err)
	t.Cleanup(func() {
		if s.server != nil { // it failed on the way
			_ = s.server.Close()
		}
	})
	s.config = s.server.Config()
	s.createTables()

	s.config.Credentials = aws.NewCredentialsCache(aws.CredentialsProviderFunc(s.retrieve))
	s.config.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		s.dials.Add(1)
		return new(net.Dialer).DialContext(ctx, network, address)
	}
	s.config.TokenLifetime = 3 * time.Second
	s.config.ConnectTimeout = 4 * time.Second
	s.config.Params = map[string]string{"pool_max_conns": "12"}
	s.pool, err = dsql.NewPool(t.Context(), s.config)
	require.NoError(t, err)
	other := s.config
	other.Params = nil
	other.EarlyAuth = true
	other.SSLNegotiation = "postgres"
	s.db, err = dsql.OpenDB(t.Context(), other)
	require.NoError(t, err)
	s.db.SetMaxOpenConns(12)
	return s
}

func (s *soak) createTables() {
	conn, err := dsql.Connect(s.Context(), s.config)
	require.NoError(s, err)
	defer conn.Close(s.Context())
	for _, q := range []string{
		"create table ledger (id text not null)", // no key: what is written twice is there twice
		"create table counters (id int primary key, n bigint not null)",
		"create table accounts (id int primary key, balance bigint not null)",
		"insert into counters select id, 0 from generate_series(0, 7) id",
		fmt.Sprintf("insert into accounts select id, 100 from generate_series(0, %d) id", soakAccounts-1),
	} {
		_, err := conn.Exec(s.Context(), q)
		require.NoError(s, err)
	}
}

// retrieve gives credentials of two seconds (of one, no token could be signed in time). One time in ten it fails, and one time in twenty
// what it gives is refused.
func (s *soak) retrieve(context.Context) (aws.Credentials, error) {
	n := s.credentials.Add(1)
	c := aws.Credentials{
		AccessKeyID: fmt.Sprintf("AKIASOAK%d", n), SecretAccessKey: fmt.Sprintf("secret %d", n), SessionToken: "session",
		CanExpire: true, Expires: time.Now().Add(2 * time.Second),
	}
	if !s.calm.Load() {
		switch r := s.random("credentials", n).IntN(20); {
		case r < 2:
			s.struck("credentials cannot be had")
			return aws.Credentials{}, errors.New("soak: no credentials now")
		case r == 2:
			s.struck("credentials are refused")
			return c, nil
		}
	}
	s.server.AllowKey(c.AccessKeyID, c.SecretAccessKey, c.SessionToken)
	return c, nil
}

// random returns a sequence of choices of its own.
func (s *soak) random(of string, n uint64) *rand.Rand {
	for _, b := range []byte(of) {
		n = n*31 + uint64(b)
	}
	return rand.New(rand.NewPCG(s.seed, n))
}

func (s *soak) struck(fault string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults[fault]++
}

// run has the workers work and the faults strike for a while.
func (s *soak) run(d time.Duration) {
	ctx, cancel := context.WithTimeout(s.Context(), d)
	defer cancel()
	s.spoil()
	var wg sync.WaitGroup
	wg.Go(func() { s.refuse(ctx) })
	for w := range soakWorkers {
		wg.Go(func() { s.work(ctx, w) })
	}
	wg.Wait()
}

// spoil has faults strike half of the connections and a part of the commits.
func (s *soak) spoil() {
	connections := s.random("connections", 0) // dsqltest asks for one at a time
	s.server.SetFaults(func() dsqltest.Fault {
		if connections.IntN(2) == 0 {
			return dsqltest.Fault{}
		}
		effects := []dsqltest.Effect{dsqltest.Reset, dsqltest.HangUp, dsqltest.Garbage, dsqltest.SkipPassword, dsqltest.Silence}
		f := dsqltest.Fault{Phase: dsqltest.Phase(connections.IntN(6)), Effect: effects[connections.IntN(len(effects))]}
		f.After = connections.IntN([]int{1, 10, 300}[connections.IntN(3)]) // some answers are short
		if f.Effect == dsqltest.Silence && connections.IntN(10) > 0 {
			f.Effect = dsqltest.Reset // each silence takes whole seconds
		}
		if f.Phase == dsqltest.OnQuery {
			f.After = connections.IntN(4_000)
		}
		return f
	})
	var mu sync.Mutex
	commits := s.random("commits", 0)
	s.server.SetCommitFaults(func() dsqltest.CommitFault {
		mu.Lock()
		defer mu.Unlock()
		if commits.IntN(12) > 0 {
			return dsqltest.NoFault
		}
		return []dsqltest.CommitFault{dsqltest.BeforeCommit, dsqltest.AfterCommit, dsqltest.Conflict, dsqltest.Conflict}[commits.IntN(4)]
	})
}

// refuse has logins refused, in every way that there is, but not more than one in ten: connects that are
// refused slow down, and refusals that went on by the clock would soon be all that they meet.
func (s *soak) refuse(ctx context.Context) {
	random := s.random("refusals", 0)
	refusals := []dsqltest.Refusal{dsqltest.RefuseWaking, dsqltest.RefuseRate, dsqltest.RefuseConnections, dsqltest.RefuseExpired, dsqltest.RefuseAccess}
	tick := time.NewTicker(300 * time.Millisecond)
	defer tick.Stop()
	for refused := 0; ; {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if n := 1 + random.IntN(3); int64(refused+n) <= s.dials.Load()/10 {
				s.server.RefuseNext(n, refusals[random.IntN(len(refusals))])
				refused += n
			}
		}
	}
}

// work runs one operation after the other. Each returns the rows that its error speaks of.
func (s *soak) work(ctx context.Context, worker int) {
	random := s.random("worker", uint64(worker))
	var choices []int
	operations := []struct {
		name  string
		share int
		run   func(ctx context.Context, random *rand.Rand, id string) ([]string, error)
	}{
		{"Run", 8, s.runTx}, {"RunSQL", 8, s.runSQL}, {"Exec", 3, s.exec}, {"Writer", 1, s.writeRows},
		{"transfer", 4, s.transfer}, {"read", 2, s.read}, {"Connect", 1, s.connect},
	}
	for i, o := range operations {
		choices = append(choices, slices.Repeat([]int{i}, o.share)...)
	}
	for n := 0; ctx.Err() == nil; n++ {
		o := operations[choices[random.IntN(len(choices))]]
		running, cancel := context.WithTimeout(s.Context(), soakOpTime) // not ctx: what was begun ends
		rows, err := o.run(running, random, fmt.Sprintf("%d-%d", worker, n))
		cancel()
		result, became := s.classify(o.name, err), failed
		switch {
		case err == nil:
			became = acknowledged
		case errors.Is(err, dsqltx.ErrCommitUnknown):
			became = unknown
		}
		s.mu.Lock()
		s.ended[o.name+": "+result]++
		for _, row := range rows {
			s.written[row] = became
		}
		s.mu.Unlock()
	}
}

func (s *soak) runTx(ctx context.Context, random *rand.Rand, id string) ([]string, error) {
	counter := random.IntN(8)
	return []string{"counted " + id}, dsqltx.Run(ctx, s.pool, func(ctx context.Context, tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "insert into ledger values ($1)", "counted "+id); err != nil {
			return err
		}
		_, err := tx.Exec(ctx, "update counters set n = n + 1 where id = $1", counter)
		return err
	})
}

func (s *soak) runSQL(ctx context.Context, random *rand.Rand, id string) ([]string, error) {
	counter := random.IntN(8)
	return []string{"counted " + id}, dsqltx.RunSQL(ctx, s.db, func(ctx context.Context, tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, "update counters set n = n + 1 where id = $1", counter); err != nil {
			return err
		}
		_, err := tx.ExecContext(ctx, "insert into ledger values ($1)", "counted "+id)
		return err
	})
}

func (s *soak) exec(ctx context.Context, random *rand.Rand, id string) ([]string, error) {
	if random.IntN(2) == 0 { // without arguments, which is the simple protocol
		return []string{id}, dsqltx.Retry(ctx, func(ctx context.Context) error {
			_, err := s.db.ExecContext(ctx, "insert into ledger values ('"+id+"')")
			return err
		})
	}
	_, err := dsqltx.Exec(ctx, s.pool, "insert into ledger values ($1)", id)
	return []string{id}, err
}

// writeRows keeps the books of each batch itself.
func (s *soak) writeRows(ctx context.Context, random *rand.Rand, id string) ([]string, error) {
	rows := make([][]any, 60)
	for i := range rows {
		rows[i] = []any{fmt.Sprintf("%s row %d", id, i)}
	}
	w := dsqltx.Writer{Table: pgx.Identifier{"ledger"}, Columns: []string{"id"}, BatchRows: 20, Insert: random.IntN(2) == 0}
	report, err := w.Write(ctx, s.pool, rows)
	s.mu.Lock()
	defer s.mu.Unlock()
	for state, became := range map[dsqltx.BatchState]fate{dsqltx.BatchIn: acknowledged, dsqltx.BatchUnknown: unknown, dsqltx.BatchOut: failed} {
		for _, row := range report.Rows(rows, state) {
			s.written[row[0].(string)] = became
		}
	}
	return nil, err
}

func (s *soak) transfer(ctx context.Context, random *rand.Rand, _ string) ([]string, error) {
	from, to := random.IntN(soakAccounts), random.IntN(soakAccounts)
	return nil, dsqltx.Run(ctx, s.pool, func(ctx context.Context, tx pgx.Tx) error {
		var balance int
		if err := tx.QueryRow(ctx, "select balance from accounts where id = $1 for update", from).Scan(&balance); err != nil {
			return err
		}
		b := &pgx.Batch{}
		b.Queue("update accounts set balance = balance - 1 where id = $1", from)
		b.Queue("update accounts set balance = balance + 1 where id = $1", to)
		return tx.SendBatch(ctx, b).Close()
	})
}

// read looks at the accounts' sum, through either pool.
func (s *soak) read(ctx context.Context, random *rand.Rand, _ string) ([]string, error) {
	const query = "select sum(balance)::int from accounts"
	sum, pgxPool := 0, random.IntN(2) == 0
	err := dsqltx.Runner{Idempotent: true}.Retry(ctx, func(ctx context.Context) error {
		if pgxPool {
			return s.pool.QueryRow(ctx, query).Scan(&sum)
		}
		return s.db.QueryRowContext(ctx, query).Scan(&sum)
	})
	if err == nil && sum != 100*soakAccounts {
		s.Errorf("a snapshot of accounts sums up to %d", sum)
	}
	return nil, err
}

func (s *soak) connect(ctx context.Context, _ *rand.Rand, id string) ([]string, error) {
	conn, err := dsql.Connect(ctx, s.config)
	if err != nil {
		return []string{id}, err
	}
	defer conn.Close(ctx)
	return []string{id}, dsqltx.Run(ctx, conn, func(ctx context.Context, tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "insert into ledger values ($1)", id)
		return err
	})
}

// classify names what ended an operation. An error that it cannot name fails the test.
func (s *soak) classify(operation string, err error) string {
	if err == nil {
		return "done"
	}
	for _, c := range []struct {
		name string
		err  error
	}{
		{"commit unknown", dsqltx.ErrCommitUnknown}, {"no credentials", dsql.ErrCredentials}, {"token expired", dsql.ErrTokenExpired},
		{"access denied", dsql.ErrAccessDenied}, {"rate exceeded", dsql.ErrRateExceeded},
		{"too many connections", dsql.ErrTooManyConnections}, {"waking", dsql.ErrClusterWaking},
	} {
		if errors.Is(err, c.err) {
			return c.name
		}
	}
	var pgErr *pgconn.PgError
	switch {
	case dsqltx.IsConflict(err):
		return "conflict"
	case errors.As(err, &pgErr):
		switch pgErr.Code {
		case "08P01", "57P01": // an unexpected password message, a session that has lived its time
			return "connection lost"
		}
	case errors.Is(err, context.DeadlineExceeded):
		return "deadline"
	case strings.Contains(err.Error(), "tls: "), strings.Contains(err.Error(), "unexpected answer"), strings.Contains(err.Error(), "refused TLS"):
		return "not a DSQL server"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, pgconn.ErrConnClosed):
		return "connection lost"
	}
	s.Errorf("%s ended with an error of no class: %v", operation, err)
	return "unclassified"
}

// settle ends the faults, and waits until both pools work as on any day: with new connections, so that
// no refusal is left over, and credentials that came after the last ones which are refused.
func (s *soak) settle() {
	s.calm.Store(true)
	spoiled := s.credentials.Load()
	s.server.SetFaults(nil)
	s.server.SetCommitFaults(nil)
	s.server.SetSessionLifetime(time.Hour)
	s.db.SetMaxIdleConns(0)
	var err error
	require.True(s, eventually(2*time.Minute, func() bool {
		s.pool.Reset()
		ctx, cancel := context.WithTimeout(s.Context(), soakOpTime)
		defer cancel()
		err = errors.Join(s.pool.Ping(ctx), s.db.PingContext(ctx))
		return err == nil && s.credentials.Load() > spoiled
	}), "%v", err)
}

// report says what struck, and how the operations ended.
func (s *soak) report() {
	counts := s.server.Transactions()
	s.faults["commits cut"] = counts.Cuts
	s.faults["conflicts"] = counts.Conflicts
	for _, a := range s.server.Attempts() {
		switch {
		case a.Fault.Effect != 0:
			a.Fault.After = 0
			s.faults[a.Fault.String()]++
		case strings.Contains(strings.ToLower(a.Outcome), "unable to accept"):
			s.faults["refusals"]++
		}
	}
	total := 0
	for _, name := range slices.Sorted(maps.Keys(s.faults)) {
		s.Logf("fault     %7d %s", s.faults[name], name)
		total += s.faults[name]
	}
	for _, name := range slices.Sorted(maps.Keys(s.ended)) {
		s.Logf("operation %7d %s", s.ended[name], name)
	}
	s.Logf("%d faults struck", total)
	require.Positive(s, total)
	for _, kind := range []string{"Run", "RunSQL", "Exec", "Writer", "transfer", "read", "Connect"} {
		require.Positive(s, s.ended[kind+": done"], kind)
	}
}

// balance compares the books with the database.
func (s *soak) balance() {
	rows, err := s.pool.Query(s.Context(), "select id, count(*) from ledger group by id")
	require.NoError(s, err)
	found := map[string]int{}
	var id string
	var times int
	_, err = pgx.ForEachRow(rows, []any{&id, &times}, func() error { found[id] = times; return nil })
	require.NoError(s, err)

	fates, landed, counted := map[fate]int{}, 0, 0
	for id, became := range s.written {
		n := found[id]
		delete(found, id)
		fates[became]++
		switch {
		case became == acknowledged && n != 1, became == unknown && n > 1, became == failed && n > 0:
			s.Errorf("row %q was reported %s and is there %d times", id, became, n)
		case became == unknown:
			landed += n
		}
		if strings.HasPrefix(id, "counted ") {
			counted += n
		}
	}
	s.Logf("rows: %v; %d of the unknown ones are there", fates, landed)
	require.Empty(s, found, "rows that nobody wrote")
	var counters, sum int
	require.NoError(s, s.pool.QueryRow(s.Context(), "select sum(n)::int from counters").Scan(&counters))
	require.Equal(s, counted, counters)
	require.NoError(s, s.pool.QueryRow(s.Context(), "select sum(balance)::int from accounts").Scan(&sum))
	require.Equal(s, 100*soakAccounts, sum)
}

func (s *soak) close() {
	s.pool.Close()
	require.NoError(s, s.db.Close())
	require.Eventually(s, func() bool { return s.server.Sessions() == 0 }, 10*time.Second, time.Millisecond)
	require.NoError(s, s.server.Close())
	s.server, s.config, s.pool, s.db, s.written = nil, dsql.Config{}, nil, nil, nil
}
