package relay

import (
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

// invalidSQL is SQL that PostgreSQL refuses. The answer is a refusal of ours: so
// the error comes in its place, and the transaction fails, as if PostgreSQL had
// meant it.
const invalidSQL = "DSQL does not have this"

// maxName is the longest name of a prepared statement or portal that is looked
// at, in bytes. Those of clients have some 60.
const maxName = 500

// requests brings the client's messages to PostgreSQL, as far as DSQL's rules
// let them through.
type requests struct {
	*exchange
	*stream
	now func() time.Time

	open     bool // a series of extended-query messages has begun and had no Sync
	extended bool // the last series was one of those, and no simple query
	skipping bool // up to Sync, after a refusal
	waited   bool // the last statement was CALL sys.wait_for_job

	transaction rules.Transaction
	statements  map[string]*rules.Statement // prepared, by name
	portals     map[string]*rules.Statement
}

func newRequests(x *exchange, s *stream) *requests {
	return &requests{
		exchange:   x,
		stream:     s,
		now:        x.host.Now,
		statements: make(map[string]*rules.Statement),
		portals:    make(map[string]*rules.Statement),
	}
}

func (r *requests) run() error { return r.stream.run(r.handle) }

func (r *requests) handle(kind byte, size int) error {
	var copying bool
	r.update(func() { copying = r.copying })
	if copying && !r.open && (kind == 'H' || kind == 'S') {
		return r.forward(size) // PostgreSQL reads over it
	}
	switch kind {
	case 'Q', 'F', 'P', 'B', 'D', 'E', 'C', 'H', 'S':
		if err := r.begin(); err != nil {
			return err
		}
	}
	if r.skipping && kind != 'S' && kind != 'X' {
		return r.discard(size)
	}
	switch kind {
	case 'Q':
		message, err := r.read(size)
		if err != nil {
			return err
		}
		r.open, r.extended = false, false
		return r.query(message)
	case 'F':
		r.open, r.extended = false, false
		r.update(func() { r.pendingReady++ })
	case 'P':
		return r.parse(size)
	case 'B':
		names, err := r.names(size, 0, 2)
		if err != nil {
			return err
		}
		r.portals[names[0]] = r.statements[names[1]]
		r.update(func() { r.pendingResponses++ })
	case 'C':
		return r.closeNamed(size)
	case 'D':
		r.update(func() { r.pendingResponses++ })
	case 'E':
		return r.execute(size)
	case 'S':
		return r.sync(size)
	case 'c', 'f':
		// The Sync that came with Execute was read over; there will be another.
		again := copying && r.extended && !r.open
		r.open = r.open || again
		r.update(func() {
			r.copying = false
			if again {
				r.pendingReady = 0
			}
		})
	}
	return r.forward(size)
}

// begin waits until all that was asked before is answered, unless it is in the
// middle of a series. What the transaction is by then decides what comes.
func (r *requests) begin() error {
	if r.open {
		return nil
	}
	if err := r.wait(func() bool { return r.pendingReady == 0 }); err != nil {
		return err
	}
	if r.hasFailed() && r.currentStatus() == 'T' {
		if err := r.ask(invalidSQL, rewrite{drop: true}); err != nil {
			return err
		}
	}
	r.open, r.extended, r.skipping = true, true, false
	r.update(func() { r.failed, r.tooManyRows, r.rewrite = false, false, rewrite{} })
	switch r.currentStatus() {
	case 'I':
		r.transaction = rules.Transaction{}
		clear(r.portals)
	case 'E':
		r.transaction.Failed = true
	}
	return nil
}

// refuse returns the error that a statement meets, or nil.
func (r *requests) refuse(st *rules.Statement) *pgproto3.ErrorResponse {
	if refusal := r.transaction.Refuse(st, r.now(), r.host.TransactionAge()); refusal != nil {
		return refusal
	}
	if r.waited {
		r.host.CatchUpSchema() // it waited for a change to know of it
		r.waited = false
	}
	switch st.Kind {
	case rules.Read, rules.Write, rules.DDL:
		if !r.transaction.Failed && r.host.SchemaOutdated() {
			return rules.ErrSchemaConflict
		}
	}
	return nil
}

// add notes a statement that PostgreSQL has been given.
func (r *requests) add(st *rules.Statement) {
	r.transaction.Add(st, r.now())
	if st.Kind == rules.WaitForJob {
		r.waited = true
	}
}
