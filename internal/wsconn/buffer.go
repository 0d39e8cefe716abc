package wsconn

import (
	"os"
	"sync"
	"time"
)

// chunkSize is how much is read at once. A connection holds two chunks at most, and none while it is
// idle.
const chunkSize = 16 << 10

var chunkPool = sync.Pool{New: func() any { b := make([]byte, chunkSize); return &b }}

// buffer is between the goroutine that receives and Read: a bounded queue of bytes, whose reader has a
// deadline.
type buffer struct {
	mu       sync.Mutex // guards the fields below
	changed  sync.Cond  // of mu
	chunk    *[]byte    // from chunkPool, or nil
	begin    int        // what is in chunk begins here
	end      int        // and ends here
	err      error      // follows when chunk is empty
	full     bool       // write waits
	expired  bool       // the deadline has passed
	deadline *time.Timer
}

func newBuffer() *buffer {
	b := &buffer{}
	b.changed.L = &b.mu
	return b
}

// read waits until there is something to read, or the deadline has passed: os.ErrDeadlineExceeded.
func (b *buffer) read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		switch {
		case b.expired:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		case b.begin < b.end:
			n := copy(p, (*b.chunk)[b.begin:b.end])
			if b.begin += n; b.begin == b.end {
				b.drop()
				if b.full {
					b.changed.Broadcast()
				}
			}
			return n, nil
		case b.err != nil:
			return 0, b.err
		}
		b.changed.Wait()
	}
}

// drop returns the chunk to the pool.
func (b *buffer) drop() {
	chunkPool.Put(b.chunk)
	b.chunk, b.begin, b.end = nil, 0, 0
}

// write takes over a chunk from chunkPool, and the n bytes in it. It waits until there is room, and is
// false if fail was called before that.
func (b *buffer) write(chunk *[]byte, n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.err == nil && b.chunk != nil && b.end+n > chunkSize {
		b.full = true
		b.changed.Wait()
		b.full = false
	}
	if b.err != nil {
		chunkPool.Put(chunk)
		return false
	}
	if b.chunk == nil {
		b.chunk, b.end = chunk, n
	} else { // many frames are short
		b.end += copy((*b.chunk)[b.end:], (*chunk)[:n])
		chunkPool.Put(chunk)
	}
	b.changed.Broadcast()
	return true
}

// isFull reports whether write waits for read.
func (b *buffer) isFull() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.full
}

// fail makes err follow what is in the buffer. Only the first call counts.
func (b *buffer) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.err == nil {
		b.err = err
		b.changed.Broadcast()
	}
}

// close makes err all that there is to read.
func (b *buffer) close(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.chunk != nil {
		b.drop()
	}
	b.err = err
	b.stopTimer()
	b.expired = false
	b.changed.Broadcast()
}

// setDeadline moves the deadline to t, also for a read that waits. The zero time removes it.
func (b *buffer) setDeadline(t time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stopTimer()
	b.expired = false
	if t.IsZero() {
		return
	}
	left := time.Until(t)
	if left <= 0 {
		b.expired = true
		b.changed.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(left, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if b.deadline == timer { // else it was moved meanwhile
			b.expired = true
			b.changed.Broadcast()
		}
	})
	b.deadline = timer
}

func (b *buffer) stopTimer() {
	if b.deadline != nil {
		b.deadline.Stop()
		b.deadline = nil
	}
}
