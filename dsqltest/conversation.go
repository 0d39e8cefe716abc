package dsqltest

import (
	"bytes"
	"errors"
	"strconv"
	"strings"
	"sync"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

// conversation is what the two directions of a session know of each other.
// Client and PostgreSQL speak to one another, message by message; where a rule
// of DSQL comes in between, the direction to PostgreSQL says something else, and
// leaves an edit for the one that brings the answers.
type conversation struct {
	session *session
	server  *Server

	mu      sync.Mutex // guards what follows
	changed sync.Cond  // signals that
	ended   bool       // PostgreSQL says no more

	owed    int  // answers to messages of the extended protocol
	ready   int  // ReadyForQuery messages owed
	failed  bool // PostgreSQL has sent an error and no ReadyForQuery since
	copying bool // PostgreSQL takes CopyData, and the client has not ended it
	copied  bool // the command is a COPY from the client
	status  byte // in the last ReadyForQuery
	rows    int  // changed in the transaction
	edit    edit
	kept    []byte // a CommandComplete that waits for its commit

	// overrun: the client has been told that the rows are too many, and that its
	// transaction has failed. PostgreSQL has not heard of it yet.
	overrun bool

	// committing: what PostgreSQL does next is a commit.
	committing bool
	defined    bool // of a schema change
	submits    bool // of a job
}

// edit is how the client gets the answers to what is being asked.
type edit struct {
	mute      bool                    // not at all
	instead   *pgproto3.ErrorResponse // as this, where an error or a ROLLBACK's end is answered
	keepReady bool                    // without ReadyForQuery, as long as all goes well
	keepTag   bool                    // without CommandComplete, until COMMIT has one
	implicit  bool                    // as if the transaction block, which is ours, were none
	tag       string                  // with this command tag
	shift     int                     // characters before the statement in the client's query string
}

func newConversation(s *session) *conversation {
	c := &conversation{session: s, server: s.client.server, status: 'I'}
	c.changed.L = &c.mu
	return c
}

func (c *conversation) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.changed.Broadcast()
}

var errEnded = errors.New("PostgreSQL has ended the session")

// wait waits until PostgreSQL's answers have made done true.
func (c *conversation) wait(done func() bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for !done() {
		if c.ended {
			return errEnded
		}
		c.changed.Wait()
	}
	return nil
}

// update changes what answers look at. It must not be called while one is due
// that the change is not meant for.
func (c *conversation) update(change func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	change()
}

// answers brings PostgreSQL's messages to the client.
type answers struct {
	*conversation
	*relay
}

func (a answers) run() error { return a.relay.run(a.handle) }

func (a answers) handle(kind byte, size int) error {
	switch kind {
	case 'C', 'E', 'Z':
		if kind == 'Z' && size != headerSize+1 {
			return errMessageLength
		}
		message, err := a.read(size)
		if err != nil {
			return err
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		defer a.changed.Broadcast()
		switch kind {
		case 'C':
			message = a.complete(message)
		case 'E':
			message = a.fail(message)
		default:
			message = a.readiness(message)
		}
		_, err = a.to.Write(message)
		return err
	case 'S', 'A': // at any time, on PostgreSQL's own account
		return a.forward(size)
	}

	a.mu.Lock()
	drop := a.edit.mute || a.overrun || kind == 'N' && (a.edit.instead != nil || a.edit.implicit && a.status == 'I')
	a.mu.Unlock()
	carry := a.forward
	if drop {
		carry = a.discard
	}
	if err := carry(size); err != nil {
		return err
	}
	switch kind {
	case '1', '2', '3', 'n', 'T', 'I', 's':
		a.update(func() { a.owed-- })
	case 'G':
		a.update(func() { a.copying, a.copied = true, true })
	default:
		return nil
	}
	a.changed.Broadcast()
	return nil
}

// complete handles a CommandComplete and returns what the client gets for it.
func (c *conversation) complete(message []byte) []byte {
	c.owed--
	tag, _, _ := bytes.Cut(message[headerSize:], []byte{0})
	switch {
	case string(tag) == "COMMIT" && c.committing:
		c.commit()
		if c.kept != nil {
			message, c.kept = c.kept, nil
		}
	case string(tag) == "COMMIT" || string(tag) == "ROLLBACK":
		c.rows, c.kept = 0, nil
	default:
		c.rows += changedRows(string(tag), c.copied)
	}
	c.copying, c.copied = false, false
	if c.edit.tag != "" {
		message = mustEncode(&pgproto3.CommandComplete{CommandTag: []byte(c.edit.tag)})
	}
	switch {
	case c.edit.mute || c.overrun:
		return nil
	case c.rows > rules.MaxRows:
		c.overrun = true
		return mustEncode(rules.ErrRowLimit)
	case c.edit.instead != nil && string(tag) == "ROLLBACK":
		return mustEncode(c.edit.instead)
	case c.edit.keepTag:
		c.kept = message
		return nil
	}
	return message
}

// commit counts a commit that PostgreSQL has made.
func (c *conversation) commit() {
	c.server.applied(c.session, c.defined)
	c.committing, c.rows = false, 0
	if c.submits {
		c.server.serving.Go(func() { c.server.runJob(c.session, c.session.backend()) })
	}
}

// changedRows reads a command's tag. That of COPY is the same both ways; from
// the client it follows on CopyData.
func changedRows(tag string, copiedIn bool) int {
	command, _, _ := strings.Cut(tag, " ")
	switch command {
	case "INSERT", "UPDATE", "DELETE", "MERGE":
	case "COPY":
		if !copiedIn {
			return 0
		}
	default:
		return 0
	}
	n, err := strconv.Atoi(tag[strings.LastIndexByte(tag, ' ')+1:])
	if err != nil {
		return 0
	}
	return n
}

// fail handles an ErrorResponse and returns what the client gets for it.
func (c *conversation) fail(message []byte) []byte {
	c.failed, c.copying, c.copied = true, false, false
	c.owed, c.kept = 0, nil
	var e pgproto3.ErrorResponse
	if c.edit.mute || c.overrun {
		return nil
	}
	if err := e.Decode(message[headerSize:]); err != nil || e.Severity == "FATAL" || e.Severity == "PANIC" {
		return message
	}
	if c.edit.instead != nil {
		return mustEncode(c.edit.instead)
	}
	if conflict := asConflict(&e, c.session.wasCancelled()); conflict != nil {
		c.server.count(func(counts *TransactionCounts) {
			if conflict == rules.ErrConflict {
				counts.Conflicts++
			} else {
				counts.SchemaConflicts++
			}
		})
		return mustEncode(conflict)
	}
	translated := rules.TranslateError(&e)
	if e.Position > 0 {
		e.Position += int32(c.edit.shift)
	}
	if translated || c.edit.shift > 0 {
		return mustEncode(&e)
	}
	return message
}

// readiness handles a ReadyForQuery and returns what the client gets for it.
func (c *conversation) readiness(message []byte) []byte {
	c.status = message[headerSize]
	c.ready--
	c.owed, c.copying = 0, false
	if c.committing && !c.failed {
		c.commit()
	}
	c.committing = false
	if c.status == 'I' {
		c.rows = 0
	}
	switch {
	case c.edit.mute || c.edit.keepReady && !c.failed && !c.overrun:
		return nil
	case c.edit.implicit:
		message[headerSize] = 'I'
	case c.overrun && c.status == 'T':
		message[headerSize] = 'E'
	}
	return message
}

// mustEncode frames a message that is too short to fail.
func mustEncode(m pgproto3.BackendMessage) []byte {
	message, err := m.Encode(nil)
	if err != nil {
		panic(err)
	}
	return message
}
