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
		if len(statements) > 1 || st.Rewritten != "" {
			var err error
			if message, err = (&pgproto3.Query{String: st.ForPostgres()}).Encode(nil); err != nil {
				return err
			}
		}
		proceed, err := r.step(st, message, rewrite{offset: st.Start, tag: st.Tag, withholdReady: i+1 < len(statements)})
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

// step has one statement of a simple query run. What changes something outside
// of a transaction block gets a block of its own, whose COMMIT is then like any
// other. The query goes on if all is well and e keeps ReadyForQuery for it.
func (r *requests) step(st *rules.Statement, query []byte, e rewrite) (proceed bool, err error) {
	if refusal := r.refuse(st); refusal != nil {
		return false, r.answer(st, refusal)
	}
	t := &r.transaction
	if r.commits(st) {
		done, err := r.commit(e, func(e rewrite) error { return r.askMessage(query, e) })
		if done {
			r.add(st)
		}
		return done && !r.hasFailed(), err
	}
	changes := st.Kind == rules.Write || st.Kind == rules.DDL
	if !t.Explicit && !t.Implicit && (e.withholdReady || changes) && st.Kind != rules.Begin && st.Kind != rules.WaitForJob {
		if err := r.ask("BEGIN", rewrite{drop: true}); err != nil {
			return false, err
		}
		t.Implicit = true
	}
	if !t.Implicit && !e.withholdReady {
		r.add(st)
		return false, r.pass(query, e)
	}
	if t.Implicit && st.Kind != rules.Begin && st.Kind != rules.Rollback {
		e.hideBlock, e.withholdTag, e.withholdReady = true, !e.withholdReady, true
	}
	if err := r.askMessage(query, e); err != nil {
		return false, err
	}
	if !r.hasFailed() {
		r.add(st)
		return true, nil
	}
	if t.Implicit {
		return false, r.rollBack(rewrite{drop: true})
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
		return r.rollBack(rewrite{replacement: refusal})
	}
	own := r.transaction.Implicit
	if err := r.ask(invalidSQL, rewrite{replacement: refusal, hideBlock: own}); err != nil || !own {
		return err
	}
	return r.rollBack(rewrite{drop: true})
}
