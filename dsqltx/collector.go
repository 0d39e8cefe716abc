package dsqltx

import (
	"context"
	"fmt"
)

// collector makes batches of rows. It is used by the goroutine of Write alone.
type collector struct {
	*load
	ctx     context.Context
	next    int     // number of the next row
	batch   *batch  // nil, or it has a slot
	earlier []Batch // of Resume, from the one that next is in or before
}

// add takes a row, and returns false when the load has failed.
func (c *collector) add(row []any) bool {
	for len(c.earlier) > 0 && c.earlier[0].To <= c.next {
		c.earlier = c.earlier[1:]
		c.flush() // batches of the earlier run are looked for as they were
	}
	state := BatchOut
	if len(c.earlier) > 0 && c.earlier[0].From <= c.next {
		if state = c.earlier[0].State; c.earlier[0].From == c.next {
			c.flush()
		}
	}
	defer func() { c.next++ }()
	if state == BatchIn || state == BatchRejected {
		return !c.hasFailed()
	}
	if err := c.checkRow(row); err != nil {
		c.flush()
		return c.refuse(c.next, row, err)
	}
	size := rowSize(row)
	if c.batch != nil && state != BatchUnknown && !c.fits(size) {
		c.flush()
	}
	if c.batch == nil {
		if !c.acquire() {
			return false
		}
		c.batch = &batch{from: c.next, check: state == BatchUnknown}
	}
	c.batch.rows = append(c.batch.rows, row)
	c.batch.bytes += size
	return !c.hasFailed()
}

// fits tells whether the batch may have another row of that size.
func (c *collector) fits(size int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.batch.rows) < c.maxRows && c.batch.bytes+size <= c.maxBytes
}

// acquire waits until one more batch may be held, or the load fails.
func (c *collector) acquire() bool {
	select {
	case c.slots <- struct{}{}:
		if err := c.ctx.Err(); err != nil {
			<-c.slots
			c.fail(fmt.Errorf("dsqltx: writing row %d: %w", c.next, err))
			return false
		}
		return true
	case <-c.failed:
	case <-c.ctx.Done():
		c.fail(fmt.Errorf("dsqltx: writing row %d: %w", c.next, c.ctx.Err()))
	}
	return false
}

// flush has the batch written.
func (c *collector) flush() {
	if c.batch != nil {
		c.start(c.ctx, c.batch)
		c.batch = nil
	}
}

// drop records that the rows of the batch are out.
func (c *collector) drop() {
	if c.batch != nil {
		c.endUnwritten(c.batch)
		c.batch = nil
		<-c.slots
	}
}
