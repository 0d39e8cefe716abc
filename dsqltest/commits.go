package dsqltest

// CommitFault is what happens to one commit: a COMMIT, or the end of a statement that writes in
// autocommit.
type CommitFault uint8

const (
	NoFault      CommitFault = iota // PostgreSQL decides
	Conflict                        // rolled back, and answered with OC000
	BeforeCommit                    // rolled back as if COMMIT had not arrived, and the connection is cut
	AfterCommit                     // applied, if PostgreSQL can, and the connection is cut before the answer leaves

	UnavailableBeforeCommit // rolled back, and answered with XX000, server unavailable
	UnavailableAfterCommit  // applied, if PostgreSQL can, and answered in the same way
)

// TransactionCounts counts the ends of transactions.
type TransactionCounts struct {
	Applied         int // commits, in the sense of CommitFault, that PostgreSQL has made
	Conflicts       int // answers with OC000
	SchemaConflicts int // answers with OC001
	Cuts            int // connections cut by BeforeCommit and AfterCommit
}

// Transactions returns the counts. A commit is counted before its answer is sent.
func (s *Server) Transactions() TransactionCounts {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.transactions
}

// SetCommitFaults has next choose what happens to each commit, in all sessions. next is called by
// several goroutines at once. SetCommitFaults replaces what was set before, also by ConflictNext
// and CutNext; nil is no faults.
func (s *Server) SetCommitFaults(next func() CommitFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.commitFaults, s.scripted = next, nil
}

// ConflictNext has the next n commits fail with OC000. It comes after what earlier calls of
// ConflictNext and CutNext have left, and before SetCommitFaults.
func (s *Server) ConflictNext(n int) { s.script(n, Conflict) }

// CutNext cuts the connections of the next n commits. point is BeforeCommit or AfterCommit. It is
// queued as ConflictNext is.
func (s *Server) CutNext(n int, point CommitFault) { s.script(n, point) }

// UnavailableNext has the next n statements fail with XX000, server unavailable. COMMIT and
// ROLLBACK do not count: use UnavailableBeforeCommit and UnavailableAfterCommit for COMMIT, and
// [RefuseUnavailable] for logins.
func (s *Server) UnavailableNext(n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.unavailable += n
}

func (s *Server) nextUnavailable() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.unavailable == 0 {
		return false
	}
	s.unavailable--
	return true
}

func (s *Server) script(n int, fault CommitFault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for range n {
		s.scripted = append(s.scripted, fault)
	}
}

func (s *Server) nextCommitFault() CommitFault {
	s.mu.Lock()
	next := s.commitFaults
	if len(s.scripted) > 0 {
		fault := s.scripted[0]
		next = func() CommitFault { return fault }
		s.scripted = s.scripted[1:]
	}
	s.mu.Unlock()
	if next == nil {
		return NoFault
	}
	return next()
}
