package wsconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"os"
	"sync"

	"github.com/coder/websocket"
)

// chunkSize is how much is read at once. A connection holds one chunk at most, and none while it is
// idle.
const chunkSize = 16 << 10

var chunkPool = sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}

// receiver reads frames. Only one goroutine at a time may use it.
//
// Package websocket ends a connection when a read fails in the middle of a frame. So it reads in a
// coroutine: when a deadline passes, stream.Read does not return, but yields, and goes on reading at
// the next call of more. A goroutine that reads on its own account would do, too, but handing over
// what it reads took a fifth of the throughput of short queries.
type receiver struct {
	ws     *websocket.Conn
	stream *stream

	next func() (error, bool)
	stop func()

	chunk *[]byte // that rest is in, or nil
	rest  []byte  // what was received and not read yet
	err   error   // follows rest
}

func newReceiver(ws *websocket.Conn, s *stream) *receiver {
	// Frames are not held as a whole, so that their length is no danger.
	ws.SetReadLimit(-1)
	r := &receiver{ws: ws, stream: s}
	r.next, r.stop = iter.Pull(r.receive)
	return r
}

// read returns what was received before, if there is anything.
func (r *receiver) read(p []byte) int {
	n := copy(p, r.rest)
	if r.rest = r.rest[n:]; len(r.rest) == 0 && r.chunk != nil {
		chunkPool.Put(r.chunk)
		r.chunk, r.rest = nil, nil
	}
	return n
}

// more receives until there is something to read, or the deadline of the connection has passed. It
// must not be called while there is something to read.
func (r *receiver) more() error {
	if r.err != nil {
		return r.err
	}
	err, ok := r.next()
	if !ok {
		err = net.ErrClosed
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		r.err = err
	}
	return err
}

// close ends the coroutine.
func (r *receiver) close() {
	r.stop()
	r.err = net.ErrClosed
	r.rest = nil
	r.read(nil)
}

// receive is the coroutine. It yields nil when there is something to read, an error when a deadline
// has passed, and at last the error that ends the connection.
func (r *receiver) receive(yield func(error) bool) {
	r.stream.interrupted = func(err error) bool { return yield(err) }
	defer func() { r.stream.interrupted = nil }()
	for {
		kind, message, err := r.ws.Reader(context.Background())
		if err == nil && kind != websocket.MessageBinary {
			err = errors.New("the server sent a text frame, which does not occur in PostgreSQL's protocol")
		}
		if err != nil {
			yield(r.cause(err))
			return
		}
		for err == nil {
			chunk := chunkPool.Get().(*[]byte)
			var n int
			if n, err = message.Read(*chunk); n == 0 {
				chunkPool.Put(chunk)
				continue
			}
			r.chunk, r.rest = chunk, (*chunk)[:n]
			if !yield(nil) {
				return
			}
		}
		if err != io.EOF {
			yield(r.cause(err))
			return
		}
	}
}

// cause returns the cause of err, which package websocket wraps several times.
func (r *receiver) cause(err error) error {
	var closed websocket.CloseError
	if errors.As(err, &closed) {
		switch closed.Code {
		case websocket.StatusNormalClosure, websocket.StatusGoingAway, websocket.StatusNoStatusRcvd:
			return io.EOF
		}
		return fmt.Errorf("the server closed the WebSocket with status %d (%q)", closed.Code, closed.Reason)
	}
	if cause := r.stream.readErr.Load(); cause != nil {
		return *cause
	}
	return err
}
