package relay

import (
	"bytes"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	// maxName is the longest name of a prepared statement or portal that is looked at, in bytes.
	// Those of clients have some 60.
	maxName = 500

	// copyStatement is the prepared statement that stands for one of the client's which names a
	// copied table with its schema.
	copyStatement = "dsqltest copy"
)

// prepared is a prepared statement of the client's.
type prepared struct {
	name    string
	parsed  *rules.Statement
	message []byte // the Parse that PostgreSQL had
}

// portal is what the client has bound. The zero portal is of a statement that nothing is known of.
type portal struct {
	statement *prepared
	bind      []byte // the message, if it is guarded
	guarded   bool
}

// parse handles a Parse message.
func (r *requests) parse(size int) error {
	message, err := r.read(size)
	if err != nil {
		return err
	}
	name, rest, _ := bytes.Cut(message[HeaderSize:], []byte{0})
	sql, _, _ := bytes.Cut(rest, []byte{0})
	delete(r.statements, string(name))
	if statements := rules.Parse(string(sql)); len(statements) == 1 {
		st := &statements[0]
		if st.Rewritten != "" {
			if message, err = (&pgproto3.Parse{Name: string(name), Query: st.Rewritten}).Encode(nil); err != nil {
				return err
			}
		}
		r.statements[string(name)] = &prepared{name: string(name), parsed: st, message: message}
	}
	r.expect(false)
	_, err = r.to.Write(message)
	return err
}

// bindPortal handles a Bind message.
func (r *requests) bindPortal(size int) error {
	names, err := r.names(size, 0, 2)
	if err != nil {
		return err
	}
	statement := r.statements[names[1]]
	delete(r.portals, names[0])
	if statement == nil {
		r.expect(false)
		return r.forward(size)
	}
	p := &portal{statement: statement, guarded: r.guards(statement.parsed)}
	r.portals[names[0]] = p
	if statement.parsed.Kind == rules.DDL && !r.transaction.Failed && statement.parsed.Refusal == nil {
		if err := r.inject(waitForLocks); err != nil {
			return err
		}
	}
	if !p.guarded && !r.hasLost() {
		r.expect(false)
		return r.forward(size)
	}
	if p.bind, err = r.read(size); err != nil {
		return err
	}
	if !p.guarded {
		return r.bindToCopies(p)
	}
	for _, sql := range r.nextSavepoint() {
		if err := r.inject(sql); err != nil {
			return err
		}
	}
	return r.bind(p, false)
}

// bindToCopies binds a portal in a transaction that has lost.
func (r *requests) bindToCopies(p *portal) error {
	if r.meetsOthers(p.statement.parsed) {
		if err := r.awaitResponses(); err != nil || r.hasFailed() {
			return err
		}
		ok, err := r.copyMore(p.statement.parsed)
		if err != nil {
			return err
		}
		if !ok {
			return r.failSeries(rules.ErrConflict)
		}
		if p.statement.name == "" { // a simple query drops it
			if err := r.sendOwn(p.statement.message); err != nil {
				return err
			}
		}
	}
	return r.bind(p, false)
}

// bind gives PostgreSQL the Bind message of a portal. Where the statement names a copied table with
// its schema, it is for another statement, which names the copy.
func (r *requests) bind(p *portal, ours bool) error {
	message := p.bind
	if text := r.text(p.statement.parsed); text != p.statement.parsed.ForPostgres() {
		var parse pgproto3.Parse
		if err := parse.Decode(p.statement.message[HeaderSize:]); err != nil {
			return err
		}
		if err := r.prepareOwn(copyStatement, text, parse.ParameterOIDs); err != nil {
			return err
		}
		var bind pgproto3.Bind
		if err := bind.Decode(p.bind[HeaderSize:]); err != nil {
			return err
		}
		bind.PreparedStatement = copyStatement
		var err error
		if message, err = bind.Encode(nil); err != nil {
			return err
		}
	}
	r.expect(ours)
	_, err := r.to.Write(message)
	return err
}

// execute handles an Execute message.
func (r *requests) execute(size int) error {
	names, err := r.names(size, 0, 1)
	if err != nil {
		return err
	}
	p := r.portals[names[0]]
	if p == nil {
		p = &portal{statement: &prepared{parsed: new(rules.Statement)}}
	}
	st := p.statement.parsed
	refusal := r.refuse(st)
	message, err := r.read(size)
	if err != nil {
		return err
	}
	if refusal == nil && p.guarded {
		r.add(st)
		return r.executeGuarded(p, message)
	}
	changesSchema := st.Kind == rules.DDL && !r.transaction.Failed
	if refusal == nil && !r.commits(st) && !changesSchema && st.Tag == "" {
		r.add(st)
		r.expect(false)
		_, err := r.to.Write(message)
		return err
	}
	if err := r.awaitResponses(); err != nil {
		return err
	}
	switch {
	case r.hasFailed():
		r.skipping = true // so this message is for nobody
		return nil
	case refusal != nil && r.commits(st):
		r.skipping = true
		return r.rollBack(rewrite{replacement: refusal, withholdReady: true})
	case refusal != nil:
		return r.failSeries(refusal)
	case r.commits(st):
		done, err := r.commit(rewrite{}, func(e rewrite) error {
			r.update(func() { r.rewrite = e })
			r.expect(false)
			_, err := r.to.Write(message)
			return err
		})
		if done {
			r.add(st)
		}
		r.skipping = !done || r.hasFailed()
		return err
	}
	return r.executeAlone(st, message, changesSchema)
}

// executeAlone has PostgreSQL execute a statement and waits for the end.
func (r *requests) executeAlone(st *rules.Statement, message []byte, changesSchema bool) error {
	r.add(st)
	r.update(func() { r.rewrite = rewrite{tag: st.Tag} })
	r.expect(false)
	if _, err := r.to.Write(message); err != nil {
		return err
	}
	if changesSchema {
		defer r.host.Unblock()()
	}
	if err := r.awaitResponses(); err != nil {
		return err
	}
	r.update(func() { r.rewrite = rewrite{} })
	if changesSchema && !r.hasFailed() {
		return r.inject(waitBriefly)
	}
	return nil
}

// failSeries has a series fail with an error of ours.
func (r *requests) failSeries(e *pgproto3.ErrorResponse) error {
	r.skipping = true
	r.update(func() { r.rewrite = rewrite{replacement: e} })
	r.expect(false)
	return r.send(&pgproto3.Parse{Query: invalidSQL})
}

// sync handles a Sync message, which is the commit of what was changed outside of a transaction
// block.
func (r *requests) sync(size int) error {
	message, err := r.read(size)
	if err != nil {
		return err
	}
	pass := func(e rewrite) error {
		r.closeSeries()
		return r.pass(message, e)
	}
	var e rewrite
	r.update(func() { e = r.rewrite })
	if t := &r.transaction; t.Explicit || t.Failed || !t.Wrote && !t.ChangedSchema {
		return pass(e)
	}
	if err := r.awaitResponses(); err != nil {
		return err
	}
	var failed, tooManyRows, copying bool
	r.update(func() { failed, tooManyRows, copying = r.failed, r.tooManyRows, r.copying })
	switch {
	case failed || copying:
	case tooManyRows:
		if err := r.rollBack(rewrite{drop: true}); err != nil {
			return err
		}
	default:
		// The series is open up to here: the ReadyForQuery of a ROLLBACK is not the client's.
		if done, err := r.commit(rewrite{}, pass); err != nil || done {
			return err
		}
	}
	r.update(func() { e = r.rewrite })
	return pass(e)
}

// closeNamed handles a Close message.
func (r *requests) closeNamed(size int) error {
	names, err := r.names(size, 1, 1)
	if err != nil {
		return err
	}
	header, err := r.peek(min(size, HeaderSize+1))
	if err != nil {
		return err
	}
	if header[len(header)-1] == 'S' {
		delete(r.statements, names[0])
	} else {
		delete(r.portals, names[0])
	}
	r.expect(false)
	return r.forward(size)
}

// names returns the names that a message holds behind its first skip bytes, and leaves it unread.
func (r *requests) names(size, skip, n int) ([]string, error) {
	head, err := r.peek(min(size, HeaderSize+skip+n*(maxName+1)))
	if err != nil {
		return nil, err
	}
	head = head[min(len(head), HeaderSize+skip):]
	names := make([]string, n)
	for i := range names {
		var name []byte
		name, head, _ = bytes.Cut(head, []byte{0})
		names[i] = string(name)
	}
	return names, nil
}
