package rules

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

// MaxRows is how many rows one transaction may change.
const MaxRows = 3000

// Transaction is what the statements of a session have made of its transaction.
type Transaction struct {
	Explicit      bool // between the client's BEGIN and COMMIT
	Implicit      bool // a block that the client has not asked for
	Began         time.Time
	Failed        bool // PostgreSQL takes nothing but ROLLBACK
	Wrote         bool
	ChangedSchema bool
	SubmittedJob  bool
}

// Refuse returns the error that a statement meets in the transaction, or nil. limit is the greatest
// age of a transaction; 0 or less is none. In a transaction that has failed, PostgreSQL has its own
// error.
func (t *Transaction) Refuse(st *Statement, now time.Time, limit time.Duration) *pgproto3.ErrorResponse {
	switch {
	case t.Failed || st.Kind == Rollback:
		return nil
	case t.Explicit && limit > 0 && now.Sub(t.Began) > limit:
		return tooOld(now.Sub(t.Began), limit)
	case st.Refusal != nil:
		return st.Refusal
	case st.Kind == WaitForJob && (t.Explicit || t.Implicit):
		return notSupported("sys.wait_for_job not supported in a transaction")
	case st.Kind == DDL && t.ChangedSchema:
		return notSupported("multiple ddl statements not supported in a transaction")
	case st.Kind == DDL && t.Wrote, st.Kind == Write && t.ChangedSchema:
		return notSupported("ddl and dml are not supported in the same transaction")
	}
	return nil
}

// Add notes a statement that PostgreSQL is given.
func (t *Transaction) Add(st *Statement, now time.Time) {
	switch st.Kind {
	case Begin:
		if !t.Explicit {
			t.Explicit, t.Implicit, t.Began = true, false, now
		}
	case Commit, Rollback:
		*t = Transaction{Explicit: t.Explicit && st.Chain, Began: now}
	case Write:
		t.Wrote = true
	case DDL:
		t.ChangedSchema, t.SubmittedJob = true, st.SubmitsJob
	}
}

func tooOld(age, limit time.Duration) *pgproto3.ErrorResponse {
	e := NewError("54000", fmt.Sprintf("transaction age limit of %gs exceeded", limit.Seconds()))
	e.Detail = fmt.Sprintf("Current transaction age %ds exceeds %gs", int(age.Seconds()), limit.Seconds())
	return e
}
