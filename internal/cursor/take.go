package cursor

import (
	"cmp"
	"slices"
	"time"
)

// Batch is the next thing to attempt: the head of one order, or the head and the entries that
// follow it.
type Batch struct {
	Order string
	// Seqs are the entries, ascending. All of them belong to Order, and none of the order's entries
	// between them is left out.
	Seqs []uint64
	// Attempt counts the head's attempts, including this one. A probe is not counted, nor is a failure before the
	// attempt was due by the schedule.
	Attempt int
	// Probe is set if the circuit is open and this attempt tests whether the receiver is back.
	Probe bool
	// LastTry is set if Fail will return Exhausted.
	LastTry bool
	// FailingSince is when the lane began to fail; Reason and ReasonSince describe its last
	// failure. Zero without a lane.
	FailingSince time.Time
	Reason       string
	ReasonSince  time.Time
	// Healed is when an earlier entry of the lane was accepted after failures, if nothing has failed since: until then
	// this one had to wait. It is zero if that was not seen by this Cursor.
	Healed time.Time

	id uint64
}

// Failure describes why an attempt failed.
type Failure struct {
	// Reason is a short word for it, cut at 256 bytes. ReasonSince is set again when it changes.
	Reason string
	// RetryAfter is the receiver's hint, at most MaxRetryAfter. The longer of it and the schedule's
	// wait is used.
	RetryAfter time.Duration
	// Local is set if the receiver is well and refuses only this order (for example, the vendor
	// returns 404 for it). The lane counts the failure; for the receiver's health it counts as a
	// response.
	Local bool
}

// Outcome is the consequence of a failure for the batch.
type Outcome int

const (
	// Stale: the batch is no longer in flight (it was skipped, or clamped away). Nothing was
	// changed.
	Stale Outcome = iota
	// Retrying: it waits for the next attempt.
	Retrying
	// Exhausted: that was the last attempt. The batch stays in flight until the caller calls Settle.
	// The record that it failed for good must be stored before the next Changes are. Entries of the
	// batch that are not settled wait again.
	Exhausted
)

func (o Outcome) String() string { return [...]string{"stale", "retrying", "exhausted"}[o] }

// Result is what Fail returns.
type Result struct {
	Outcome Outcome
	// Next is when the next attempt (or probe) is due, if Retrying.
	Next time.Time
}

// Take returns the next batch to attempt, if there is one now: up to most entries (at least 1, at
// most LaneEntries) of one order, beginning with its head. A probe is always one entry. The batch
// is in flight until Succeed, Fail, Release, or Settle of all its entries.
func (c *Cursor) Take(now time.Time, most int) (Batch, bool) {
	q, _, ok := c.next(now)
	if q == nil || !ok {
		return Batch{}, false
	}
	b := Batch{Order: q.order, Attempt: 1}
	n := c.batchSize(q, most)
	if c.health.Open {
		b.Probe, q.probe = true, true
		c.probing, c.lastProbe, c.wanted = q, q.head(), ""
	} else {
		if c.lanesTurn = q.lane == nil; c.lanesTurn {
			c.newestTurn = !c.failsRepeatedly() || !c.newestTurn
		}
	}
	c.version++
	b.id, q.batch, q.taken = c.version, c.version, n
	b.Seqs = seqs(q.items[:n])
	c.inFlight++
	if l := q.lane; l != nil {
		b.Attempt = l.attempts + 1
		q.early = l.early && l.next.After(now)
		b.FailingSince, b.Reason, b.ReasonSince, b.Healed = l.failingSince, l.reason, l.reasonSince, l.healed
	}
	b.LastTry = !b.Probe && !q.early && c.lastTry(q.lane)
	c.place(q)
	return b, true
}

// batchSize returns how many entries of an order Take would take.
func (c *Cursor) batchSize(q *queue, most int) int {
	if c.health.Open {
		return 1
	}
	return min(max(most, 1), len(q.items), LaneEntries)
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

// next returns the order that Take would take, and true. If there is none, it returns nil, and the
// time at which there may be one and true, or false.
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
		return c.fresh(c.newestTurn), now, true
	case late != nil:
		return nil, late.lane.next, true
	}
	return nil, time.Time{}, false
}

// failsRepeatedly reports whether the receiver has failed several times since its last success.
func (c *Cursor) failsRepeatedly() bool { return c.health.Failures >= 2 }

// fresh returns the oldest order without a lane or, if newest is set and the receiver fails repeatedly, the newest:
// many old orders that it refuses must not hold up those that it takes.
func (c *Cursor) fresh(newest bool) *queue {
	if !newest || !c.failsRepeatedly() {
		return c.ready.top()
	}
	return slices.MaxFunc(c.ready.qs, func(a, b *queue) int { return cmp.Compare(a.head(), b.head()) })
}

// NextDue returns when Take may return something if nothing else happens: a time not after now if
// it would now. It returns false if only an offer, a settlement, a refill or a store can change
// that.
func (c *Cursor) NextDue(now time.Time) (time.Time, bool) {
	_, at, ok := c.next(now)
	return at, ok
}

// limit returns how many orders may be in flight at present.
func (c *Cursor) limit() int {
	if c.pace > 0 && !c.health.Open {
		return min(c.pace, c.policy.Concurrency)
	}
	return c.policy.Concurrency
}

// Succeed settles the batch: the receiver has accepted it. The attempts of its order are counted
// from zero again, the receiver counts as well, and an open circuit closes. It returns how many
// entries were settled; 0 for a stale batch.
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
		if !l.failingSince.IsZero() {
			l.healed = now
		}
		*l = lane{admitted: l.admitted, openFrom: l.openFrom, openLast: l.openLast, healed: l.healed,
			known: l.known, version: l.version, stored: l.stored, listed: l.listed, handed: l.handed}
		c.touchLane(q)
	}
	c.land(q)
	c.answered(now)
	return n
}

// Settle settles entries of an order without a success: they failed for good, were skipped by an
// operator, or were handled elsewhere. They may wait or be in flight; the entries after a skipped
// one in flight do not wait for its attempt to end. A lane's next entry is due at once, and its
// attempts are counted from zero, unless the lane is Spent. For entries behind a lane's OpenFrom,
// the caller is responsible that they belong to the order. Settle returns how many entries it
// settled. It ignores entries that do not wait, and those that would exceed MaxSkipped.
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
			q.items = slices.Delete(q.items, i, i+1)
		}
	}
	if n == 0 {
		return 0
	}
	if l := q.lane; l != nil {
		if headGone {
			l.attempts, l.next, l.wait, l.early = 0, time.Time{}, 0, false
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

// Fail ends the batch's attempt as failed. Its order waits in a lane for the next attempt, or the batch is Exhausted.
// An attempt that was made before it was due by the schedule does not count, and leaves the order due as it was. A
// failed probe does not count as an attempt: it affects the receiver's health, and its order stays where it was.
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
	l.early = false
	if q.early && (last || l.next.After(now)) {
		if asked := now.Add(min(f.RetryAfter, MaxRetryAfter)); asked.After(l.next) {
			l.next = asked
		}
		l.wait = l.next.Sub(now)
		c.land(q)
		return Result{Retrying, l.next}
	}
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

// note records the reason of a lane's failure.
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

// Release puts back a batch that was taken but not attempted, or whose attempt has no meaning. It
// is not counted.
func (c *Cursor) Release(b Batch) {
	if q := c.flying(b); q != nil {
		c.land(q)
	}
}

// flying returns the queue whose batch in flight is b, or nil.
func (c *Cursor) flying(b Batch) *queue {
	if q := c.queues[b.Order]; q != nil && q.batch == b.id && b.id != 0 {
		return q
	}
	return nil
}

// land ends the flight of an order's batch. What is left of it waits again.
func (c *Cursor) land(q *queue) {
	if c.probing == q {
		c.probing = nil
	}
	q.batch, q.taken, q.probe, q.early, q.held = 0, 0, false, false, false
	c.inFlight--
	c.place(q)
}

// settled updates the counts for an item that leaves its queue.
func (c *Cursor) settled(it item) {
	c.entries--
	if it.node != nil {
		c.pass(it.node)
	} else if it.seq > c.high {
		c.addAhead(it.seq)
		c.touchDocument()
	}
}
