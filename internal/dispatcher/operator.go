package dispatcher

import (
	"context"
	"fmt"
	"time"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// Retry makes the delivery of an event that waits due now; with an open circuit it is the next probe. If an earlier
// event of its order is sent first, that one's position is returned as well: in mode latest the newest of those that an
// attempt is for. The error is ErrUnknown.
func (d *Dispatcher) Retry(id, generation string, seq uint64, order string) (w relay.DeliveryPosition, earlier uint64, err error) {
	w = relay.PositionEnded
	err = d.command(id, generation, func(c *core, cb *callback) {
		w, earlier = c.retry(cb, cursor.Entry{Seq: seq, Order: order})
	})
	return w, earlier, err
}

// command calls a function with a callback in the goroutine of its shard's loop. The error is ErrUnknown.
func (d *Dispatcher) command(id, generation string, do func(c *core, cb *callback)) error {
	mine := false
	d.ask(id, func(c *core, cb *callback) {
		if mine = cb.gen == generation && c.valid; mine {
			do(c, cb)
		}
	})
	if !mine {
		return ErrUnknown
	}
	return nil
}

func (c *core) retry(cb *callback, e cursor.Entry) (w relay.DeliveryPosition, earlier uint64) {
	place := c.where(cb, e)
	next, holds := cb.cur.Next(e.Order, delivery.BatchSize(cb.target.Callback))
	switch {
	case place == cursor.Settled:
		return relay.PositionEnded, 0
	case place != cursor.Flying && holds && next < e.Seq:
		return relay.PositionEarlier, next
	case place == cursor.Unread:
		return relay.PositionUnread, 0
	case place == cursor.InLane || place == cursor.Waiting:
		cb.cur.Retry(e.Order, c.now)
		c.startAttempts(cb)
	}
	return relay.PositionDue, 0
}

// where returns the state of an entry that must be one of the callback's.
func (c *core) where(cb *callback, e cursor.Entry) cursor.Place {
	c.advance(cb)
	return cb.cur.Where(e)
}

// Skip ends the delivery of the event at seq without a success, if it waits, and returns once that is stored. The error
// is ErrUnknown, that the event could not be read, or that ctx ended before.
func (d *Dispatcher) Skip(ctx context.Context, id, generation string, seq uint64) (w relay.DeliveryPosition, err error) {
	if !d.ask(id, func(*core, *callback) {}) {
		return relay.PositionEnded, ErrUnknown
	}
	s, err := d.conf.Store.Events.Get(ctx, seq)
	if err != nil {
		return relay.PositionEnded, err
	}
	ev := delivery.EventOf(s)
	var stored chan struct{}
	var life context.Context
	w = relay.PositionEnded
	err = d.command(id, generation, func(c *core, cb *callback) {
		stored, life = c.skip(cb, &ev), cb.ctx
		if stored == nil && c.where(cb, cursor.Entry{Seq: seq, Order: ev.Order}) != cursor.Settled {
			w = relay.PositionUnread // or too many of its order have been skipped out of their turn for one more
		}
	})
	if stored == nil {
		return w, err
	}
	select {
	case <-stored:
		return relay.PositionSkipped, nil
	case <-life.Done():
	case <-ctx.Done():
	}
	return relay.PositionSkipped, fmt.Errorf("%w: whether the end of the delivery of event %s is stored", store.ErrUnclear, ev.ID)
}

// skip ends the delivery of an event. The channel is closed once that is stored, and nil if the event does not wait.
func (c *core) skip(cb *callback, ev *delivery.Event) (stored chan struct{}) {
	if !c.settle(cb, ev.Order, ev.Seq) {
		return nil
	}
	stored = make(chan struct{})
	cb.storing.waiters = append(cb.storing.waiters, stored)
	c.toStore.urgent[cb] = struct{}{}
	cb.reading.blocked = false
	c.closeDelivery(cb, ev, relay.DeliverySkipped, "skipped by an operator")
	c.startAttempts(cb)
	return stored
}

// Gone disables a callback whose receiver has responded with 410 to another reader, such as a replay. Resumed is how often
// the callback had been resumed when the attempt was made.
func (d *Dispatcher) Gone(id, generation string, resumed int) {
	_ = d.command(id, generation, func(c *core, cb *callback) {
		if cb.target.Callback.Resumed <= resumed {
			c.beginDisabling(cb, "gone", "the receiver answered 410")
		}
	})
}

// BeginTest permits one attempt that is not a delivery, and counts it against the callback's concurrency and rate.
// There is one test at a time. The caller must call EndTest if it is permitted; if the caller dies, the test ends after
// the time that an attempt may take. BeginTest returns false if this replica does not deliver to the callback.
func (d *Dispatcher) BeginTest(id, generation string) (t capacity.TestPermission, known bool) {
	d.ask(id, func(c *core, cb *callback) {
		if known = cb.gen == generation && c.valid && !cb.target.Orphaned; known {
			atMost := time.Duration(cb.target.Callback.TimeoutSeconds) * time.Second
			t = cb.sending.test.Begin(c.now, cb.sending.allowance, atMost)
			c.followUp(cb)
		}
	})
	return t, known
}

// EndTest ends the test of a callback. After a successful one everything that waits for the callback is due.
func (d *Dispatcher) EndTest(id, generation string, delivered bool) {
	d.ask(id, func(c *core, cb *callback) {
		if cb.gen == generation {
			cb.sending.test.End(cb.sending.allowance)
			if delivered && c.valid {
				cb.cur.Answers(c.now)
				cb.sending.allowance.EndHold(c.now)
			}
			c.startAttempts(cb)
		}
	})
}
