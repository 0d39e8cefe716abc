package wsconn

import (
	"sync"
	"time"
)

// deadline is a time that can be moved while others wait for it. The zero deadline never comes.
type deadline struct {
	mu    sync.Mutex // guards what follows
	timer *time.Timer
	over  chan struct{} // closed when the deadline has passed; nil: nobody has asked yet
}

// passed is closed when the deadline has passed. After that, a new channel waits for a new one.
func (d *deadline) passed() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.channel()
}

func (d *deadline) channel() chan struct{} {
	if d.over == nil {
		d.over = make(chan struct{})
	}
	return d.over
}

// set moves the deadline to t; the zero time removes it.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	over := d.channel()
	select {
	case <-over:
		d.over = nil
		over = d.channel()
	default:
	}
	if t.IsZero() {
		return
	}
	if left := time.Until(t); left > 0 {
		var timer *time.Timer
		timer = time.AfterFunc(left, func() {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.timer == timer { // else it was moved meanwhile
				close(over)
			}
		})
		d.timer = timer
		return
	}
	close(over)
}
