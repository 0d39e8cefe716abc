package relay

import (
	"fmt"

	"github.com/jackc/pgx/v5/pgproto3"
)

// invalidSQL is SQL that PostgreSQL refuses. The answer is a refusal of ours, so the client gets
// ours in its place, and the transaction fails as if PostgreSQL had refused the statement.
const invalidSQL = "DSQL does not have this"

var syncMessage = mustEncodeRequest(&pgproto3.Sync{})

func mustEncodeRequest(message pgproto3.FrontendMessage) []byte {
	data, err := message.Encode(nil)
	if err != nil {
		panic(err)
	}
	return data
}

// awaitResponses waits until PostgreSQL has answered all of a series so far.
func (r *requests) awaitResponses() error {
	if err := r.send(&pgproto3.Flush{}); err != nil {
		return err
	}
	return r.flushAndWait(func() bool { return r.pendingReady == 0 && (len(r.pending) == 0 || r.failed || r.copying) })
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

// sendOwn sends an extended-query message whose response the client must not see.
func (r *requests) sendOwn(message []byte) error {
	r.expect(true)
	_, err := r.to.Write(message)
	return err
}

// inject runs a statement of ours in a series of extended-query messages. It takes the unnamed
// portal.
func (r *requests) inject(sql string) error {
	name, ok := r.injected[sql]
	if !ok {
		name = fmt.Sprintf("dsqltest %d", len(r.injected))
		r.injected[sql] = name
		if err := r.prepareOwn(name, sql, nil); err != nil {
			return err
		}
	}
	for _, message := range []pgproto3.FrontendMessage{&pgproto3.Bind{PreparedStatement: name}, &pgproto3.Execute{}} {
		if err := r.sendOwn(mustEncodeRequest(message)); err != nil {
			return err
		}
	}
	return nil
}

// prepareOwn makes a prepared statement of ours, in place of one with the same name.
func (r *requests) prepareOwn(name, sql string, parameters []uint32) error {
	for _, message := range []pgproto3.FrontendMessage{
		&pgproto3.Close{ObjectType: 'S', Name: name}, &pgproto3.Parse{Name: name, Query: sql, ParameterOIDs: parameters},
	} {
		data, err := message.Encode(nil)
		if err != nil {
			return err
		}
		if err := r.sendOwn(data); err != nil {
			return err
		}
	}
	return nil
}

// ask puts a simple query to PostgreSQL and waits for its end.
func (r *requests) ask(sql string, e rewrite) error {
	query, err := (&pgproto3.Query{String: sql}).Encode(nil)
	if err != nil {
		return err
	}
	return r.askMessage(query, e)
}

func (r *requests) askMessage(message []byte, e rewrite) error {
	if err := r.pass(message, e); err != nil {
		return err
	}
	var copying bool
	if err := r.flushAndWait(func() bool {
		copying = r.copying
		return copying || r.pendingReady == 0
	}); err != nil {
		return err
	}
	if copying {
		if err := r.copyIn(); err != nil {
			return err
		}
	}
	if err := r.flushAndWait(func() bool { return r.pendingReady == 0 }); err != nil {
		return err
	}
	r.update(func() { r.rewrite = rewrite{} })
	return nil
}

// pass gives PostgreSQL a message that it will answer with a ReadyForQuery.
func (r *requests) pass(message []byte, e rewrite) error {
	r.update(func() {
		r.rewrite = e
		r.pendingReady++
	})
	_, err := r.to.Write(message)
	return err
}

// copyIn carries CopyData to its end. A client that has been told of an error may go on to
// something else, which is left unread. What the client sends for a guarded statement is kept, and
// sent again in the second run.
func (r *requests) copyIn() error {
	var guarded, again bool
	r.update(func() { guarded, again = r.guard != nil, r.guard != nil && r.guard.again })
	if again {
		r.update(func() { r.copying = false })
		_, err := r.to.Write(r.copyData.Bytes())
		return err
	}
	r.copyData.Reset()
	for data := false; ; {
		kind, size, err := r.next()
		if err != nil {
			return err
		}
		failed := r.hasFailed()
		switch {
		case kind == 'd':
			data = true
		case kind == 'c' || kind == 'f':
		case failed && (kind != 'S' || data):
			return nil
		case kind == 'H' || kind == 'S': // which came with Execute; PostgreSQL reads over it
			if err := r.discard(size); err != nil {
				return err
			}
			continue
		}
		message, err := r.read(size)
		if err != nil {
			return err
		}
		if guarded {
			r.copyData.Write(message)
		}
		if kind != 'd' {
			r.update(func() { r.copying = false })
		}
		if _, err := r.to.Write(message); err != nil || kind != 'd' {
			return err
		}
	}
}
