package relay

import "github.com/dsqlgo/dsql/dsqltest/internal/rules"

// errUnavailable is recorded from the service, at logins, at statements and as the answer to
// COMMIT.
var errUnavailable = rules.NewError("XX000", "server unavailable")

// LockTimeout is how long, in milliseconds, a backend waits for a lock. DSQL does not wait at all.
// Below it the winner could not commit before the loser gives up, and writers of one row would only
// ever stop each other; it is far below PostgreSQL's deadlock_timeout of 1 s, so a deadlock ends by
// it too.
const LockTimeout = "10"

// A schema change waits for locks, for as long as it takes to displace who holds them.
const (
	waitForLocks = "SET LOCAL lock_timeout = '10s'"
	waitBriefly  = "SET LOCAL lock_timeout = " + LockTimeout
)

// commit has do make a commit, unless a fault is due or the transaction has lost. It is not done
// when the client has had another answer.
func (r *requests) commit(e rewrite, do func(rewrite) error) (done bool, err error) {
	fault := r.host.NextCommitFault()
	verdict, _ := r.currentVerdict()
	switch {
	case fault == Conflict:
		verdict = rules.ErrConflict
	case fault == CutBeforeCommit, fault == CutAfterCommit && verdict != nil:
		if err := r.rollBack(rewrite{drop: true}); err != nil {
			return false, err
		}
		return false, errCut
	case fault == CutAfterCommit:
		e.drop = true
	case fault == UnavailableBeforeCommit, fault == UnavailableAfterCommit && verdict != nil:
		return false, r.rollBack(rewrite{replacement: errUnavailable, withholdReady: r.isOpen()})
	case fault == UnavailableAfterCommit:
		e.commitAnswer = errUnavailable
	}
	if verdict != nil {
		if verdict == rules.ErrConflict {
			r.host.Conflicted()
		} else {
			r.host.SchemaConflicted()
			r.host.CatchUpSchema()
		}
		return false, r.rollBack(rewrite{replacement: verdict, withholdReady: r.isOpen()})
	}
	var committed func()
	if r.schemaChange != nil {
		committed = r.host.SchemaChanging(r.schemaChange)
	}
	submittedJob := r.transaction.SubmittedJob
	r.update(func() { r.committing, r.schemaChanged, r.submittedJob = true, committed, submittedJob })
	open := r.isOpen()
	if err := do(e); err != nil || fault == NoFault {
		return true, err
	}
	switch {
	case fault == CutAfterCommit:
		if err := r.awaitResponses(); err != nil {
			return false, err
		}
		return false, errCut
	case open && r.isOpen(): // the rest of the series is for nobody
		return true, r.awaitResponses()
	}
	return true, nil
}

func (r *requests) isOpen() (open bool) {
	r.update(func() { open = r.open })
	return open
}

// rollBack ends the transaction.
func (r *requests) rollBack(e rewrite) error {
	r.endTransaction()
	err := r.ask("ROLLBACK", e)
	r.update(r.exchange.endTransaction)
	return err
}
