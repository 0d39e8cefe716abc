package relay

import (
	"bufio"
	"errors"
	"net"
	"sync"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

// Relay is one session's. Run must be called once, the other methods at any time and by any
// goroutine.
type Relay struct {
	exchange *exchange
	client   net.Conn
	backend  net.Conn
	requests *requests
	from     *bufio.Reader // the backend
}

// New returns a Relay between a client and a backend, which are both logged in. The readers may
// hold what the connections have sent already.
func New(host Host, client net.Conn, fromClient *bufio.Reader, backend net.Conn, fromBackend *bufio.Reader) *Relay {
	x := newExchange(host)
	to := bufio.NewWriterSize(backend, requestBuffer)
	return &Relay{
		exchange: x,
		client:   client,
		backend:  backend,
		requests: newRequests(x, &stream{from: fromClient, to: to, limit: maxRequest}),
		from:     fromBackend,
	}
}

// errCut ends a session whose connection is to be cut.
var errCut = errors.New("cut at a commit")

// Run relays until either side ends, and closes both connections.
func (r *Relay) Run() {
	var responding sync.WaitGroup
	responding.Go(func() {
		defer r.client.Close()
		defer r.exchange.end()
		to := bufio.NewWriterSize(r.client, responseBuffer)
		responses{exchange: r.exchange, stream: &stream{from: r.from, to: to, limit: maxResponse}}.run()
	})
	if err := r.requests.run(); err == errCut {
		r.exchange.host.Cut()
	}
	r.backend.Close()
	responding.Wait()
}

// Transaction identifies the transaction block that the client is in.
func (r *Relay) Transaction() int {
	r.exchange.mu.Lock()
	defer r.exchange.mu.Unlock()
	return r.exchange.transactionID
}

// Outdate has the transaction fail with OC001 at its COMMIT, if the client is still in it.
func (r *Relay) Outdate(transaction int) {
	x := r.exchange
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.transactionID == transaction && x.status == 'T' && x.verdict == nil {
		x.verdict = rules.ErrSchemaConflict
	}
}

// Displace takes the locks of the client's transaction away: a schema change waits for them. Where
// the client is between two statements, the transaction is rolled back and all that the client may
// still do is to learn of it. A statement that runs is cancelled by cancel, if running says so.
// Neither is done to a transaction that is about to end.
func (r *Relay) Displace(running bool, cancel func()) {
	x := r.exchange
	x.mu.Lock()
	idle := !x.working && !x.open && x.pendingReady == 0
	if x.ended || x.committing || x.seized || idle && x.status != 'T' {
		x.mu.Unlock()
		return
	}
	if !idle {
		if running {
			x.interrupted, x.seized = true, true // so that no later statement is hit
			x.mu.Unlock()
			cancel()
			x.release()
			return
		}
		x.mu.Unlock()
		return
	}
	x.seized = true
	x.rewrite = rewrite{drop: true}
	x.pendingReady++
	x.mu.Unlock()

	query, _ := (&pgproto3.Query{String: "ROLLBACK; BEGIN"}).Encode(nil) // too short to fail
	if _, err := r.backend.Write(query); err == nil {
		x.wait(func() bool { return x.pendingReady == 0 })
	}
	x.update(func() { x.verdict, x.displaced = rules.ErrSchemaConflict, true })
	x.release()
}

// release lets requests go on that have waited for Displace.
func (x *exchange) release() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.seized = false
	x.changed.Broadcast()
}
