package relay

import (
	"bytes"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

// requests brings the client's messages to PostgreSQL, as far as DSQL's rules let them through.
type requests struct {
	*exchange
	*stream
	now func() time.Time

	extended bool // the last series was of extended-query messages, and no simple query
	skipping bool // up to Sync, after a refusal
	waited   bool // the last statement was CALL sys.wait_for_job

	transaction  rules.Transaction
	schemaChange *rules.Statement // of the transaction, or nil
	savepoints   savepoints
	guarded      []*rules.Statement // that the transaction has run with a guard
	copies       map[rules.Table]bool
	copiedNames  map[string]bool // that no further copy has to be made for
	copyData     bytes.Buffer    // what the client sent for the guarded statement that runs

	statements map[string]*prepared // by name
	portals    map[string]*portal
	injected   map[string]string // names of our prepared statements, by their text
}

func newRequests(x *exchange, s *stream) *requests {
	return &requests{
		exchange:   x,
		stream:     s,
		now:        x.host.Now,
		statements: make(map[string]*prepared),
		portals:    make(map[string]*portal),
		injected:   make(map[string]string),

		copies:      make(map[rules.Table]bool),
		copiedNames: make(map[string]bool),
	}
}

func (r *requests) run() error { return r.stream.run(r.handle) }

func (r *requests) handle(kind byte, size int) error {
	var copying, open bool
	r.update(func() { copying, open = r.copying, r.open })
	if copying && !open && (kind == 'H' || kind == 'S') {
		return r.forward(size) // PostgreSQL reads over it
	}
	switch kind {
	case 'Q', 'F', 'P', 'B', 'D', 'E', 'C', 'H', 'S':
		if err := r.begin(open); err != nil {
			return err
		}
		defer r.update(func() { r.working = false })
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
		r.closeSeries()
		r.extended = false
		return r.query(message)
	case 'F':
		r.closeSeries()
		r.extended = false
		r.update(func() { r.pendingReady++ })
	case 'P':
		return r.parse(size)
	case 'B':
		return r.bindPortal(size)
	case 'C':
		return r.closeNamed(size)
	case 'D':
		r.expect(false)
	case 'E':
		return r.execute(size)
	case 'S':
		return r.sync(size)
	case 'c', 'f':
		// The Sync that came with Execute was read over; there will be another.
		again := copying && r.extended && !open
		r.update(func() {
			r.open = r.open || again
			r.copying = false
			if again {
				r.pendingReady = 0
			}
		})
	}
	return r.forward(size)
}

// begin waits until all that was asked before is answered, unless it is in the middle of a series.
// What the transaction is by then decides what comes.
func (r *requests) begin(open bool) error {
	if open {
		r.update(func() { r.working = true })
		return nil
	}
	var status byte
	var failed bool  // so PostgreSQL may have read over what was to be prepared
	var unaware bool // PostgreSQL does not know of a failure that the client has been told of
	err := r.wait(func() bool {
		if r.pendingReady > 0 || r.seized {
			return false
		}
		status, failed = r.status, r.failed
		unaware = status == 'T' && (failed || r.tooManyRows)
		r.working, r.open, r.failed, r.tooManyRows, r.interrupted, r.rewrite = true, true, false, false, false, rewrite{}
		return true
	})
	if err != nil {
		return err
	}
	r.extended, r.skipping = true, false
	if failed {
		clear(r.injected)
	}
	if unaware {
		if err := r.ask(invalidSQL, rewrite{drop: true}); err != nil {
			return err
		}
		r.update(func() { r.failed = false })
		status = r.currentStatus()
	}
	switch status {
	case 'I':
		r.endTransaction()
		clear(r.portals)
	case 'E':
		r.transaction.Failed = true
	}
	return nil
}

func (r *requests) closeSeries() { r.update(func() { r.open = false }) }

// endTransaction forgets what holds for one transaction only.
func (r *requests) endTransaction() {
	r.transaction, r.schemaChange = rules.Transaction{}, nil
	r.forgetCopies()
}

func (r *requests) forgetCopies() {
	r.savepoints, r.guarded = noSavepoint, nil
	clear(r.copies)
	clear(r.copiedNames)
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
	if r.transaction.Failed || st.Kind == rules.Commit || st.Kind == rules.Rollback {
		return nil
	}
	verdict, displaced := r.currentVerdict()
	if displaced {
		r.host.SchemaConflicted()
		return verdict
	}
	if r.host.StatementFault() {
		return errUnavailable
	}
	switch st.Kind {
	case rules.Read, rules.Write, rules.DDL:
		if verdict == nil && r.host.SchemaOutdated(st) {
			r.host.SchemaConflicted()
			return rules.ErrSchemaConflict
		}
	}
	return nil
}

// add notes a statement that PostgreSQL has been given.
func (r *requests) add(st *rules.Statement) {
	r.transaction.Add(st, r.now())
	switch st.Kind {
	case rules.Commit, rules.Rollback:
		r.schemaChange = nil
		r.forgetCopies()
		r.update(r.exchange.endTransaction)
	case rules.DDL:
		r.schemaChange = st
	case rules.WaitForJob:
		r.waited = true
	case rules.Set:
		clear(r.injected) // it may be DEALLOCATE ALL
	}
}
