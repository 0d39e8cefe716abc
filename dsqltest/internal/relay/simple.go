package relay

import (
	"bytes"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

// query handles a simple query, which may be of several statements.
func (r *requests) query(message []byte) error {
	sql, _, _ := bytes.Cut(message[HeaderSize:], []byte{0})
	statements := rules.Parse(string(sql))
	if len(statements) == 0 {
		return r.pass(message, rewrite{})
	}
	for i := range statements {
		st := &statements[i]
		text := r.text(st)
		if len(statements) > 1 || text != st.SQL {
			var err error
			if message, err = (&pgproto3.Query{String: text}).Encode(nil); err != nil {
				return err
			}
		}
		e := rewrite{offset: st.Start, tag: st.Tag, withholdReady: i+1 < len(statements)}
		proceed, err := r.step(st, message, e)
		if err != nil || !proceed {
			return err
		}
	}
	if !r.transaction.Implicit {
		return nil
	}
	_, err := r.commit(rewrite{}, func(e rewrite) error { return r.ask("COMMIT", e) })
	return err
}

// step has one statement of a simple query run. What changes something outside of a transaction
// block gets a block of its own, whose COMMIT is then like any other. The query goes on if all is
// well and e withholds ReadyForQuery for it.
func (r *requests) step(st *rules.Statement, query []byte, e rewrite) (proceed bool, err error) {
	if refusal := r.refuse(st); refusal != nil {
		return false, r.answer(st, refusal)
	}
	if r.commits(st) {
		done, err := r.commit(e, func(e rewrite) error { return r.askMessage(query, e) })
		if done {
			r.add(st)
		}
		return done && !r.hasFailed(), err
	}
	t := &r.transaction
	changes := st.Kind == rules.Write || st.Kind == rules.DDL
	if !t.Explicit && !t.Implicit && (e.withholdReady || changes) && st.Kind != rules.Begin && st.Kind != rules.WaitForJob {
		if err := r.ask("BEGIN", rewrite{drop: true}); err != nil {
			return false, err
		}
		t.Implicit = true
	}
	wait := e.withholdReady || t.Implicit || st.Kind == rules.DDL || r.meetsOthers(st)
	if !wait {
		r.add(st)
		return false, r.pass(query, e)
	}
	if t.Implicit && st.Kind != rules.Begin && st.Kind != rules.Rollback {
		e.hideBlock, e.withholdTag, e.withholdReady = true, !e.withholdReady, true
	}
	withheld := e.withholdReady
	switch {
	case r.guards(st):
		err = r.runGuarded(st, e)
	case r.meetsOthers(st):
		err = r.runOnCopies(st, e)
	case st.Kind == rules.DDL && !t.Failed:
		err = r.runSchemaChange(query, e)
	default:
		err = r.askMessage(query, e)
	}
	if err != nil {
		return false, err
	}
	if !r.hasFailed() {
		r.add(st)
		return withheld, nil
	}
	if t.Implicit {
		return false, r.rollBack(rewrite{drop: true})
	}
	return false, nil
}

// runSchemaChange runs DDL in a transaction block. It waits for no other transaction: the host
// displaces those that hold a lock which it needs.
func (r *requests) runSchemaChange(query []byte, e rewrite) error {
	if err := r.ask(waitForLocks, rewrite{drop: true}); err != nil {
		return err
	}
	stop := r.host.Unblock()
	err := r.askMessage(query, e)
	stop()
	if err != nil || r.hasFailed() {
		return err
	}
	return r.ask(waitBriefly, rewrite{drop: true})
}

// commits reports whether a statement ends a transaction that can be committed.
func (r *requests) commits(st *rules.Statement) bool {
	return st.Kind == rules.Commit && (r.transaction.Explicit || r.transaction.Implicit) && !r.transaction.Failed
}

// answer gives the client a refusal for a simple query. One for COMMIT ends the transaction, as
// every COMMIT does that fails.
func (r *requests) answer(st *rules.Statement, refusal *pgproto3.ErrorResponse) error {
	if r.commits(st) {
		return r.rollBack(rewrite{replacement: refusal})
	}
	implicit := r.transaction.Implicit
	if err := r.ask(invalidSQL, rewrite{replacement: refusal, hideBlock: implicit}); err != nil || !implicit {
		return err
	}
	return r.rollBack(rewrite{drop: true})
}
