package cursor

import "time"

// Retry makes an order's lane due now. If the circuit is open, the order is probed next, and the
// probe is due now. It returns false if the order has no lane, or an attempt of it is under way.
func (c *Cursor) Retry(order string, now time.Time) bool {
	q := c.queues[order]
	if q == nil || q.lane == nil || q.batch != 0 {
		return false
	}
	c.look(now)
	q.lane.next, q.lane.wait = time.Time{}, 0
	c.touchLane(q)
	if c.health.Open {
		c.wanted = order
		c.health.NextProbe, c.health.ProbeWaitMillis, c.probeWait = now, 0, 0
		c.touchDocument()
	}
	c.place(q)
	return true
}

// ResumeAll makes everything due now, closes the circuit, clears the failures, and starts slowly.
func (c *Cursor) ResumeAll(now time.Time) {
	c.look(now)
	c.resume(now)
}
