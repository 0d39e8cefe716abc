package relay

import (
	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
)

// commit has do make a commit, unless a fault is due. It is not done when the
// client has had another answer.
func (r *requests) commit(e rewrite, do func(rewrite) error) (done bool, err error) {
	fault := r.host.NextCommitFault()
	switch fault {
	case Conflict:
		r.host.Conflicted()
		return false, r.rollBack(rewrite{replacement: rules.ErrConflict, withholdReady: r.open})
	case CutBeforeCommit:
		if err := r.rollBack(rewrite{drop: true}); err != nil {
			return false, err
		}
		return false, errCut
	case CutAfterCommit:
		e.drop = true
	}
	schemaChanged, submittedJob := r.transaction.ChangedSchema, r.transaction.SubmittedJob
	r.update(func() { r.committing, r.schemaChanged, r.submittedJob = true, schemaChanged, submittedJob })
	if err := do(e); err != nil || fault == NoFault {
		return true, err
	}
	if err := r.awaitResponses(); err != nil {
		return false, err
	}
	return false, errCut
}

// rollBack ends the transaction.
func (r *requests) rollBack(e rewrite) error {
	r.transaction = rules.Transaction{}
	return r.ask("ROLLBACK", e)
}
