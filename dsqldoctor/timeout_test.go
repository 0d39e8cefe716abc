package dsqldoctor_test

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/dsqlgo/dsql/dsqldoctor"
	"github.com/dsqlgo/dsql/dsqltest"
)

// In these tests a probe does not end after a time. It ends when the other side has decided not to
// answer it, so no test waits, and none depends on the speed of the machine.

// probeTimeout is the context of one probe.
type probeTimeout struct {
	context.Context
	done chan struct{}

	mu  sync.Mutex // guards err
	err error
}

func (p *probeTimeout) Done() <-chan struct{} { return p.done }

func (p *probeTimeout) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.err
}

type probeKey struct{}

func (p *probeTimeout) Value(key any) any {
	if key == (probeKey{}) {
		return p
	}
	return p.Context.Value(key)
}

func (p *probeTimeout) end(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err == nil {
		p.err = err
		close(p.done)
	}
}

// timeOut ends the time of the probe that ctx belongs to.
func timeOut(ctx context.Context) {
	ctx.Value(probeKey{}).(*probeTimeout).end(context.DeadlineExceeded)
}

// timeouts are the running probes, and the connections of all probes by the client's address.
var timeouts struct {
	sync.Mutex
	running map[*probeTimeout]bool
	clients map[string]*probeTimeout
}

// withProbeTimeout is in the place of context.WithTimeout.
func withProbeTimeout(ctx context.Context, _ time.Duration) (context.Context, context.CancelFunc) {
	p := &probeTimeout{Context: ctx, done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { p.end(ctx.Err()) })
	timeouts.Lock()
	defer timeouts.Unlock()
	if timeouts.running == nil {
		timeouts.running, timeouts.clients = map[*probeTimeout]bool{}, map[string]*probeTimeout{}
	}
	timeouts.running[p] = true
	return p, func() {
		stop()
		p.end(context.Canceled)
		timeouts.Lock()
		defer timeouts.Unlock()
		delete(timeouts.running, p)
	}
}

// timeOutAll ends the time of every running probe.
func timeOutAll() {
	timeouts.Lock()
	defer timeouts.Unlock()
	for p := range timeouts.running {
		p.end(context.DeadlineExceeded)
	}
}

// timeOutClient ends the time of the probe that opened the connection from this address.
func timeOutClient(client net.Addr) {
	timeouts.Lock()
	p := timeouts.clients[client.String()]
	timeouts.Unlock()
	if p != nil {
		p.end(context.DeadlineExceeded)
	}
}

func dial(ctx context.Context, network, address string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, address)
	if p, ok := ctx.Value(probeKey{}).(*probeTimeout); ok && err == nil {
		timeouts.Lock()
		defer timeouts.Unlock()
		timeouts.clients[conn.LocalAddr().String()] = p
	}
	return conn, err
}

// dialUnanswered dials an address that does not answer. It leaves the system some time to prove the
// opposite.
func dialUnanswered(dial pgconn.DialFunc) pgconn.DialFunc {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		timer := time.AfterFunc(200*time.Millisecond, func() { timeOut(ctx) })
		defer timer.Stop()
		return dial(ctx, network, address)
	}
}

var hooks = dsqldoctor.TestHooks{WithTimeout: withProbeTimeout, Dial: dial, Grace: time.Minute}

// timeOutWhenSilent ends the time of the running probe as soon as s leaves a client without an
// answer. That is for phases in which no two probes run at once.
func timeOutWhenSilent(t *testing.T, s *dsqltest.Server) {
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		seen := map[int]bool{}
		for {
			for i, a := range s.Attempts() {
				if a.Fault.Effect == dsqltest.Silence && !seen[i] {
					seen[i] = true
					timeOutAll()
				}
			}
			select {
			case <-stop:
				return
			case <-time.After(time.Millisecond):
			}
		}
	}()
	t.Cleanup(func() {
		close(stop)
		<-stopped
	})
}
