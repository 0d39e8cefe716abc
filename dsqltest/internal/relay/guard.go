package relay

import (
	"bytes"
	"strings"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

// guard is around a statement that may turn out to conflict with another transaction. The client
// gets nothing of such a statement before it is known to succeed: if it conflicts, it runs again.
type guard struct {
	tags     int                     // CommandCompletes of statements of ours that come first
	before   int                     // pending responses to earlier messages
	held     []byte                  // what the client gets if the statement succeeds
	again    bool                    // this is the second run
	conflict *pgproto3.ErrorResponse // why the statement has to run again
}

// A guarded statement begins at a savepoint: the first of a transaction at one of its own, to which
// everything that the transaction has written can be rolled back.
const (
	setTransactionSavepoint   = "SAVEPOINT dsqltest_transaction"
	setStatementSavepoint     = "SAVEPOINT dsqltest_statement"
	releaseStatementSavepoint = "RELEASE " + setStatementSavepoint
)

// savepoints says which there are.
type savepoints uint8

const (
	noSavepoint savepoints = iota
	firstStatement
	furtherStatement
)

// nextSavepoint returns the statements that set the savepoint of the next guarded statement.
func (r *requests) nextSavepoint() []string {
	switch r.savepoints {
	case noSavepoint:
		r.savepoints = firstStatement
		return []string{setTransactionSavepoint}
	case firstStatement:
		r.savepoints = furtherStatement
		return []string{setStatementSavepoint}
	}
	return []string{releaseStatementSavepoint, setStatementSavepoint}
}

// guards reports whether a statement needs a guard: it may meet rows of another transaction, and
// its own transaction goes on afterwards. In autocommit the statement itself fails, and on copies
// there are no rows of others.
func (r *requests) guards(st *rules.Statement) bool { return r.meetsOthers(st) && !r.hasLost() }

// meetsOthers reports whether a statement of a transaction block writes or locks rows.
func (r *requests) meetsOthers(st *rules.Statement) bool {
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

// noteGuarded notes a statement whose tables have to be copied if the transaction loses later.
func (r *requests) noteGuarded(st *rules.Statement) {
	if n := len(r.guarded); n == 0 || r.guarded[n-1] != st {
		r.guarded = append(r.guarded, st)
	}
}

// runGuarded runs a statement of a simple query with a guard.
func (r *requests) runGuarded(st *rules.Statement, e rewrite) error {
	own := r.nextSavepoint()
	prefix := strings.Join(own, "; ") + "; "
	e.offset = st.Start - len(prefix)
	r.update(func() { r.guard = &guard{tags: len(own)} })
	if err := r.ask(prefix+st.ForPostgres(), e); err != nil {
		return err
	}
	if !r.disarm() {
		r.noteGuarded(st)
		return nil
	}
	ok, err := r.lose(st)
	if err != nil {
		return err
	}
	if !ok {
		return r.ask(invalidSQL, rewrite{replacement: rules.ErrConflict})
	}
	e.offset = st.Start
	r.update(func() { r.guard = &guard{again: true} })
	err = r.ask(r.text(st), e)
	r.disarm()
	return err
}

// runOnCopies runs a statement of a simple query in a transaction that has lost.
func (r *requests) runOnCopies(st *rules.Statement, e rewrite) error {
	ok, err := r.copyMore(st)
	if err != nil {
		return err
	}
	if !ok {
		return r.ask(invalidSQL, rewrite{replacement: rules.ErrConflict})
	}
	return r.ask(r.text(st), e)
}

// executeGuarded handles the Execute of a statement that has a guard. A Sync that came with it is
// sent with it: a round trip less to PostgreSQL.
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
	if err := r.runExecute(execute, sync, &guard{}); err != nil {
		return err
	}
	if !r.disarm() {
		r.noteGuarded(st)
		return nil
	}
	if !sync { // PostgreSQL reads nothing before there is one
		if err := r.askMessage(syncMessage, rewrite{drop: true}); err != nil {
			return err
		}
	}
	ok, err := r.lose(st)
	if err != nil {
		return err
	}
	if !ok {
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
