package dispatcher

import (
	"errors"
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/notice"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
)

const (
	// leaseAgain is how long after it found the lease invalid the core looks again: a renewal may be under way.
	leaseAgain = 500 * time.Millisecond
	// bodiesRetry is how long a callback waits after there was no room for a body.
	bodiesRetry = 200 * time.Millisecond
	// retriesEvery bounds how often a callback's retries are logged: a receiver that refuses now and then is no news.
	retriesEvery = time.Minute
)

// nextJob returns the next attempt of a callback, nil if none may be made now. It reuses j unless that is nil. With
// hasSlot the callback still has the slot of its last attempt, and keeps it if there is a next one.
func (c *core) nextJob(cb *callback, j *job, hasSlot bool) *job {
	s := &cb.sending
	of := &cb.target.Callback
	if c.halted(cb) || !c.valid || c.now.Before(s.retryAt) || s.awaitsSlot || len(cb.storing.records) >= 2*window(*of) {
		return nil
	}
	if at, ok := cb.cur.NextDue(c.now); !ok || at.After(c.now) {
		return nil
	}
	if wait := s.allowance.Wait(c.now); wait > 0 {
		s.shown.troubles.Wait(c.now, c.now.Add(wait))
		return nil
	}
	if !hasSlot && !s.allowance.Take() {
		s.awaitsSlot = true
		return nil
	}
	b, ok := cb.cur.Take(c.now, delivery.BatchSize(*of))
	if ok && !s.allowance.UseRate(c.now) { // a replay has used the rate up
		cb.cur.Release(b)
		ok = false
	}
	if !ok {
		if !hasSlot {
			s.allowance.Release()
		}
		return nil
	}
	if j == nil {
		j = &job{cb: cb}
	}
	j.set(b, cb)
	c.taskBegan(cb)
	return j
}

// nextAttempt returns when a callback that is not halted may make its next attempt; zero: something must happen first.
func (c *core) nextAttempt(cb *callback) time.Time {
	s := &cb.sending
	at, ok := cb.cur.NextDue(c.now)
	if len(cb.storing.records) >= 2*window(cb.target.Callback) || s.awaitsSlot {
		ok = false // until a round has ended, or a slot is granted
	}
	if ok {
		at = backoff.Later(at, c.now.Add(s.allowance.Wait(c.now)))
	}
	if c.now.Before(s.retryAt) {
		at, ok = backoff.Later(at, s.retryAt), true
	}
	switch {
	case !ok:
		return time.Time{}
	case !c.valid:
		return backoff.Later(at, c.now.Add(leaseAgain))
	}
	return at
}

// attemptEnded judges an attempt that has ended, and gives its worker the next attempt of the callback if there is one.
func (c *core) attemptEnded(j *job) {
	cb := j.cb
	c.judge(j)
	var next *job
	keepsSlot := c.slots.Waiting() == 0 // else those that wait for a slot get it first
	if keepsSlot {
		next = c.nextJob(cb, j, true)
	}
	if next == nil {
		cb.sending.allowance.Release()
		if !keepsSlot {
			next = c.nextJob(cb, j, false)
		}
	}
	if next != nil {
		c.out.next = append(c.out.next, next)
	} else {
		c.out.idle = append(c.out.idle, j)
	}
	if cb.phase < retiring {
		c.startAttempts(cb)
	}
	c.taskEnded(cb)
}

// judge does what the outcome of an attempt requires: records, cursor, notices. Nothing else judges outcomes.
func (c *core) judge(j *job) {
	cb := j.cb
	cb.reading.blocked = false
	if j.Err != nil {
		c.notMade(j)
		return
	}
	for _, i := range j.Gone {
		if seq := j.batch.Seqs[i]; c.settle(cb, j.batch.Order, seq) {
			c.expire(cb, cursor.Entry{Seq: seq, Order: j.batch.Order})
		}
	}
	for _, i := range j.Unmatched {
		if c.settle(cb, j.batch.Order, j.batch.Seqs[i]) {
			c.closeDelivery(cb, j.Events[i], relay.DeliverySkipped, "no longer matches the callback's filter or its client's sites")
		}
	}
	if j.Chosen < 0 {
		return
	}
	ev, record := j.Events[j.Chosen], j.Record(j.batch.Attempt, j.batch.Probe)
	record.Late = cb.cur.Where(cursor.Entry{Seq: ev.Seq, Order: j.batch.Order}) == cursor.Settled
	if j.Outdated(cb.target) {
		cb.cur.Release(j.batch)
		c.record(cb, record)
		return
	}
	j.AdjustRate(cb.sending.allowance, c.now, j.batch.Probe)
	switch j.Sent.Outcome {
	case sender.Cancelled:
		cb.cur.Release(j.batch)
	case sender.Gone:
		cb.cur.Release(j.batch)
		c.record(cb, record)
		c.beginDisabling(cb, j.Target.Callback.Resumed, "gone", "the receiver answered 410")
	case sender.Success:
		c.succeeded(j, ev, record)
	default: // all the others are failures: the schedule decides whether there is another attempt
		c.failed(j, ev, record)
	}
	if j.Sent.Outcome != sender.Success || !cb.sending.shown.troubles.None() {
		c.noteTrouble(cb)
	}
}

// notMade gives the cursor back what it had given out for an attempt that was not made.
func (c *core) notMade(j *job) {
	cb := j.cb
	if cb.ctx.Err() == nil && !errors.Is(j.Err, delivery.ErrLease) && !errors.Is(j.Err, delivery.ErrBodies) {
		cb.log.Log(cb.ctx, levelOf(j.Err, slog.LevelWarn), "an event could not be read for its attempt", "order", j.batch.Order, "error", j.Err)
	}
	cb.cur.Release(j.batch)
	cb.sending.retryAt = c.now.Add(storeRetry)
	if errors.Is(j.Err, delivery.ErrBodies) {
		cb.sending.retryAt = c.now.Add(bodiesRetry)
	}
}

func (c *core) succeeded(j *job, ev *delivery.Event, record relay.AttemptRecord) {
	cb := j.cb
	if c.closeAll(j, &record, relay.DeliveryDelivered) {
		c.metrics.Delivered(ev, c.now)
		c.metrics.Punctual(ev, &j.batch, &cb.sending.shown.troubles, c.now)
	}
	cb.cur.Succeed(j.batch, c.now)
	c.record(cb, record)
	cb.reading.atHand.Drop(j.batch.Seqs...)
	if cb.troubled {
		c.answersAgain(cb, ev)
	}
}

// failed has the cursor decide by the retry schedule (internal/cursor) whether and when there is another attempt.
func (c *core) failed(j *job, ev *delivery.Event, record relay.AttemptRecord) {
	cb := j.cb
	cb.sending.shown.failure = j.Sent.Outcome
	r := cb.cur.Fail(j.batch, c.now, cursor.Failure{Reason: j.Reason(), RetryAfter: j.Sent.RetryAfter})
	h := cb.cur.Health() // before anything is settled, which may change it
	switch r.Outcome {
	case cursor.Retrying:
		record.NextAttemptAt = &r.Next
		c.complainOfRetries(j, ev, r.Next)
		cb.reading.atHand.DropOrder(ev.Order) // the lane may wait for hours
	case cursor.Exhausted:
		if c.closeAll(j, &record, relay.DeliveryFailed) {
			c.metrics.Ended(relay.DeliveryFailed, 1)
			c.note(cb, func(n *notice.Notices) { n.FailedForGood(ev.ID, ev.Seq, c.now) })
		}
		if j.batch.Attempt > 1 { // the next events of the order get one attempt each, and no line
			cb.log.Warn("a delivery has failed for good; the order's next event gets its turn",
				"site", ev.Site, "order", ev.Order, "event", ev.ID, "attempts", j.batch.Attempt, "reason", j.Reason())
		}
		c.settle(cb, j.batch.Order, j.batch.Seqs...)
	case cursor.Stale:
	}
	c.record(cb, record)
	c.noteFailure(j, ev, h)
	if !h.FailingSince.IsZero() && c.now.Sub(h.FailingSince) >= c.conf.DisableAfter {
		c.beginDisabling(cb, j.Target.Callback.Resumed, "failing", "every attempt has failed since "+h.FailingSince.UTC().Format(time.RFC3339))
	}
}

// complainOfRetries logs that an event was refused again, at most once a minute for a callback.
func (c *core) complainOfRetries(j *job, ev *delivery.Event, next time.Time) {
	s := &j.cb.sending
	if j.batch.Probe || j.batch.Attempt < 2 || c.now.Sub(s.warned).Abs() < retriesEvery {
		return
	}
	s.warned = c.now
	j.cb.log.Warn("a delivery has failed again; it is retried", "site", ev.Site, "order", ev.Order, "event", ev.ID,
		"attempts", j.batch.Attempt, "reason", j.Reason(), "next_attempt", next.UTC())
}

// closeAll closes the deliveries that end with an attempt, before the cursor settles them: that of the event that was
// sent by the attempt's record, and those of older events (mode latest) by records of their own. What an operator has
// skipped meanwhile is closed already. closeAll reports whether the attempt's record closes a delivery.
func (c *core) closeAll(j *job, record *relay.AttemptRecord, status relay.DeliveryStatus) bool {
	for i, seq := range j.batch.Seqs {
		switch open := j.cb.cur.Where(cursor.Entry{Seq: seq, Order: j.batch.Order}) == cursor.Flying; {
		case open && i == j.Chosen:
			record.Closing = status
		case open:
			c.closeDelivery(j.cb, j.Events[i], relay.DeliverySkipped, "a newer event of the order was sent instead (mode latest)")
		}
	}
	return record.Closing != ""
}

// settle settles events of an order without a success. It returns false if none of them was waiting.
func (c *core) settle(cb *callback, order string, seqs ...uint64) bool {
	cb.reading.atHand.Drop(seqs...)
	return cb.cur.Settle(order, seqs...) > 0
}

// closeDelivery records the end of a delivery without an attempt.
func (c *core) closeDelivery(cb *callback, ev *delivery.Event, status relay.DeliveryStatus, why string) {
	c.record(cb, ev.Recorded(relay.AttemptRecord{At: c.now.UTC(), Closing: status, Reason: why}))
	c.metrics.Ended(status, 1)
}

func (c *core) record(cb *callback, r relay.AttemptRecord) {
	cb.storing.records = append(cb.storing.records, r)
}
