package dsqltest

import (
	"fmt"
	"time"

	"github.com/jackc/pgx/v5/pgproto3"
)

const (
	maxRows               = 3000 // changed in one transaction
	defaultTransactionAge = 5 * time.Minute
)

var errRowLimit = failure("54000", "transaction row limit exceeded")

// WithTransactionAge sets how old a transaction may get, by the clock of
// WithClock: 5 minutes by default, and no limit for 0 or less. The next
// statement in an older one fails with SQLSTATE 54000, COMMIT too; ROLLBACK
// does not.
func WithTransactionAge(d time.Duration) Option {
	return func(o *options) { o.conditions.transactionAge = d }
}

// SetTransactionAge is WithTransactionAge for every statement from now on.
func (s *Server) SetTransactionAge(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conditions.transactionAge = d
}

func (s *Server) transactionAge() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.conditions.transactionAge
}

// transaction is what a session's statements have made of its transaction.
type transaction struct {
	block   bool // between the client's BEGIN and COMMIT
	own     bool // a block that the client has not asked for
	began   time.Time
	failed  bool // PostgreSQL takes nothing but ROLLBACK
	written bool
	defined bool
	submits bool // a job
}

// refuse returns the error that a statement meets in the transaction, or nil.
// In one that has failed, PostgreSQL has its own.
func (t *transaction) refuse(st *statement, now time.Time, limit time.Duration) *pgproto3.ErrorResponse {
	switch {
	case t.failed || st.kind == rollsBack:
		return nil
	case t.block && limit > 0 && now.Sub(t.began) > limit:
		return failure("54000", fmt.Sprintf("transaction age limit of %gs exceeded", limit.Seconds()))
	case st.refusal != "":
		return failure("0A000", st.refusal)
	case st.kind == waits && (t.block || t.own):
		return failure("0A000", "sys.wait_for_job not supported in a transaction")
	case st.kind == defines && t.defined:
		return failure("0A000", "multiple ddl statements not supported in a transaction")
	case st.kind == defines && t.written, st.kind == writes && t.defined:
		return failure("0A000", "ddl and dml are not supported in the same transaction")
	}
	return nil
}

// add notes a statement that PostgreSQL is given.
func (t *transaction) add(st *statement, now time.Time) {
	switch st.kind {
	case begins:
		if !t.block {
			t.block, t.own, t.began = true, false, now
		}
	case commits, rollsBack:
		*t = transaction{block: t.block && st.chain, began: now}
	case writes:
		t.written = true
	case defines:
		t.defined, t.submits = true, st.sent != ""
	}
}
