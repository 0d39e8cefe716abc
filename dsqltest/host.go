package dsqltest

import (
	"context"
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/jobs"
	"github.com/dsqlgo/dsql/dsqltest/internal/relay"
)

// relayHost is what the relay of a session sees of the server.
type relayHost struct{ session *session }

func (h relayHost) server() *Server { return h.session.client.server }

func (h relayHost) Now() time.Time { return h.server().now() }

func (h relayHost) TransactionAge() time.Duration { return h.server().transactionAge() }

func (h relayHost) StatementFault() bool { return !h.session.internal && h.server().nextUnavailable() }

func (h relayHost) NextCommitFault() relay.CommitFault {
	if h.session.internal {
		return relay.NoFault
	}
	switch h.server().nextCommitFault() {
	case Conflict:
		return relay.Conflict
	case BeforeCommit:
		return relay.CutBeforeCommit
	case AfterCommit:
		return relay.CutAfterCommit
	case UnavailableBeforeCommit:
		return relay.UnavailableBeforeCommit
	case UnavailableAfterCommit:
		return relay.UnavailableAfterCommit
	}
	return relay.NoFault
}

func (h relayHost) Committed(submittedJob bool) {
	s := h.server()
	if !h.session.internal {
		s.count(func(c *TransactionCounts) { c.Applied++ })
	}
	if submittedJob {
		s.serving.Go(h.runJob)
	}
}

func (h relayHost) runJob() {
	s := h.server()
	wait := s.waitForBuild
	if h.session.internal {
		wait = func(context.Context) {}
	}
	jobs.Run(s.ctx, s.postgres, h.session.backend(), wait, func(table uint32) { s.jobChanged(h.session, table) })
}

func (h relayHost) Conflicted() {
	h.server().count(func(c *TransactionCounts) { c.Conflicts++ })
}

func (h relayHost) SchemaConflicted() {
	h.server().count(func(c *TransactionCounts) { c.SchemaConflicts++ })
}

func (h relayHost) Cut() {
	h.server().count(func(c *TransactionCounts) { c.Cuts++ })
	h.session.client.network.Close()
}

func (h relayHost) Canceled() bool {
	h.server().mu.Lock()
	defer h.server().mu.Unlock()
	return h.session.cancelled
}

func (s *Server) count(update func(*TransactionCounts)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	update(&s.transactions)
}
