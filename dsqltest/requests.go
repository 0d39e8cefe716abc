package dsqltest

import (
	"bytes"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

// wrong is SQL that PostgreSQL refuses. The answer is a refusal of ours: so
// the error comes in its place, and the transaction fails, as if PostgreSQL had
// meant it.
const wrong = "DSQL does not have this"

// maxName is the longest name of a prepared statement or portal that is looked
// at, in bytes. Those of clients have some 60.
const maxName = 500

// requests brings the client's messages to PostgreSQL, as far as DSQL's rules
// let them through.
type requests struct {
	*conversation
	*relay
	now func() time.Time

	open     bool // a series of extended-query messages has begun and had no Sync
	extended bool // the last series was one of those, and no simple query
	skipping bool // up to Sync, after a refusal
	waited   bool // the last statement was CALL sys.wait_for_job

	transaction rules.Transaction
	statements  map[string]*rules.Statement // prepared, by name
	portals     map[string]*rules.Statement
}

func newRequests(c *conversation, r *relay) *requests {
	return &requests{
		conversation: c,
		relay:        r,
		now:          c.server.now,
		statements:   make(map[string]*rules.Statement),
		portals:      make(map[string]*rules.Statement),
	}
}

func (r *requests) run() error { return r.relay.run(r.handle) }

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
		r.update(func() { r.ready++ })
	case 'P':
		return r.parse(size)
	case 'B':
		names, err := r.names(size, 0, 2)
		if err != nil {
			return err
		}
		r.portals[names[0]] = r.statements[names[1]]
		r.update(func() { r.owed++ })
	case 'C':
		return r.closeNamed(size)
	case 'D':
		r.update(func() { r.owed++ })
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
				r.ready = 0
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
	if err := r.wait(func() bool { return r.ready == 0 }); err != nil {
		return err
	}
	if r.spoiled() && r.currentStatus() == 'T' {
		if err := r.ask(wrong, edit{mute: true}); err != nil {
			return err
		}
	}
	r.open, r.extended, r.skipping = true, true, false
	r.update(func() { r.failed, r.overrun, r.edit = false, false, edit{} })
	switch r.currentStatus() {
	case 'I':
		r.transaction = rules.Transaction{}
		clear(r.portals)
	case 'E':
		r.transaction.Failed = true
	}
	return nil
}

// spoiled reports whether the client has been told of an error in what was
// asked last.
func (c *conversation) spoiled() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.failed || c.overrun
}

func (c *conversation) currentStatus() byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.status
}

// settle waits until PostgreSQL has answered all of a series so far.
func (r *requests) settle() error {
	if err := r.send(&pgproto3.Flush{}); err != nil {
		return err
	}
	return r.flushAndWait(func() bool { return r.ready == 0 && (r.owed == 0 || r.failed || r.copying) })
}

func (r *requests) flushAndWait(done func() bool) error {
	if err := r.to.Flush(); err != nil {
		return err
	}
	return r.wait(done)
}

func (r *requests) send(message pgproto3.FrontendMessage) error {
	data, err := message.Encode(nil)
	if err != nil {
		return err
	}
	_, err = r.to.Write(data)
	return err
}

// ask puts a simple query to PostgreSQL and waits for its end.
func (r *requests) ask(sql string, e edit) error {
	query, err := (&pgproto3.Query{String: sql}).Encode(nil)
	if err != nil {
		return err
	}
	return r.askMessage(query, e)
}

func (r *requests) askMessage(query []byte, e edit) error {
	if err := r.pass(query, e); err != nil {
		return err
	}
	var copying bool
	if err := r.flushAndWait(func() bool {
		copying = r.copying
		return copying || r.ready == 0
	}); err != nil {
		return err
	}
	if copying {
		if err := r.copyIn(); err != nil {
			return err
		}
	}
	if err := r.flushAndWait(func() bool { return r.ready == 0 }); err != nil {
		return err
	}
	r.update(func() { r.edit = edit{} })
	return nil
}

// pass gives PostgreSQL a message that it will answer with a ReadyForQuery.
func (r *requests) pass(message []byte, e edit) error {
	r.update(func() {
		r.edit = e
		r.ready++
	})
	_, err := r.to.Write(message)
	return err
}

// copyIn carries CopyData to its end. A client that has been told of an error
// may go on to something else, which is left unread.
func (r *requests) copyIn() error {
	for {
		kind, size, err := r.next()
		if err != nil {
			return err
		}
		switch kind {
		case 'd', 'H', 'S':
		default:
			if kind != 'c' && kind != 'f' && r.spoiled() {
				return nil
			}
			return r.forward(size)
		}
		if err := r.forward(size); err != nil {
			return err
		}
	}
}

// refuse returns the error that a statement meets, or nil.
func (r *requests) refuse(st *rules.Statement) *pgproto3.ErrorResponse {
	if refusal := r.transaction.Refuse(st, r.now(), r.server.transactionAge()); refusal != nil {
		return refusal
	}
	if r.waited {
		r.server.catchUp(r.session) // it waited for a change to know of it
		r.waited = false
	}
	switch st.Kind {
	case rules.Read, rules.Write, rules.DDL:
		if !r.transaction.Failed && r.server.outdated(r.session) {
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

// commit has do make a commit, unless a fault is due. It is not done when the
// client has had another answer.
func (r *requests) commit(e edit, do func(edit) error) (done bool, err error) {
	fault := NoFault
	if !r.session.internal {
		fault = r.server.nextCommitFault()
	}
	switch fault {
	case Conflict:
		r.server.count(func(c *TransactionCounts) { c.Conflicts++ })
		return false, r.rollBack(edit{instead: rules.ErrConflict, keepReady: r.open})
	case BeforeCommit:
		if err := r.rollBack(edit{mute: true}); err != nil {
			return false, err
		}
		return false, errCut
	case AfterCommit:
		e.mute = true
	}
	defined, submits := r.transaction.ChangedSchema, r.transaction.SubmittedJob
	r.update(func() { r.committing, r.defined, r.submits = true, defined, submits })
	if err := do(e); err != nil || fault == NoFault {
		return true, err
	}
	if err := r.settle(); err != nil {
		return false, err
	}
	return false, errCut
}

// rollBack ends the transaction.
func (r *requests) rollBack(e edit) error {
	r.transaction = rules.Transaction{}
	return r.ask("ROLLBACK", e)
}

// query handles a simple query, which may be of several statements.
func (r *requests) query(message []byte) error {
	sql, _, _ := bytes.Cut(message[headerSize:], []byte{0})
	statements := rules.Parse(string(sql))
	if len(statements) == 0 {
		return r.pass(message, edit{})
	}
	for i := range statements {
		st := &statements[i]
		if len(statements) > 1 || st.Rewritten != "" {
			var err error
			if message, err = (&pgproto3.Query{String: st.ForPostgres()}).Encode(nil); err != nil {
				return err
			}
		}
		on, err := r.step(st, message, edit{shift: st.Start, tag: st.Tag, keepReady: i+1 < len(statements)})
		if err != nil || !on {
			return err
		}
	}
	if !r.transaction.Implicit {
		return nil
	}
	_, err := r.commit(edit{}, func(e edit) error { return r.ask("COMMIT", e) })
	return err
}

// step has one statement of a simple query run. What changes something outside
// of a transaction block gets a block of its own, whose COMMIT is then like any
// other. The query goes on if all is well and e keeps ReadyForQuery for it.
func (r *requests) step(st *rules.Statement, query []byte, e edit) (on bool, err error) {
	if refusal := r.refuse(st); refusal != nil {
		return false, r.answer(st, refusal)
	}
	t := &r.transaction
	if r.commits(st) {
		done, err := r.commit(e, func(e edit) error { return r.askMessage(query, e) })
		if done {
			r.add(st)
		}
		return done && !r.spoiled(), err
	}
	changes := st.Kind == rules.Write || st.Kind == rules.DDL
	if !t.Explicit && !t.Implicit && (e.keepReady || changes) && st.Kind != rules.Begin && st.Kind != rules.WaitForJob {
		if err := r.ask("BEGIN", edit{mute: true}); err != nil {
			return false, err
		}
		t.Implicit = true
	}
	if !t.Implicit && !e.keepReady {
		r.add(st)
		return false, r.pass(query, e)
	}
	if t.Implicit && st.Kind != rules.Begin && st.Kind != rules.Rollback {
		e.implicit, e.keepTag, e.keepReady = true, !e.keepReady, true
	}
	if err := r.askMessage(query, e); err != nil {
		return false, err
	}
	if !r.spoiled() {
		r.add(st)
		return true, nil
	}
	if t.Implicit {
		return false, r.rollBack(edit{mute: true})
	}
	return false, nil
}

// commits reports whether a statement ends a transaction that can be committed.
func (r *requests) commits(st *rules.Statement) bool {
	return st.Kind == rules.Commit && (r.transaction.Explicit || r.transaction.Implicit) && !r.transaction.Failed
}

// answer gives the client a refusal for a simple query. One for COMMIT ends
// the transaction, as every COMMIT does that fails.
func (r *requests) answer(st *rules.Statement, refusal *pgproto3.ErrorResponse) error {
	if r.commits(st) {
		return r.rollBack(edit{instead: refusal})
	}
	own := r.transaction.Implicit
	if err := r.ask(wrong, edit{instead: refusal, implicit: own}); err != nil || !own {
		return err
	}
	return r.rollBack(edit{mute: true})
}

// parse handles a Parse message.
func (r *requests) parse(size int) error {
	message, err := r.read(size)
	if err != nil {
		return err
	}
	name, rest, _ := bytes.Cut(message[headerSize:], []byte{0})
	sql, _, _ := bytes.Cut(rest, []byte{0})
	delete(r.statements, string(name))
	if statements := rules.Parse(string(sql)); len(statements) == 1 {
		st := &statements[0]
		r.statements[string(name)] = st
		if st.Rewritten != "" {
			if message, err = (&pgproto3.Parse{Name: string(name), Query: st.Rewritten}).Encode(nil); err != nil {
				return err
			}
		}
	}
	r.update(func() { r.owed++ })
	_, err = r.to.Write(message)
	return err
}

// execute handles an Execute message.
func (r *requests) execute(size int) error {
	names, err := r.names(size, 0, 1)
	if err != nil {
		return err
	}
	st := r.portals[names[0]]
	if st == nil {
		st = new(rules.Statement)
	}
	refusal := r.refuse(st)
	forward := func(e edit) error {
		r.update(func() {
			r.edit = e
			r.owed++
		})
		return r.forward(size)
	}
	if refusal == nil && !r.commits(st) && st.Tag == "" {
		r.add(st)
		return forward(edit{})
	}
	if err := r.settle(); err != nil {
		return err
	}
	if r.spoiled() {
		// So this message is for nobody.
		r.skipping = true
		return r.discard(size)
	}
	switch {
	case refusal == nil && st.Tag != "":
		r.add(st)
		if err := forward(edit{tag: st.Tag}); err != nil {
			return err
		}
		if err := r.settle(); err != nil {
			return err
		}
		r.update(func() { r.edit = edit{} })
		return nil
	case refusal == nil:
		done, err := r.commit(edit{}, forward)
		if done {
			r.add(st)
			return err
		}
		if err != nil {
			return err
		}
	case r.commits(st):
		if err := r.rollBack(edit{instead: refusal, keepReady: true}); err != nil {
			return err
		}
	default:
		r.update(func() {
			r.edit = edit{instead: refusal}
			r.owed++
		})
		if err := r.send(&pgproto3.Parse{Query: wrong}); err != nil {
			return err
		}
	}
	r.skipping = true
	return r.discard(size)
}

// sync handles a Sync message, which is the commit of what was changed outside
// of a transaction block.
func (r *requests) sync(size int) error {
	r.open = false
	message, err := r.read(size)
	if err != nil {
		return err
	}
	pass := func(e edit) error { return r.pass(message, e) }
	if t := &r.transaction; t.Explicit || t.Failed || !t.Wrote && !t.ChangedSchema {
		return pass(r.edit)
	}
	if err := r.settle(); err != nil {
		return err
	}
	var failed, overrun, copying bool
	r.update(func() { failed, overrun, copying = r.failed, r.overrun, r.copying })
	switch {
	case failed || copying:
	case overrun:
		if err := r.rollBack(edit{mute: true}); err != nil {
			return err
		}
	default:
		r.open = true // for the ReadyForQuery of a ROLLBACK
		done, err := r.commit(edit{}, pass)
		r.open = false
		if err != nil || done {
			return err
		}
	}
	return pass(r.edit)
}

// closeNamed handles a Close message.
func (r *requests) closeNamed(size int) error {
	names, err := r.names(size, 1, 1)
	if err != nil {
		return err
	}
	header, err := r.peek(min(size, headerSize+1))
	if err != nil {
		return err
	}
	if header[len(header)-1] == 'S' {
		delete(r.statements, names[0])
	} else {
		delete(r.portals, names[0])
	}
	r.update(func() { r.owed++ })
	return r.forward(size)
}

// names returns the names that a message holds behind its first skip bytes,
// and leaves it unread.
func (r *requests) names(size, skip, n int) ([]string, error) {
	head, err := r.peek(min(size, headerSize+skip+n*(maxName+1)))
	if err != nil {
		return nil, err
	}
	head = head[min(len(head), headerSize+skip):]
	names := make([]string, n)
	for i := range names {
		var name []byte
		name, head, _ = bytes.Cut(head, []byte{0})
		names[i] = string(name)
	}
	return names, nil
}
