package wsconn

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// idleTime is how long nobody may have called Read before pings are received without it.
	idleTime = time.Second

	// lookInterval is how often a connection that is idle is looked at.
	lookInterval = 10 * time.Second

	// A ping is sent when nothing was sent or received for this long, so after 30 to 40 s. Many HTTP
	// proxies cut a connection that is silent for 60 s; PrivateLink does after 350 s.
	pingInterval = 30 * time.Second

	// A peer that is gone is noticed after pingInterval, this and twice lookInterval: after 75 s at
	// most, as over TCP.
	pongTimeout = 25 * time.Second
)

var errNoPong = errors.New("the server does not answer")

// keepAlive receives while nobody reads, and sends pings, until the connection is closed or given up.
//
//	active   nothing was sent or received for pingInterval: a ping is sent
//	pinged   something was sent or received: active; nothing was for pongTimeout: given up
func (c *Conn) keepAlive() {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	ticker := time.NewTicker(idleTime)
	defer ticker.Stop()
	reads, writes := c.stream.reads.Load(), c.written.Load()
	since, pinged := time.Now(), false // since when the state is what it is
	for {
		select {
		case <-ticker.C:
		case <-c.closed:
			return
		}
		now := time.Now()
		r, w := c.stream.reads.Load(), c.written.Load()
		switch {
		case r != reads, w != writes:
			since, pinged = now, false
		case c.isFull(): // an answer may be behind what nobody has read yet
			since = now
		case !pinged && now.Sub(since) >= pingInterval:
			since, pinged = now, true
			// In Ping, package websocket also waits for the answer.
			c.goroutines.Go(func() { _ = c.ws.Ping(ctx) })
		case pinged && now.Sub(since) >= pongTimeout:
			c.fail(fmt.Errorf("%w: no pong within %s", errNoPong, pongTimeout))
			return
		}
		reads, writes = r, w
		c.receiveIdle(now.Add(lookInterval))
	}
}

// isFull reports whether something was received that nobody reads.
func (c *Conn) isFull() bool {
	if !c.readMu.TryLock() {
		return false
	}
	defer c.readMu.Unlock()
	return len(c.receiver.rest) > 0
}
