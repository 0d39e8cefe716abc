package relay

import (
	"github.com/jackc/pgx/v5/pgproto3"
)

// awaitResponses waits until PostgreSQL has answered all of a series so far.
func (r *requests) awaitResponses() error {
	if err := r.send(&pgproto3.Flush{}); err != nil {
		return err
	}
	return r.flushAndWait(func() bool { return r.pendingReady == 0 && (r.pendingResponses == 0 || r.failed || r.copying) })
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
func (r *requests) ask(sql string, e rewrite) error {
	query, err := (&pgproto3.Query{String: sql}).Encode(nil)
	if err != nil {
		return err
	}
	return r.askMessage(query, e)
}

func (r *requests) askMessage(query []byte, e rewrite) error {
	if err := r.pass(query, e); err != nil {
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
			if kind != 'c' && kind != 'f' && r.hasFailed() {
				return nil
			}
			return r.forward(size)
		}
		if err := r.forward(size); err != nil {
			return err
		}
	}
}
