package relay

import (
	"errors"
	"sync"

	"github.com/jackc/pgx/v5/pgproto3"
)

// exchange is what the two directions of a session know of each other. Where a rule of DSQL is
// concerned, the direction to PostgreSQL sends something else than the client did, and leaves a
// rewrite for the direction to the client.
//
// A transaction is in one of these states. "Sees" is the status that the client has been told,
// "has" is PostgreSQL's.
//
//	state      sees  has  ends by
//	none       I     I    BEGIN: open
//	                      a simple query that changes something: implicit
//	implicit   I     T    our COMMIT or ROLLBACK of the block, which is ours: none
//	open       T     T    COMMIT, ROLLBACK: none
//	                      a statement that conflicts with another transaction: lost
//	                      a schema change elsewhere of what it has used: outdated
//	                      a schema change elsewhere that waits for its locks: displaced
//	                      any error: failed
//	lost       T     T    COMMIT: OC000, none; ROLLBACK: none
//	                      a schema change elsewhere that waits for its locks: displaced
//	                      any error: failed
//	outdated   T     T    COMMIT: OC001, none; ROLLBACK: none
//	                      a schema change elsewhere that waits for its locks: displaced
//	                      any error: failed
//	displaced  T     T    COMMIT: OC001, none; ROLLBACK: none
//	                      any other statement: OC001, failed
//	failed     E     E    COMMIT, which is a ROLLBACK, and ROLLBACK: none
//
// lost, outdated and displaced are told by the verdict, which is COMMIT's answer. A transaction
// that has lost works on copies of its tables, see requests.lose. One that is displaced is a new,
// empty transaction for PostgreSQL. Outside of a block, a series of extended-query messages is
// PostgreSQL's own implicit transaction, up to Sync.
type exchange struct {
	host Host

	mu      sync.Mutex // guards what follows
	changed sync.Cond  // signals a change of it
	ended   bool       // PostgreSQL sends no more

	open    bool // a series of extended-query messages has begun and had no Sync
	working bool // a request is being handled
	seized  bool // Displace is at work, and no further series begins

	pending      []bool // responses to extended-query messages: true if the message was ours
	pendingReady int    // ReadyForQuery messages
	failed       bool   // PostgreSQL has sent an error and no ReadyForQuery since
	copying      bool   // PostgreSQL takes CopyData, and the client has not ended it
	copiedIn     bool   // the command is a COPY from the client
	status       byte   // in the last ReadyForQuery
	rows         int    // changed in the transaction
	rewrite      rewrite
	guard        *guard // of the statement that runs, nil without
	heldTag      []byte // a CommandComplete that waits for its commit

	// tooManyRows: the client has been told that the rows are too many, and that its transaction
	// has failed. PostgreSQL has not heard of it yet.
	tooManyRows bool

	transactionID int                     // counts transaction blocks
	verdict       *pgproto3.ErrorResponse // COMMIT's, nil for PostgreSQL's own
	displaced     bool
	interrupted   bool // the statement that runs was cancelled by Displace

	committing    bool   // what PostgreSQL does next is a commit
	submittedJob  bool   // of a job
	schemaChanged func() // to be called after it, or nil
}

// rewrite is how the client gets the responses to what PostgreSQL is being asked.
type rewrite struct {
	drop          bool                    // not at all
	onRow         func(values [][]byte)   // called for the rows that are dropped
	replacement   *pgproto3.ErrorResponse // as this, in place of an error or of a ROLLBACK's tag
	withholdReady bool                    // without ReadyForQuery, unless something fails
	withholdTag   bool                    // without CommandComplete, until COMMIT has one
	hideBlock     bool                    // as if outside of the transaction block, which is ours
	tag           string                  // with this command tag
	commitAnswer  *pgproto3.ErrorResponse // as this, in place of the tag of a COMMIT that succeeded
	offset        int                     // what to add to the positions in errors
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

// expect notes an extended-query message that PostgreSQL will respond to.
func (x *exchange) expect(ours bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.pending = append(x.pending, ours)
}

// hasFailed reports whether the client has been told of an error in what was asked last.
func (x *exchange) hasFailed() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	unaware := x.guard != nil && x.guard.conflict != nil
	return x.failed && !unaware || x.tooManyRows
}

func (x *exchange) currentStatus() byte {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.status
}

// currentVerdict returns what COMMIT is to be answered with, or nil, and whether that holds for
// every other statement too.
func (x *exchange) currentVerdict() (verdict *pgproto3.ErrorResponse, displaced bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.verdict, x.displaced
}

// endTransaction forgets what holds for one transaction only.
func (x *exchange) endTransaction() {
	x.rows, x.verdict, x.displaced = 0, nil, false
	x.transactionID++
}
