// Package transport chooses between TCP and WebSocket where both may lead to an endpoint.
package transport

import (
	"context"
	"sync"
	"time"
)

// Transport is what carries PostgreSQL's protocol.
type Transport string

const (
	TCP       Transport = "tcp"
	WebSocket Transport = "websocket"
)

// Other returns the transport that t is not.
func (t Transport) Other() Transport {
	if t == TCP {
		return WebSocket
	}
	return TCP
}

// Result is what an attempt shows of the network. What the cluster says to a login shows nothing
// but that the network is open.
type Result int

const (
	Unknown Result = iota // the attempt ended for another reason before it could tell
	Open                  // TLS is verified and, for WebSocket, the upgrade accepted
	Stopped               // the network did not let the attempt get so far
)

// Memory remembers for each endpoint which transport works. The zero Memory knows nothing. It is
// safe for concurrent use.
type Memory struct {
	mu        sync.Mutex           // guards what follows, and all in the endpoints
	endpoints map[string]*endpoint // never dropped: a process talks to a handful
}

type endpoint struct {
	knowledge
	learned chan struct{} // closed, and made anew, when knowledge changes
}

// Attempt is one attempt to connect by the transport that Next chose.
type Attempt struct {
	Transport Transport

	memory   *Memory
	endpoint *endpoint
	look     bool
	once     sync.Once
}

// Next chooses the transport for an attempt to connect to an endpoint, whose name may be anything
// that stands for its addresses. stopped is the transport that the network stopped in the
// attempt before, if the same connect made one. The attempt must be ended by a call of Done.
//
// Where another connect is the first to try TCP, Next waits for what that shows: at most for wait,
// then WebSocket is worth a try. The error is ctx's.
func (m *Memory) Next(ctx context.Context, name string, stopped Transport, wait time.Duration) (*Attempt, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.endpoints[name]
	if e == nil {
		if m.endpoints == nil {
			m.endpoints = make(map[string]*endpoint)
		}
		e = &endpoint{learned: make(chan struct{})}
		m.endpoints[name] = e
	}
	var late <-chan time.Time
	for {
		transport, look, mustWait := e.choose(time.Now(), stopped)
		if !mustWait {
			return &Attempt{Transport: transport, memory: m, endpoint: e, look: look}, nil
		}
		if late == nil {
			timer := time.NewTimer(wait)
			defer timer.Stop()
			late = timer.C
		}
		learned := e.learned
		m.mu.Unlock()
		select {
		case <-learned:
			m.mu.Lock()
		case <-late:
			m.mu.Lock()
			return &Attempt{Transport: WebSocket, memory: m, endpoint: e}, nil
		case <-ctx.Done():
			m.mu.Lock()
			return nil, ctx.Err()
		}
	}
}

// Done says what the attempt showed of the network, as soon as that is known. Only the first call
// counts.
func (a *Attempt) Done(r Result) {
	a.once.Do(func() {
		a.memory.mu.Lock()
		defer a.memory.mu.Unlock()
		a.endpoint.learn(time.Now(), a.Transport, a.look, r)
		close(a.endpoint.learned)
		a.endpoint.learned = make(chan struct{})
	})
}
