package dispatcher

import (
	"errors"
	"log/slog"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/store"
)

// storeRetry is how long a callback waits after the log could not be read.
const storeRetry = time.Second

// errLease says that an attempt was not started as the lease on the shard had become invalid.
var errLease = errors.New("the lease on the shard is not valid")

// job is what was taken of a callback's cursor: one event, or in mode latest all that wait of one order.
type job struct {
	batch  cursor.Batch
	target *target
	events []*event // as batch.Seqs; nil where the body has to be read from the log

	// What came of it.
	gone      []int // of events: no longer in the log
	unmatched []int // no longer for this callback
	chosen    int   // the event that was sent; -1: none
	attempt   sender.Attempt
	err       error // the log could not be read, there is no room for the body, or the lease is not valid
}

// run makes attempts until there is none to make. It is one of the callback's goroutines, at most as many as its concurrency.
func (c *callback) run(j job) {
	for {
		c.do(&j)
		c.mu.Lock()
		now := time.Now()
		c.finish(&j, now)
		c.place.release()
		next, ok := c.take(now)
		c.pump(now)
		c.mu.Unlock()
		if !ok {
			return
		}
		j = next
	}
}

// do reads what is missing and sends the newest event that is still for this callback.
func (c *callback) do(j *job) {
	j.chosen = -1
	client := j.target.callback.Client
	for i := len(j.events) - 1; i >= 0; i-- {
		if j.events[i] == nil {
			taken, ok := c.d.bodies.begin(client)
			if !ok {
				j.err = errBodies
				return
			}
			s, err := c.d.conf.Store.Events.Get(c.ctx, j.batch.Seqs[i])
			if err == nil && j.chosen < 0 {
				c.d.bodies.read(client, &taken, len(s.Body))
				defer func() { c.d.bodies.end(client, taken) }()
			} else { // of an older event than the one that is sent only the head is of interest
				c.d.bodies.end(client, taken)
			}
			switch {
			case errors.Is(err, store.ErrNotFound):
				j.gone = append(j.gone, i)
				continue
			case err != nil:
				j.err = err
				return
			}
			c.d.bodies.saw(len(s.Body))
			j.events[i] = newEvent(s)
			if j.chosen >= 0 {
				j.events[i].Body = nil
			}
		}
		switch {
		case !j.target.matches(j.events[i]):
			j.unmatched = append(j.unmatched, i)
		case j.chosen < 0:
			j.chosen = i
		}
	}
	if j.chosen < 0 {
		return
	}
	if !c.t.lease.Valid() { // it was valid when this was taken: what was read since may have taken long
		j.err = errLease
		return
	}
	ev := j.events[j.chosen]
	j.attempt = c.d.conf.Sender.Send(c.ctx, j.target.request(ev.id, ev.Body, time.Now()))
	c.d.metrics.attempt(j.attempt)
}

// finish settles what a job came to: records, cursor, health. It is the one place where an outcome is judged. mu is held.
func (c *callback) finish(j *job, now time.Time) {
	c.blocked = false
	if j.err != nil {
		if c.ctx.Err() == nil && !errors.Is(j.err, errLease) && !errors.Is(j.err, errBodies) {
			c.log.Log(c.ctx, store.Level(j.err, slog.LevelWarn), "an event could not be read for its attempt", "order", j.batch.Order, "error", j.err)
		}
		c.cur.Release(j.batch)
		c.retryAt = now.Add(storeRetry)
		if errors.Is(j.err, errBodies) {
			c.retryAt = now.Add(bodiesRetry)
		}
		return
	}
	for _, i := range j.gone {
		seq := j.batch.Seqs[i]
		c.expire([]cursor.Entry{{Seq: seq, Order: j.batch.Order}}, nil, now)
		c.cur.Settle(j.batch.Order, seq)
		c.dropSeq(seq)
	}
	for _, i := range j.unmatched {
		c.close(j.events[i], relay.DeliverySkipped, "no longer matches the callback's filter or its client's sites", now)
		c.cur.Settle(j.batch.Order, j.batch.Seqs[i])
		c.dropSeq(j.batch.Seqs[i])
	}
	if j.chosen < 0 {
		return
	}
	a, ev := &j.attempt, j.events[j.chosen]
	record := relay.AttemptRecord{
		Event: ev.id, Seq: ev.Seq, Order: ev.Order, Number: j.batch.Attempt, At: a.At.UTC(), DurationMillis: float64(a.Duration.Microseconds()) / 1000,
		Outcome: a.Outcome.String(), Status: a.Status, Error: a.Error, Excerpt: a.Excerpt, Probe: j.batch.Probe,
	}
	switch a.Outcome {
	case sender.Cancelled:
		c.cur.Release(j.batch)
		return
	case sender.Gone:
		c.cur.Release(j.batch)
		c.records = append(c.records, record)
		c.disable("gone", "the receiver answered 410", now)
		return
	case sender.Success:
		if c.cur.Succeed(j.batch, now) > 0 {
			record.Closing = relay.DeliveryDelivered
			c.d.metrics.delivered(ev, now)
			c.supersede(j, now)
		} // else an operator skipped it meanwhile: the delivery is closed already
		c.records = append(c.records, record)
		for _, seq := range j.batch.Seqs {
			c.dropSeq(seq)
		}
		if c.tripped && !c.cur.Health().Open {
			c.tripped = false
			c.recovered(now)
		}
		return
	default: // all the others are failures, and the schedule's affair
	}
	r := c.cur.Fail(j.batch, now, cursor.Failure{Reason: reason(a), RetryAfter: a.RetryAfter})
	switch r.Outcome {
	case cursor.Retrying:
		record.NextAttemptAt = &r.Next
		c.complainOfRetries(j, ev, now, r.Next)
		c.dropHeld(func(held *event) bool { return held.Order == ev.Order }) // the lane may wait for hours
	case cursor.Exhausted:
		record.Closing = relay.DeliveryFailed
		c.d.metrics.delivery(relay.DeliveryFailed, 1)
		if j.batch.Attempt > 1 || len(c.d.conf.Schedule) == 0 { // its followers get one attempt each, and no line
			c.log.Warn("a delivery has failed for good; the order's next event gets its turn", "site", ev.Site, "order", ev.Order, "event", ev.id,
				"attempts", j.batch.Attempt, "reason", reason(a))
		}
		c.supersede(j, now)
		c.cur.Settle(j.batch.Order, j.batch.Seqs...)
		for _, seq := range j.batch.Seqs {
			c.dropSeq(seq)
		}
	case cursor.Stale:
	}
	c.records = append(c.records, record)
	h := c.cur.Health()
	if h.Open && !c.tripped {
		c.tripped = true
		c.log.Warn("the receiver fails for several orders; it is probed until it answers", "failing_since", h.FailingSince.UTC(), "failures", h.Failures,
			"reason", reason(a), "waiting", c.cur.Unsettled(), "next_probe", h.NextProbe.UTC())
	}
	if !h.FailingSince.IsZero() && now.Sub(h.FailingSince) >= c.d.conf.DisableAfter {
		c.disable("failing", "every attempt has failed since "+h.FailingSince.UTC().Format(time.RFC3339), now)
	}
}

// retriesEvery bounds how often a callback's retries are logged: a receiver that refuses now and then is no news.
const retriesEvery = time.Minute

// complainOfRetries logs that an event was refused again. mu is held.
func (c *callback) complainOfRetries(j *job, ev *event, now, next time.Time) {
	if j.batch.Probe || j.batch.Attempt < 2 || now.Sub(c.warned).Abs() < retriesEvery {
		return
	}
	c.warned = now
	c.log.Warn("a delivery has failed again; it is retried", "site", ev.Site, "order", ev.Order, "event", ev.id, "attempts", j.batch.Attempt,
		"reason", reason(&j.attempt), "next_attempt", next.UTC())
}

// supersede closes the older events of a job of mode latest.
func (c *callback) supersede(j *job, now time.Time) {
	for i, ev := range j.events {
		if i != j.chosen && ev != nil && !slices.Contains(j.gone, i) && !slices.Contains(j.unmatched, i) {
			c.close(ev, relay.DeliverySkipped, "a newer event of the order was sent instead (mode latest)", now)
		}
	}
}

// close records the end of a delivery without an attempt. mu is held.
func (c *callback) close(ev *event, status relay.DeliveryStatus, why string, now time.Time) {
	c.records = append(c.records, relay.AttemptRecord{
		Event: ev.id, Seq: ev.Seq, Order: ev.Order, At: now.UTC(), Closing: status, Reason: why,
	})
	c.d.metrics.delivery(status, 1)
}

// reason is what a lane keeps of a failure.
func reason(a *sender.Attempt) string {
	if a.Error != "" {
		return a.Error
	}
	return a.Outcome.String()
}
