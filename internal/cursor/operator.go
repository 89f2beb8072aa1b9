package cursor

import "time"

// Retry makes an order's lane due now. A failure before it is due by the schedule is not counted as one of its
// attempts. If the circuit is open, the order is probed next, and the probe is due now, also without a lane. It returns
// false if nothing of the order waits, an attempt of it is under way, or it has no lane and the circuit is closed: then
// it is due already.
func (c *Cursor) Retry(order string, now time.Time) bool {
	q := c.queues[order]
	if q == nil || q.batch != 0 || q.lane == nil && !c.health.Open {
		return false
	}
	c.look(now)
	if q.lane != nil {
		q.lane.hurry(now)
		c.touchLane(q)
	}
	if c.health.Open {
		c.wanted = order
		c.health.NextProbe, c.health.ProbeWaitMillis, c.probeWait = now, 0, 0
		c.touchDocument()
	}
	c.place(q)
	return true
}

// ResumeAll makes everything due now, closes the circuit, clears the failures, and starts slowly. As with Retry,
// failures before their time are not counted.
func (c *Cursor) ResumeAll(now time.Time) {
	c.look(now)
	c.resume(now)
}

// Answers makes everything due now, as a test has shown that the receiver responds. If it was failing, the circuit
// closes and everything starts slowly. A test is no entry: the receiver goes on failing until it accepts one.
func (c *Cursor) Answers(now time.Time) {
	if c.State() == OK {
		return
	}
	c.look(now)
	failing, pace := c.health, c.pace
	c.resume(now)
	if c.health.FailingSince = failing.FailingSince; failing.Failures == 0 {
		c.pace = pace
	}
}
