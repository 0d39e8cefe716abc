package relay

import (
	"bytes"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

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
		r.statements[string(name)] = st
		if st.Rewritten != "" {
			if message, err = (&pgproto3.Parse{Name: string(name), Query: st.Rewritten}).Encode(nil); err != nil {
				return err
			}
		}
	}
	r.update(func() { r.pendingResponses++ })
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
	forward := func(e rewrite) error {
		r.update(func() {
			r.rewrite = e
			r.pendingResponses++
		})
		return r.forward(size)
	}
	if refusal == nil && !r.commits(st) && st.Tag == "" {
		r.add(st)
		return forward(rewrite{})
	}
	if err := r.awaitResponses(); err != nil {
		return err
	}
	if r.hasFailed() {
		// So this message is for nobody.
		r.skipping = true
		return r.discard(size)
	}
	switch {
	case refusal == nil && st.Tag != "":
		r.add(st)
		if err := forward(rewrite{tag: st.Tag}); err != nil {
			return err
		}
		if err := r.awaitResponses(); err != nil {
			return err
		}
		r.update(func() { r.rewrite = rewrite{} })
		return nil
	case refusal == nil:
		done, err := r.commit(rewrite{}, forward)
		if done {
			r.add(st)
			return err
		}
		if err != nil {
			return err
		}
	case r.commits(st):
		if err := r.rollBack(rewrite{replacement: refusal, withholdReady: true}); err != nil {
			return err
		}
	default:
		r.update(func() {
			r.rewrite = rewrite{replacement: refusal}
			r.pendingResponses++
		})
		if err := r.send(&pgproto3.Parse{Query: invalidSQL}); err != nil {
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
	pass := func(e rewrite) error { return r.pass(message, e) }
	if t := &r.transaction; t.Explicit || t.Failed || !t.Wrote && !t.ChangedSchema {
		return pass(r.rewrite)
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
		r.open = true // for the ReadyForQuery of a ROLLBACK
		done, err := r.commit(rewrite{}, pass)
		r.open = false
		if err != nil || done {
			return err
		}
	}
	return pass(r.rewrite)
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
	r.update(func() { r.pendingResponses++ })
	return r.forward(size)
}

// names returns the names that a message holds behind its first skip bytes,
// and leaves it unread.
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
