// Package relay carries the messages of one session between a client and a backend of PostgreSQL,
// byte by byte where no rule of DSQL is concerned. Where one is, it refuses a statement, gives
// PostgreSQL another, or changes the response.
package relay

import (
	"bufio"
	"errors"
	"net"
	"sync"
	"time"
)

// Host is the server around one session. Its methods are called by two goroutines.
type Host interface {
	Now() time.Time
	TransactionAge() time.Duration // the limit, 0 or less for none

	NextCommitFault() CommitFault               // due to the commit that follows
	Committed(schemaChanged, submittedJob bool) // PostgreSQL has made a commit
	Conflicted()                                // the client has been told of OC000
	SchemaConflicted()                          // the client has been told of OC001
	Cut()                                       // closes the client's connection, by a fault
	Canceled() bool                             // a client asked for a statement to be cancelled

	SchemaOutdated() bool // another session has changed the schema since the last call
	CatchUpSchema()       // the session knows of all changes so far
}

// CommitFault is what becomes of a commit.
type CommitFault uint8

const (
	NoFault CommitFault = iota
	Conflict
	CutBeforeCommit
	CutAfterCommit
)

// errCut ends a session whose connection is to be cut.
var errCut = errors.New("cut at a commit")

// Run relays until either side ends, and closes both connections. The readers may hold what the
// connections have sent already.
func Run(host Host, client net.Conn, fromClient *bufio.Reader, backend net.Conn, fromBackend *bufio.Reader) {
	x := newExchange(host)
	var responding sync.WaitGroup
	responding.Go(func() {
		defer client.Close()
		defer x.end()
		to := bufio.NewWriterSize(client, responseBuffer)
		responses{exchange: x, stream: &stream{from: fromBackend, to: to, limit: maxResponse}}.run()
	})
	to := bufio.NewWriterSize(backend, requestBuffer)
	if err := newRequests(x, &stream{from: fromClient, to: to, limit: maxRequest}).run(); err == errCut {
		host.Cut()
	}
	backend.Close()
	responding.Wait()
}
