package relay

import (
	"bytes"
	"strconv"
	"strings"

	"github.com/dsqlgo/dsql/dsqltest/internal/rules"
	"github.com/jackc/pgx/v5/pgproto3"
)

// responses brings PostgreSQL's messages to the client.
type responses struct {
	*exchange
	*stream
}

func (r responses) run() error { return r.stream.run(r.handle) }

func (r responses) handle(kind byte, size int) error {
	switch kind {
	case 'C', 'E', 'Z':
		return r.handleEnd(kind, size)
	case 'S', 'A': // at any time, on PostgreSQL's own account
		return r.forward(size)
	}

	r.mu.Lock()
	drop := r.rewrite.drop || r.tooManyRows ||
		kind == 'N' && (r.rewrite.replacement != nil || r.rewrite.hideBlock && r.status == 'I')
	r.mu.Unlock()
	carry := r.forward
	if drop {
		carry = r.discard
	}
	if err := carry(size); err != nil {
		return err
	}
	switch kind {
	case '1', '2', '3', 'n', 'T', 'I', 's':
		r.update(func() { r.pendingResponses-- })
	case 'G':
		r.update(func() { r.copying, r.copiedIn = true, true })
	default:
		return nil
	}
	r.changed.Broadcast()
	return nil
}

// handleEnd handles what ends a statement or a series of them.
func (r responses) handleEnd(kind byte, size int) error {
	if kind == 'Z' && size != HeaderSize+1 {
		return errMessageLength
	}
	message, err := r.read(size)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	defer r.changed.Broadcast()
	switch kind {
	case 'C':
		message = r.commandComplete(message)
	case 'E':
		message = r.errorResponse(message)
	default:
		message = r.readyForQuery(message)
	}
	_, err = r.to.Write(message)
	return err
}

// commandComplete handles a CommandComplete and returns what the client gets for it.
func (x *exchange) commandComplete(message []byte) []byte {
	x.pendingResponses--
	tag, _, _ := bytes.Cut(message[HeaderSize:], []byte{0})
	switch {
	case string(tag) == "COMMIT" && x.committing:
		x.committed()
		if x.heldTag != nil {
			message, x.heldTag = x.heldTag, nil
		}
	case string(tag) == "COMMIT" || string(tag) == "ROLLBACK":
		x.rows, x.heldTag = 0, nil
	default:
		x.rows += changedRows(string(tag), x.copiedIn)
	}
	x.copying, x.copiedIn = false, false
	if x.rewrite.tag != "" {
		message = mustEncode(&pgproto3.CommandComplete{CommandTag: []byte(x.rewrite.tag)})
	}
	switch {
	case x.rewrite.drop || x.tooManyRows:
		return nil
	case x.rows > rules.MaxRows:
		x.tooManyRows = true
		return mustEncode(rules.ErrRowLimit)
	case x.rewrite.replacement != nil && string(tag) == "ROLLBACK":
		return mustEncode(x.rewrite.replacement)
	case x.rewrite.withholdTag:
		x.heldTag = message
		return nil
	}
	return message
}

// committed notes a commit that PostgreSQL has made.
func (x *exchange) committed() {
	x.committing, x.rows = false, 0
	x.host.Committed(x.schemaChanged, x.submittedJob)
}

// changedRows reads a command's tag. That of COPY is the same both ways; from the client it follows
// on CopyData.
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

// errorResponse handles an ErrorResponse and returns what the client gets for it.
func (x *exchange) errorResponse(message []byte) []byte {
	x.failed, x.copying, x.copiedIn = true, false, false
	x.pendingResponses, x.heldTag = 0, nil
	var e pgproto3.ErrorResponse
	if x.rewrite.drop || x.tooManyRows {
		return nil
	}
	if err := e.Decode(message[HeaderSize:]); err != nil || e.Severity == "FATAL" || e.Severity == "PANIC" {
		return message
	}
	if x.rewrite.replacement != nil {
		return mustEncode(x.rewrite.replacement)
	}
	switch conflict := asConflict(&e, x.host.Canceled()); conflict {
	case nil:
	case rules.ErrConflict:
		x.host.Conflicted()
		return mustEncode(conflict)
	default:
		x.host.SchemaConflicted()
		return mustEncode(conflict)
	}
	translated := rules.TranslateError(&e)
	if e.Position > 0 {
		e.Position += int32(x.rewrite.offset)
	}
	if translated || x.rewrite.offset > 0 {
		return mustEncode(&e)
	}
	return message
}

// readyForQuery handles a ReadyForQuery and returns what the client gets for it.
func (x *exchange) readyForQuery(message []byte) []byte {
	x.status = message[HeaderSize]
	x.pendingReady--
	x.pendingResponses, x.copying = 0, false
	if x.committing && !x.failed {
		x.committed()
	}
	x.committing = false
	if x.status == 'I' {
		x.rows = 0
	}
	switch {
	case x.rewrite.drop || x.rewrite.withholdReady && !x.failed && !x.tooManyRows:
		return nil
	case x.rewrite.hideBlock:
		message[HeaderSize] = 'I'
	case x.tooManyRows && x.status == 'T':
		message[HeaderSize] = 'E'
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
