package relay

import (
	"errors"
	"sync"

	"github.com/jackc/pgx/v5/pgproto3"
)

// exchange is what the two directions of a session know of each other. Where a rule of DSQL is
// concerned, the direction to PostgreSQL sends something else than the client did, and leaves a
// rewrite for the direction to the client.
type exchange struct {
	host Host

	mu      sync.Mutex // guards what follows
	changed sync.Cond  // signals a change of it
	ended   bool       // PostgreSQL sends no more

	pendingResponses int  // to messages of the extended protocol
	pendingReady     int  // ReadyForQuery messages
	failed           bool // PostgreSQL has sent an error and no ReadyForQuery since
	copying          bool // PostgreSQL takes CopyData, and the client has not ended it
	copiedIn         bool // the command is a COPY from the client
	status           byte // in the last ReadyForQuery
	rows             int  // changed in the transaction
	rewrite          rewrite
	heldTag          []byte // a CommandComplete that waits for its commit

	// tooManyRows: the client has been told that the rows are too many, and that its transaction has
	// failed. PostgreSQL has not heard of it yet.
	tooManyRows bool

	committing    bool // what PostgreSQL does next is a commit
	schemaChanged bool // of a schema change
	submittedJob  bool // of a job
}

// rewrite is how the client gets the responses to what PostgreSQL is being asked.
type rewrite struct {
	drop          bool                    // not at all
	replacement   *pgproto3.ErrorResponse // as this, in place of an error or of a ROLLBACK's tag
	withholdReady bool                    // without ReadyForQuery, unless something fails
	withholdTag   bool                    // without CommandComplete, until COMMIT has one
	hideBlock     bool                    // as if outside of the transaction block, which is ours
	tag           string                  // with this command tag
	offset        int                     // characters before the statement in the client's query string
}

func newExchange(host Host) *exchange {
	x := &exchange{host: host, status: 'I'}
	x.changed.L = &x.mu
	return x
}

func (x *exchange) end() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.ended = true
	x.changed.Broadcast()
}

var errEnded = errors.New("PostgreSQL has ended the session")

// wait waits until PostgreSQL's responses have made done true.
func (x *exchange) wait(done func() bool) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	for !done() {
		if x.ended {
			return errEnded
		}
		x.changed.Wait()
	}
	return nil
}

// update changes what responses look at. It must not be called while a response is pending that the
// change is not meant for.
func (x *exchange) update(change func()) {
	x.mu.Lock()
	defer x.mu.Unlock()
	change()
}

// hasFailed reports whether the client has been told of an error in what was asked last.
func (x *exchange) hasFailed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.failed || x.tooManyRows
}

func (x *exchange) currentStatus() byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.status
}
