package dsqlproxy

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

const (
	// Each direction reads into a buffer that grows while reads fill it: most sessions exchange
	// short messages, and thousands of idle ones are held. The largest takes two full TLS records.
	minBuffer = 1 << 10
	maxBuffer = 32 << 10

	// halfCloseTimeout is how long a client that has closed its side may wait for answers that are
	// due. A process that was killed looks the same, and its session must not stay at the cluster.
	halfCloseTimeout = 10 * time.Second
)

// relay carries the bytes of one session both ways, as they are. It reads no more of a message than
// its header, to know when the session is idle and where words of its own may stand.
//
// There are two goroutines: carryRequests reads the client and writes to the cluster, carryAnswers
// reads the cluster and writes to the client. So a message costs one wake-up, one read and one
// write.
type relay struct {
	client  net.Conn
	session *clusterSession
	editor  *editor // nil: requests go as they are

	mu        sync.Mutex // guards what follows
	requests  framer
	pending   int  // ReadyForQuery messages that are due
	unsynced  bool // messages of the extended protocol went without a Sync
	copying   bool // the client sends CopyData; the cluster ignores Sync meanwhile
	status    byte // in the last ReadyForQuery: 'I' outside of a transaction
	left      bool // the client has closed its side, or sent Terminate
	draining  bool // to be ended as soon as it is idle
	ended     bool // nothing goes to the cluster any more
	reason    string
	toCluster uint64 // bytes
	toClient  uint64

	writing sync.Mutex // held to write to the client; guards what follows
	answers framer
	said    byte     // type of the cluster's last message
	notices [][]byte // to be written at the end of a message
}

func newRelay(client net.Conn, session *clusterSession) *relay {
	return &relay{client: client, session: session, status: 'I'}
}

// run carries first, which the client sent ahead, and then everything, until either side ends or
// s.ctx does. It returns why.
func (r *relay) run(s *server, first []byte) (reason string) {
	s.register(r)
	defer s.unregister(r)
	stop := context.AfterFunc(s.ctx, func() { r.finish("the proxy has shut down", nil, false) })
	defer stop()
	if s.isDraining() { // since drain has looked for relays
		r.drain()
	}
	answered := make(chan struct{})
	go func() {
		defer close(answered)
		r.carryAnswers()
	}()
	r.carryRequests(first)
	<-answered
	r.client.Close()
	r.session.conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reason
}

// carryRequests returns when the client has closed its side. When the session has ended before, it
// reads on, so that what the client still sends does not reset the connection before the client has
// read the last words.
func (r *relay) carryRequests(first []byte) {
	err := r.request(first)
	buffer := make([]byte, minBuffer)
	for {
		n, readErr := r.client.Read(buffer)
		if err == nil && n > 0 {
			err = r.request(buffer[:n])
		}
		if errors.Is(err, errMessageLength) {
			r.finish("the client broke the protocol", refuse("08P01", "", "a message with an invalid length"), false)
		}
		if readErr != nil {
			r.clientLeft(readErr)
			return
		}
		buffer = grown(buffer, n)
	}
}

// request sends what the client sent.
func (r *relay) request(b []byte) error {
	if r.editor != nil {
		var notices [][]byte
		if b, notices = r.editor.edit(b); len(notices) > 0 {
			if err := r.deliver(nil, notices); err != nil {
				return err
			}
		}
	}
	if len(b) == 0 {
		return nil
	}
	if err := r.noteRequests(b); err != nil {
		return err
	}
	_, err := r.session.conn.Write(b)
	return err // carryAnswers finds the cluster's last words, or the same error
}

var errEnded = errors.New("the session has ended")

// noteRequests looks for messages that the cluster answers with ReadyForQuery. It comes before they
// are sent, so that the session is never idle while one is on its way.
func (r *relay) noteRequests(b []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return errEnded
	}
	r.toCluster += uint64(len(b))
	for len(b) > 0 {
		kind, rest, err := r.requests.next(b)
		if err != nil {
			return err
		}
		switch b = rest; kind {
		case 'Q', 'F': // Query, FunctionCall
			r.pending++
		case 'S': // Sync
			if !r.copying {
				r.pending++
			}
			r.unsynced = false
		case 'P', 'B', 'D', 'E', 'C', 'H': // Parse, Bind, Describe, Execute, Close, Flush
			r.unsynced = true
		case 'c', 'f': // CopyDone, CopyFail
			r.copying = false
		case 'X': // Terminate
			r.left = true
		}
	}
	return nil
}

// carryAnswers returns when the cluster has closed its side, or the client takes nothing any more.
func (r *relay) carryAnswers() {
	buffer := make([]byte, minBuffer)
	for {
		n, readErr := r.session.conn.Read(buffer)
		if n > 0 {
			if err := r.deliver(buffer[:n], nil); err != nil {
				r.finish("the client takes nothing any more", nil, false)
				return
			}
		}
		if readErr != nil {
			r.clusterLeft(readErr)
			return
		}
		buffer = grown(buffer, n)
	}
}

// deliver writes what the cluster sent, and notices of the proxy's own where a message ends.
func (r *relay) deliver(b []byte, notices [][]byte) error {
	r.writing.Lock()
	defer r.writing.Unlock()
	if len(b) > 0 {
		if _, err := r.client.Write(b); err != nil {
			return err
		}
		if err := r.noteAnswers(b); err != nil {
			return err
		}
	}
	r.notices = append(r.notices, notices...)
	if len(r.notices) == 0 || !r.answers.between() {
		return nil
	}
	for _, n := range r.notices {
		if _, err := r.client.Write(n); err != nil {
			return err
		}
	}
	r.notices = nil
	return nil
}

// noteAnswers looks for the end of what was asked. It comes after that was written, so that nothing
// is on its way to the client when the session is idle.
func (r *relay) noteAnswers(b []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.toClient += uint64(len(b))
	for len(b) > 0 {
		kind, rest, err := r.answers.next(b)
		if err != nil {
			return err
		}
		b = rest
		switch kind {
		case 0:
			continue
		case 'Z': // ReadyForQuery
			r.pending = max(r.pending-1, 0)
			r.status, r.copying = r.answers.last, false
		case 'G', 'W': // CopyInResponse, CopyBothResponse
			r.copying = true
		}
		r.said = kind
	}
	if (r.draining || r.left) && r.idle() {
		go r.finishIdle()
	}
	return nil
}

// idle tells whether nothing is asked, nothing is due, and there is no transaction.
func (r *relay) idle() bool {
	return r.pending == 0 && !r.unsynced && !r.copying && r.status == 'I' && r.requests.between()
}

// finishIdle ends the session unless the client has asked for something meanwhile.
func (r *relay) finishIdle() {
	r.mu.Lock()
	left := r.left
	r.mu.Unlock()
	if left {
		r.finish("the client left", nil, true)
		return
	}
	r.finish("drained", refuseShutdown(), true)
}

// drain ends the session now, if it is idle, or as soon as it is.
func (r *relay) drain() {
	r.mu.Lock()
	r.draining = true
	r.mu.Unlock()
	r.finishIdle()
}

// spoken stands for words that the client has already.
var spoken = new(fatal)

// finish ends the session, once. The client gets the words, where a message may stand. With ifIdle
// it does nothing unless the session is idle.
func (r *relay) finish(reason string, words *fatal, ifIdle bool) {
	r.mu.Lock()
	if r.ended || ifIdle && !r.idle() {
		r.mu.Unlock()
		return
	}
	r.ended, r.reason = true, reason
	r.mu.Unlock()

	// These end the other goroutine's read or write, too, wherever it waits.
	r.client.SetDeadline(time.Now().Add(lingerTimeout))
	if words != nil && words != spoken {
		r.say(words)
	}
	r.session.conn.Close()
	if half, ok := r.client.(interface{ CloseWrite() error }); !ok || words == nil || half.CloseWrite() != nil {
		r.client.Close()
	}
}

// say tells the client why its session ends.
func (r *relay) say(words *fatal) {
	r.writing.Lock()
	defer r.writing.Unlock()
	message, err := words.response.Encode(nil)
	if err == nil && r.answers.between() {
		_, _ = r.client.Write(message)
	}
}

// clientLeft ends the session when the client has read the answers that are due.
func (r *relay) clientLeft(err error) {
	r.mu.Lock()
	r.left = true
	wait := r.pending > 0 && !r.ended && err == io.EOF
	r.mu.Unlock()
	if !wait {
		r.finish("the client left", nil, false)
		return
	}
	time.AfterFunc(halfCloseTimeout, func() { r.finish("the client left, and its answers did not come", nil, false) })
}

// clusterLeft ends the session with the cluster's last words, if there were any. Without them, what
// the client has asked for may have been done or not; programs that run a transaction again look
// for 08007 there, which says so.
func (r *relay) clusterLeft(err error) {
	r.mu.Lock()
	left, idle := r.left, r.idle()
	r.mu.Unlock()
	r.writing.Lock()
	said := r.said
	r.writing.Unlock()
	const lost = "the connection to the cluster was lost"
	switch {
	case said == 'E': // an ErrorResponse, and no ReadyForQuery behind it
		r.finish("the cluster ended the session", spoken, false)
	case left:
		r.finish("the client left", nil, false)
	case idle:
		r.finish(lost+": "+err.Error(), refuse("08006", "connect again", "%s", lost), false)
	default:
		r.finish(lost+": "+err.Error(), refuse("08007", "connect again; if it was a COMMIT, look whether it was applied", "%s while a statement ran", lost), false)
	}
}

// bytes are those that were relayed so far.
func (r *relay) bytes() (toCluster, toClient uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.toCluster, r.toClient
}

// grown returns a larger buffer where a read has filled it.
func grown(buffer []byte, n int) []byte {
	if n == len(buffer) && n < maxBuffer {
		return make([]byte, 2*n)
	}
	return buffer
}
