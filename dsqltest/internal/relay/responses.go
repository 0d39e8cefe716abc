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
	destination := r.destination(kind)
	onRow := r.rewrite.onRow
	r.mu.Unlock()
	var err error
	switch {
	case destination == toNobody && kind == 'D' && onRow != nil:
		err = r.readRow(size, onRow)
	case destination == toNobody:
		err = r.discard(size)
	case destination == toGuard:
		err = r.hold(kind, size)
	default:
		err = r.forward(size)
	}
	if err != nil {
		return err
	}
	switch kind {
	case '1', '2', '3', 'n', 'T', 'I', 's':
		r.update(func() { r.responded() })
	case 'G':
		r.update(func() { r.copying, r.copiedIn = true, true })
	default:
		return nil
	}
	r.changed.Broadcast()
	return nil
}

type destination uint8

const (
	toClient destination = iota
	toGuard
	toNobody
)

// destination says who gets a message that ends nothing.
func (x *exchange) destination(kind byte) destination {
	switch {
	case x.rewrite.drop || x.tooManyRows || len(x.pending) > 0 && x.pending[0]:
		return toNobody
	case kind == 'N' && (x.rewrite.replacement != nil || x.rewrite.hideBlock && x.status == 'I'):
		return toNobody
	case x.guard == nil || x.guard.before > 0:
		return toClient
	case kind == 'G' && x.guard.again:
		return toNobody // the client knows
	}
	return toGuard
}

// responded notes the response to an extended-query message.
func (x *exchange) responded() {
	if len(x.pending) > 0 {
		x.pending = x.pending[1:]
	}
	if x.guard != nil && x.guard.before > 0 {
		x.guard.before--
	}
}

// hold keeps a message until the guarded statement is known to succeed. For CopyData, the client
// has to be asked at once.
func (r responses) hold(kind byte, size int) error {
	message, err := r.read(size)
	if err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.guard.held = append(r.guard.held, message...)
	if kind != 'G' && kind != 's' && kind != 'I' {
		return nil
	}
	_, err = r.to.Write(r.guard.held)
	r.guard.held = nil
	return err
}

func (r responses) readRow(size int, onRow func([][]byte)) error {
	message, err := r.read(size)
	if err != nil {
		return err
	}
	var row pgproto3.DataRow
	if err := row.Decode(message[HeaderSize:]); err != nil {
		return err
	}
	onRow(row.Values)
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
	r.noteCommit(kind, message)
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

// noteCommit tells the host of a commit that PostgreSQL has made, before the client can know. The
// host may look at other sessions, so it must not be called with the lock of this one.
func (x *exchange) noteCommit(kind byte, message []byte) {
	x.mu.Lock()
	committed := x.committing && (kind == 'C' && commandTag(message) == "COMMIT" || kind == 'Z' && !x.failed)
	if committed {
		x.committing, x.rows = false, 0
	}
	submittedJob, schemaChanged := x.submittedJob, x.schemaChanged
	x.mu.Unlock()
	if !committed {
		return
	}
	if schemaChanged != nil {
		schemaChanged()
	}
	x.host.Committed(submittedJob)
}

func commandTag(message []byte) string {
	tag, _, _ := bytes.Cut(message[HeaderSize:], []byte{0})
	return string(tag)
}

// commandComplete handles a CommandComplete and returns what the client gets for it.
func (x *exchange) commandComplete(message []byte) []byte {
	ours := len(x.pending) > 0 && x.pending[0]
	x.responded()
	tag := commandTag(message)
	var held []byte
	if x.guard != nil && x.guard.before == 0 && !ours {
		if x.guard.tags > 0 {
			x.guard.tags--
			return nil
		}
		held, x.guard.held = x.guard.held, nil
	}
	if ours || x.rewrite.drop {
		return nil
	}
	switch tag {
	case "COMMIT":
		if x.heldTag != nil {
			message, x.heldTag = x.heldTag, nil
		}
		if x.rewrite.commitAnswer != nil {
			message = mustEncode(x.rewrite.commitAnswer)
			x.rewrite.commitAnswer, x.failed = nil, true
		}
	case "ROLLBACK":
		x.rows, x.heldTag = 0, nil
	default:
		x.rows += changedRows(tag, x.copiedIn)
	}
	x.copying, x.copiedIn = false, false
	if x.rewrite.tag != "" {
		message = mustEncode(&pgproto3.CommandComplete{CommandTag: []byte(x.rewrite.tag)})
	}
	switch {
	case x.tooManyRows:
		return nil
	case x.rows > rules.MaxRows:
		x.tooManyRows = true
		return mustEncode(rules.ErrRowLimit)
	case x.rewrite.replacement != nil && tag == "ROLLBACK":
		return mustEncode(x.rewrite.replacement)
	case x.rewrite.withholdTag:
		x.heldTag = message
		return nil
	}
	return append(held, message...)
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
	x.pending, x.heldTag = x.pending[:0], nil
	g := x.guard
	if g != nil && g.before > 0 {
		g, x.guard = nil, nil // the error is of an earlier message
	}
	if x.rewrite.drop || x.tooManyRows {
		return nil
	}
	var e pgproto3.ErrorResponse
	if err := e.Decode(message[HeaderSize:]); err != nil || e.Severity == "FATAL" || e.Severity == "PANIC" {
		return message
	}
	if x.rewrite.replacement != nil {
		return mustEncode(x.rewrite.replacement)
	}
	interrupted := x.interrupted && e.Code == "57014"
	canceled := interrupted || x.host.Canceled()
	if g != nil && !g.again && mayBeConflict(&e, canceled) {
		g.conflict, g.held = &e, nil
		return nil
	}
	var held []byte
	if g != nil {
		held, g.held = g.held, nil
	}
	conflict := asConflict(&e, canceled)
	if interrupted {
		conflict = rules.ErrSchemaConflict
	}
	switch conflict {
	case nil:
	case rules.ErrConflict:
		x.host.Conflicted()
		return append(held, mustEncode(conflict)...)
	default:
		x.host.SchemaConflicted()
		return append(held, mustEncode(conflict)...)
	}
	translated := rules.TranslateError(&e)
	if e.Position > 0 {
		e.Position += int32(x.rewrite.offset)
	}
	if translated || x.rewrite.offset != 0 {
		message = mustEncode(&e)
	}
	return append(held, message...)
}

// readyForQuery handles a ReadyForQuery and returns what the client gets for it.
func (x *exchange) readyForQuery(message []byte) []byte {
	x.status = message[HeaderSize]
	x.pendingReady--
	x.pending, x.copying = x.pending[:0], false
	x.committing = false
	if x.status == 'I' {
		x.endTransaction()
	}
	switch {
	case x.rewrite.drop || x.guard != nil && x.guard.conflict != nil || x.rewrite.withholdReady && !x.failed && !x.tooManyRows:
		return nil
	case x.rewrite.commitAnswer != nil: // the commit was a Sync
		return append(mustEncode(x.rewrite.commitAnswer), message...)
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
