package cursor

import "time"

// Batch is what may be attempted next: the head of one order, or the head and entries that follow it.
type Batch struct {
	Order string
	// Seqs are the entries, ascending; all of them belong to Order and follow one another there.
	Seqs []uint64
	// Attempt counts the head's attempts, this one included; a probe does not add to it.
	Attempt int
	// Probe says that the circuit is open and this attempt tries whether the receiver is back.
	Probe bool
	// LastTry says that Fail will answer Exhausted.
	LastTry bool
	// FailingSince is when the lane began to fail, Reason and ReasonSince what its last failure was; zero without lane.
	FailingSince time.Time
	Reason       string
	ReasonSince  time.Time

	id uint64
}

// Failure is why an attempt failed.
type Failure struct {
	// Reason is a short word for it; ReasonSince starts anew when it changes. Cut at 256 bytes.
	Reason string
	// RetryAfter is the receiver's own hint; the longer of it (at most MaxRetryAfter) and the schedule's wait holds.
	RetryAfter time.Duration
	// Local says that the receiver is well and refuses just this order (say, the vendor answers 404 for it): the lane
	// counts it, the receiver's health takes it for an answer.
	Local bool
}

// Outcome is what a failure means for the batch.
type Outcome int

const (
	// Stale: the batch is no longer in flight (it was skipped, or clamped away); nothing was changed.
	Stale Outcome = iota
	// Retrying: it waits for the next attempt.
	Retrying
	// Exhausted: that was the last attempt. The batch stays in flight until the caller has stored that it failed for
	// good and calls Settle; what it does not settle of the batch then waits again.
	Exhausted
)

func (o Outcome) String() string { return [...]string{"stale", "retrying", "exhausted"}[o] }

// Result is the answer to Fail.
type Result struct {
	Outcome Outcome
	// Next is when the next attempt (or probe) is due, if Retrying.
	Next time.Time
}

// Take returns the next thing to attempt, if there is one now: up to most (at least 1, at most LaneEntries) entries of
// one order from its head on. A probe is always one entry. The batch is in flight until Succeed, Fail, Release, or
// Settle of all of it.
func (c *Cursor) Take(now time.Time, most int) (Batch, bool) {
	q, _, ok := c.next(now)
	if q == nil || !ok {
		return Batch{}, false
	}
	b := Batch{Order: q.order, Attempt: 1}
	n := min(max(most, 1), len(q.items), LaneEntries)
	if c.health.Open {
		n = 1
		b.Probe, q.probe = true, true
		c.probing, c.lastProbe, c.wanted = q, q.head(), ""
	} else if q.lane != nil {
		c.lanesTurn = false
	} else {
		c.lanesTurn = true
	}
	c.version++
	b.id, q.batch, q.taken = c.version, c.version, n
	b.Seqs = seqs(q.items[:n])
	c.inFlight++
	if l := q.lane; l != nil {
		b.Attempt = l.attempts + 1
		b.FailingSince, b.Reason, b.ReasonSince = l.failingSince, l.reason, l.reasonSince
	}
	b.LastTry = !b.Probe && c.lastTry(q.lane)
	c.place(q)
	return b, true
}

func (c *Cursor) lastTry(l *lane) bool {
	attempts := 0
	if l != nil {
		attempts = l.attempts
		if l.spent {
			attempts = len(c.policy.Schedule)
		}
	}
	return !c.policy.Forever && attempts >= len(c.policy.Schedule)
}

// next finds what Take would take: the order, and true; or nil and, if true, the time at which there may be something.
func (c *Cursor) next(now time.Time) (*queue, time.Time, bool) {
	c.look(now)
	if c.inFlight >= c.limit() {
		return nil, time.Time{}, false
	}
	if c.health.Open {
		return c.nextProbe(now)
	}
	fresh, late := c.ready.top(), c.dueLanes.top()
	if fresh != nil && c.Congested() {
		fresh = nil
	}
	switch {
	case late != nil && late.lane.due(now) && (fresh == nil || c.lanesTurn):
		return late, now, true
	case fresh != nil:
		return fresh, now, true
	case late != nil:
		return nil, late.lane.next, true
	}
	return nil, time.Time{}, false
}

// NextDue returns when Take may next have something, should nothing else happen: now or earlier if it has something
// already; false if only an offer, a settlement, a refill or a store can bring something.
func (c *Cursor) NextDue(now time.Time) (time.Time, bool) {
	_, at, ok := c.next(now)
	return at, ok
}

// limit is how many orders may be in flight at present.
func (c *Cursor) limit() int {
	if c.pace > 0 && !c.health.Open {
		return min(c.pace, c.policy.Concurrency)
	}
	return c.policy.Concurrency
}

// Extend adds to a batch in flight entries of its order that have come in since, up to most in all: for a caller that has
// not begun yet what answers for all of them. Not for probes.
func (c *Cursor) Extend(b Batch, most int) Batch {
	q := c.flying(b)
	if q == nil || q.probe || q.held {
		return b
	}
	q.taken = max(q.taken, min(most, len(q.items), LaneEntries))
	b.Seqs = seqs(q.items[:q.taken])
	return b
}

// Succeed settles the batch: the receiver has taken it. Attempts of its order start anew, the receiver is well, and an
// open circuit closes. It returns how many entries that settled; 0 for a stale batch.
func (c *Cursor) Succeed(b Batch, now time.Time) int {
	q := c.flying(b)
	if q == nil {
		return 0
	}
	c.look(now)
	n := q.taken
	for i := range n {
		c.settled(q.items[i])
	}
	q.items = q.items[n:]
	if l := q.lane; l != nil {
		*l = lane{admitted: l.admitted, openFrom: l.openFrom, openLast: l.openLast,
			known: l.known, version: l.version, stored: l.stored, listed: l.listed, handed: l.handed}
		c.touchLane(q)
	}
	c.land(q)
	c.answered(now)
	return n
}

// Settle settles entries of an order without a success: failed for good, skipped by an operator, or handled elsewhere.
// They may wait or be in flight; what follows a skipped entry in flight does not wait for the attempt to end. A lane's next entry is due at once; its attempts start anew, unless its time is spent.
// Of what a lane has not listed, behind its OpenFrom, the caller says that it belongs to the order. It returns how many
// that settled: entries that do not wait are passed over, and so is what would leave more than MaxSkipped settled out of
// turn.
func (c *Cursor) Settle(order string, seqs ...uint64) int {
	q := c.queues[order]
	if q == nil {
		return 0
	}
	n, headGone := 0, false
	for _, seq := range seqs {
		i, ok := q.find(seq)
		if !ok {
			if c.skipUnlisted(q, seq) {
				n++
			}
			continue
		}
		if i > 0 && !c.skip(q, seq) && i >= q.taken {
			continue
		}
		n++
		c.settled(q.items[i])
		if i < q.taken {
			q.taken--
		}
		if i == 0 {
			headGone = true
			q.items = q.items[1:]
		} else {
			q.items = append(q.items[:i], q.items[i+1:]...)
		}
	}
	if n == 0 {
		return 0
	}
	if l := q.lane; l != nil {
		if headGone {
			l.attempts, l.next, l.wait = 0, time.Time{}, 0
		}
		c.touchLane(q)
	}
	if q.batch != 0 && (q.taken == 0 || q.held) {
		c.land(q)
	} else {
		c.place(q)
	}
	return n
}

// Fail ends the batch's attempt as failed. Its order waits in a lane for the next attempt, or the batch is Exhausted. A
// failed probe is no attempt: it counts for the receiver's health, and its order is where it was.
func (c *Cursor) Fail(b Batch, now time.Time, f Failure) Result {
	q := c.flying(b)
	if q == nil || q.held {
		return Result{}
	}
	c.look(now)
	if f.Local {
		c.answered(now)
	} else {
		c.failed(q, now, f.RetryAfter)
	}
	if q.probe {
		return c.failProbe(q, now, f.Reason)
	}
	last := c.lastTry(q.lane)
	if q.lane == nil {
		c.enterLane(q, now)
	}
	c.note(q, now, f.Reason)
	l := q.lane
	l.attempts++
	if last {
		l.spent, l.next, l.wait = true, time.Time{}, 0
		q.held = true
		return Result{Outcome: Exhausted}
	}
	l.wait, _ = c.policy.wait(l.attempts, f.RetryAfter)
	l.next = now.Add(l.wait)
	c.land(q)
	return Result{Retrying, l.next}
}

func (c *Cursor) failProbe(q *queue, now time.Time, reason string) Result {
	if q.lane != nil {
		c.note(q, now, reason)
	}
	c.land(q)
	if c.health.Open {
		return Result{Retrying, c.health.NextProbe}
	}
	return Result{Retrying, now}
}

// note keeps the reason of a lane's failure.
func (c *Cursor) note(q *queue, now time.Time, reason string) {
	l := q.lane
	if reason = cut(reason); reason != l.reason || l.reasonSince.IsZero() {
		l.reason, l.reasonSince = reason, now
	}
	if l.failingSince.IsZero() {
		l.failingSince = now
	}
	c.touchLane(q)
}

// Release puts back a batch that was taken and not attempted, or whose attempt says nothing. It counts for nothing.
func (c *Cursor) Release(b Batch) {
	if q := c.flying(b); q != nil {
		c.land(q)
	}
}

// flying returns the queue whose batch in flight is b.
func (c *Cursor) flying(b Batch) *queue {
	if q := c.queues[b.Order]; q != nil && q.batch == b.id && b.id != 0 {
		return q
	}
	return nil
}

// land ends the flight of an order's batch; what is left of it waits.
func (c *Cursor) land(q *queue) {
	if c.probing == q {
		c.probing = nil
	}
	q.batch, q.taken, q.probe, q.held = 0, 0, false, false
	c.inFlight--
	c.place(q)
}

// settled accounts for an item that leaves its queue.
func (c *Cursor) settled(it item) {
	c.entries--
	if it.node != nil {
		c.pass(it.node)
	} else if it.seq > c.high {
		c.addAhead(it.seq)
		c.touchDocument()
	}
}
