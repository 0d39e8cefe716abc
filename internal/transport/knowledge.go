package transport

import "time"

const (
	// While WebSocket is used, TCP is tried again after the first of these, and each time that it
	// is still stopped after twice as long, up to the last. A look costs the connect that takes
	// it a few seconds where the network is silent.
	firstLook = time.Minute
	lastLook  = 32 * time.Minute
)

// knowledge is what is known of the ways to one endpoint. Its states, what a connect uses in each,
// and what ends each:
//
//	unknown    TCP: one looks whether it is open, and the others wait   open: tcp; stopped: websocket
//	tcp        TCP                                                      stopped: websocket
//	websocket  WebSocket; now and then one looks whether TCP is open    TCP is open: tcp; stopped: unknown
//
// A connect that was stopped does not try the same again at once, whatever the state. So it finds
// the open way by itself, and where there is none, it tries both in turn until its time is over.
type knowledge struct {
	state   state
	looking bool // one connect tries TCP for all

	// In websocket:
	lookAt   time.Time     // when to look again
	interval time.Duration // between two looks
}

type state int

const (
	unknown state = iota
	tcp
	websocket
)

// choose returns what an attempt is to use; whether it looks for all, which it then must tell
// learn; or that it has to wait for the one that looks. stopped is what this connect must not use.
func (k *knowledge) choose(now time.Time, stopped Transport) (t Transport, look, wait bool) {
	switch k.state {
	case unknown:
		switch {
		case stopped == TCP:
			return WebSocket, false, false
		case k.looking:
			return "", false, true
		}
		k.looking = true
		return TCP, true, false
	case websocket:
		if !k.looking && stopped == "" && !now.Before(k.lookAt) {
			k.looking = true
			return TCP, true, false
		}
		t = WebSocket
	default:
		t = TCP
	}
	if t == stopped {
		t = t.Other()
	}
	return t, false, false
}

// learn takes in what an attempt by t has shown.
func (k *knowledge) learn(now time.Time, t Transport, look bool, r Result) {
	if look {
		k.looking = false
	}
	switch {
	case t == TCP && r == Open:
		k.state = tcp
	case t == TCP && r == Stopped && k.state != websocket:
		k.state, k.interval = websocket, firstLook
		k.lookAt = now.Add(k.interval)
	case t == TCP && r == Stopped && look:
		k.interval = min(2*k.interval, lastLook)
		k.lookAt = now.Add(k.interval)
	case t == WebSocket && r == Stopped && k.state == websocket:
		k.state = unknown
	}
}
