package wsconn

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// A ping is sent when nothing was sent or received in a whole interval, so after 20 to 40 s.
	// Many HTTP proxies cut a connection that is silent for 60 s; PrivateLink does after 350 s.
	pingInterval = 20 * time.Second

	// A peer that is gone is noticed after pingInterval and this, at most 75 s as over TCP.
	pongTimeout = 35 * time.Second
)

var errNoPong = errors.New("the server does not answer")

// keepAlive sends pings until the connection is closed, or ended.
func (c *Conn) keepAlive(ended <-chan struct{}) {
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	var reads, writes uint64
	for {
		select {
		case <-ticker.C:
		case <-c.closed:
			return
		case <-ended:
			return
		}
		r, w := c.stream.reads.Load(), c.stream.writes.Load()
		silent := r == reads && w == writes
		reads, writes = r, w
		if !silent || c.received.isFull() {
			continue
		}
		if c.ping() {
			continue
		}
		select {
		case <-c.closed:
		case <-ended:
		default:
			c.fail(fmt.Errorf("%w: no pong within %s", errNoPong, pongTimeout))
		}
		return
	}
}

// ping is false when the peer seems to be gone.
func (c *Conn) ping() bool {
	reads, writes := c.stream.reads.Load(), c.stream.writes.Load()
	ctx, cancel := context.WithTimeout(context.Background(), pongTimeout)
	defer cancel()
	if c.ws.Ping(ctx) == nil {
		return true
	}
	// A pong can be behind other data, or behind data that Read has not taken yet. Package
	// websocket waits 5 s for a write that is under way, which says nothing about the peer.
	return c.stream.reads.Load() != reads || c.stream.writes.Load() != writes+1 || c.received.isFull()
}
