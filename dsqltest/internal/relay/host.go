// Package relay carries the messages of one session between a client and a backend of PostgreSQL,
// byte by byte where no rule of DSQL is concerned. Where one is, it refuses a statement, gives
// PostgreSQL another, or changes the response.
package relay

import (
	"time"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
)

// Host is the server around one session. Its methods are called by several goroutines.
type Host interface {
	Now() time.Time
	TransactionAge() time.Duration // the limit, 0 or less for none

	StatementFault() bool         // the statement that follows fails with XX000
	NextCommitFault() CommitFault // due to the commit that follows
	Committed(submittedJob bool)  // PostgreSQL has made a commit
	Conflicted()                  // the client is told of OC000
	SchemaConflicted()            // the client is told of OC001
	Cut()                         // closes the client's connection, by a fault
	Canceled() bool               // a client asked for a statement to be cancelled

	// SchemaOutdated reports whether another session has changed what the statement is about since
	// this session last heard of a change.
	SchemaOutdated(*rules.Statement) bool
	CatchUpSchema() // the session knows of all changes so far

	// SchemaChanging is called before the commit of a schema change. The function that it returns
	// is called once PostgreSQL has made the commit.
	SchemaChanging(*rules.Statement) (committed func())

	// Unblock displaces the transactions that a schema change waits for, until stop is called.
	Unblock() (stop func())
}

// CommitFault is what becomes of a commit.
type CommitFault uint8

const (
	NoFault CommitFault = iota
	Conflict
	CutBeforeCommit
	CutAfterCommit
	UnavailableBeforeCommit
	UnavailableAfterCommit
)
