package relay

import (
	"bytes"
	"strings"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

// guard is around a statement that may turn out to conflict with another transaction. The client gets
// nothing of such a statement before it is known to succeed: if it conflicts, it runs again.
type guard struct {
	tags     int                     // CommandCompletes of statements of ours that come first
	before   int                     // pending responses to earlier messages
	held     []byte                  // what the client gets if the statement succeeds
	again    bool                    // this is the second run
	conflict *pgproto3.ErrorResponse // why the statement has to run again
}

// A guarded statement begins at this savepoint.
const (
	savepoint        = "dsqltest_statement"
	setSavepoint     = "SAVEPOINT " + savepoint
	releaseSavepoint = "RELEASE SAVEPOINT " + savepoint
)

// guards reports whether a statement needs a guard: it may meet rows of another transaction, and its
// own transaction goes on afterwards. In autocommit the statement itself fails.
func (r *requests) guards(st *rules.Statement) bool {
	return r.transaction.Explicit && !r.transaction.Failed && st.Refusal == nil && (st.Kind == rules.Write || st.Locks)
}

// disarm takes the guard away and reports whether the statement has to run again.
func (r *requests) disarm() (again bool) {
	r.update(func() {
		if r.guard != nil && r.guard.conflict != nil {
			again, r.failed = true, false
		}
		r.guard = nil
	})
	return again
}

// runGuarded runs a statement of a simple query with a guard.
func (r *requests) runGuarded(st *rules.Statement, e rewrite) error {
	prefix, tags := setSavepoint+"; ", 1
	if r.savepoint {
		prefix, tags = releaseSavepoint+"; "+prefix, 2
	}
	r.savepoint = true
	e.offset = st.Start - len(prefix)
	g := &guard{tags: tags}
	r.update(func() { r.guard = g })
	if err := r.ask(prefix+r.text(st), e); err != nil || !r.disarm() {
		return err
	}
	copied, err := r.copyTables(st)
	if err != nil {
		return err
	}
	if !copied {
		return r.ask(invalidSQL, rewrite{replacement: withoutCopies(g.conflict)})
	}
	e.offset = st.Start
	r.update(func() { r.guard = &guard{again: true} })
	err = r.ask(r.text(st), e)
	r.disarm()
	return err
}

// executeGuarded handles the Execute of a statement that has a guard. A Sync that came with it is sent
// with it: a round trip less to PostgreSQL.
func (r *requests) executeGuarded(p *portal, execute []byte) error {
	p.guarded = false // what is left of it, after a row limit, cannot run again
	st := p.statement.parsed
	sync := r.nextIsSync() && !isCopy(st)
	if sync {
		if err := r.discard(len(syncMessage)); err != nil {
			return err
		}
		defer r.closeSeries()
	}
	if err := r.runExecute(execute, sync, &guard{}); err != nil || !r.disarm() {
		return err
	}
	if !sync { // PostgreSQL reads nothing before there is one
		if err := r.askMessage(syncMessage, rewrite{drop: true}); err != nil {
			return err
		}
	}
	copied, err := r.copyTables(st)
	if err != nil {
		return err
	}
	if !copied {
		if err := r.failSeries(rules.ErrConflict); err != nil || !sync {
			return err
		}
		return r.pass(syncMessage, rewrite{replacement: rules.ErrConflict})
	}
	if p.statement.name == "" { // a simple query drops it
		if err := r.sendOwn(p.statement.message); err != nil {
			return err
		}
	}
	if err := r.bind(p, true); err != nil {
		return err
	}
	err = r.runExecute(execute, sync, &guard{again: true})
	r.disarm()
	return err
}

// nextIsSync reports whether the client has sent a Sync next.
func (r *requests) nextIsSync() bool {
	if r.from.Buffered() < len(syncMessage) {
		return false
	}
	next, err := r.from.Peek(len(syncMessage))
	return err == nil && bytes.Equal(next, syncMessage)
}

// isCopy: a Sync that comes with COPY is read over.
func isCopy(st *rules.Statement) bool {
	return len(st.SQL) > 4 && strings.EqualFold(st.SQL[:4], "copy")
}

// runExecute has PostgreSQL execute a portal, and a Sync if there is one, and waits for the end.
func (r *requests) runExecute(execute []byte, sync bool, g *guard) error {
	r.update(func() {
		g.before = len(r.pending)
		r.guard = g
		r.pending = append(r.pending, false)
		if sync {
			r.pendingReady++
		}
	})
	if _, err := r.to.Write(execute); err != nil {
		return err
	}
	if sync {
		if _, err := r.to.Write(syncMessage); err != nil {
			return err
		}
		return r.flushAndWait(func() bool { return r.pendingReady == 0 })
	}
	if err := r.awaitResponses(); err != nil {
		return err
	}
	var copying bool
	r.update(func() { copying = r.copying })
	if !copying {
		return nil
	}
	if err := r.copyIn(); err != nil {
		return err
	}
	return r.awaitResponses()
}

// withoutCopies is what the client gets when a statement cannot run again on copies of its tables, such
// as a COPY, whose data is gone. A key that is taken is mostly one that the snapshot shows, so it stays
// 23505: as a conflict, the client would run into it for ever.
func withoutCopies(e *pgproto3.ErrorResponse) *pgproto3.ErrorResponse {
	if e.Code == "23505" || e.Code == "23503" {
		return e
	}
	return rules.ErrConflict
}
