package cursor

import (
	"container/heap"
	"time"
)

// Health returns the receiver's health.
func (c *Cursor) Health() Health { return c.health }

// failed counts a failure of the receiver. It opens the circuit, or sets the time of the next
// probe.
func (c *Cursor) failed(q *queue, now time.Time, retryAfter time.Duration) {
	h := &c.health
	if h.Failures++; h.FailingSince.IsZero() {
		h.FailingSince = now
	}
	if c.failing == "" {
		c.failing = q.order
	} else if c.failing != q.order {
		h.Several = true
	}
	c.touchDocument()
	switch {
	case h.Open && q.probe:
		h.Probes++
		c.setProbe(now, retryAfter)
	case !h.Open && c.policy.CircuitFailures > 0 && h.Failures >= c.policy.CircuitFailures && h.Several:
		h.Open, h.Probes, c.lastProbe = true, 0, 0
		c.setProbe(now, retryAfter)
	}
}

func (c *Cursor) setProbe(now time.Time, retryAfter time.Duration) {
	c.probeWait = c.policy.probeWait(c.health.Probes, retryAfter)
	c.health.NextProbe, c.health.ProbeWaitMillis = now.Add(c.probeWait), c.probeWait.Milliseconds()
}

// answered records that the receiver is well. If the circuit was open, it closes: everything is
// due, starting slowly.
func (c *Cursor) answered(now time.Time) {
	if c.health.Open {
		c.resume(now)
		return
	}
	if c.health != (Health{}) {
		c.heal()
	}
	if c.pace > 0 {
		if c.pace *= 2; c.pace >= c.policy.Concurrency {
			c.pace = 0
		}
	}
}

// ForgetFailingSince has the time for which the receiver has failed begin with its next failure. A caller uses it after
// a time in which nothing could be sent, for example because a callback was paused. What else is known of the receiver,
// such as an open circuit, stays.
func (c *Cursor) ForgetFailingSince() {
	if !c.health.FailingSince.IsZero() {
		c.health.FailingSince = time.Time{}
		c.touchDocument()
	}
}

func (c *Cursor) heal() {
	c.health, c.failing, c.probeWait, c.wanted = Health{}, "", 0, ""
	c.touchDocument()
}

// resume closes the circuit and makes every lane due. It needs one write, of the document, instead
// of one for each lane.
func (c *Cursor) resume(now time.Time) {
	c.heal()
	c.resumed = now
	for _, q := range c.queues {
		if q.lane != nil {
			q.lane.hurry(now)
		}
	}
	heap.Init(&c.dueLanes)
	c.pace = 1
}

// nextProbe returns the queue to probe with. It begins with the oldest waiting entry and, while
// probes fail, goes through the others by age and begins again. Every second probe takes an order
// without a lane, if there is one, the oldest and the newest by turns: a receiver that is well and
// refuses only some old orders must not keep its circuit open. There is at most one probe at a time.
func (c *Cursor) nextProbe(now time.Time) (*queue, time.Time, bool) {
	fresh := c.ready.top()
	if c.Congested() {
		fresh = nil
	}
	if c.probing != nil || fresh == nil && c.dueLanes.Len() == 0 {
		return nil, time.Time{}, false
	}
	if c.health.NextProbe.After(now) {
		return nil, c.health.NextProbe, true
	}
	if q := c.queues[c.wanted]; c.wanted != "" && q != nil &&
		(q.in == &c.dueLanes || q.in == &c.ready && fresh != nil) {
		return q, now, true
	}
	if fresh != nil && c.health.Probes%2 == 1 {
		return c.fresh(c.health.Probes%4 == 3), now, true
	}
	var oldest, next *queue
	consider := func(q *queue) {
		if oldest == nil || q.head() < oldest.head() {
			oldest = q
		}
		if q.head() > c.lastProbe && (next == nil || q.head() < next.head()) {
			next = q
		}
	}
	for _, q := range c.dueLanes.qs {
		consider(q)
	}
	if fresh != nil {
		for _, q := range c.ready.qs {
			consider(q)
		}
	}
	if next == nil {
		next = oldest
	}
	return next, now, true
}

// look detects a clock that was set back, and then limits every wait to its original length. A
// difference of up to one second is not a clock set back: concurrent callers may pass their times
// in either order.
func (c *Cursor) look(now time.Time) {
	if c.latest.Sub(now) <= time.Second {
		if now.After(c.latest) {
			c.latest = now
		}
		return
	}
	c.latest = now
	for _, q := range c.queues {
		if q.lane != nil {
			q.lane.clamp(now)
		}
	}
	heap.Init(&c.dueLanes)
	if limit := now.Add(c.probeWait); c.health.Open && c.health.NextProbe.After(limit) {
		c.health.NextProbe = limit
	}
}
