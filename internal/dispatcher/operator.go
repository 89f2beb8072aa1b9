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

// Retry makes the delivery of an event that waits in its order's lane due now; with an open circuit it is the next probe.
// If it waits for an earlier event, that one's position is returned as well. The error is ErrUnknown.
func (d *Dispatcher) Retry(id, generation string, seq uint64, order string) (w relay.DeliveryPosition, earlier uint64, err error) {
	w = relay.PositionEnded
	err = d.command(id, generation, func(c *core, cb *callback) {
		w, earlier = c.retry(cb, cursor.Entry{Seq: seq, Order: order})
	})
	return w, earlier, err
}

// command has the owner of a callback do something. The error is ErrUnknown.
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
	first, holds := cb.cur.First(e.Order)
	switch {
	case place == cursor.Settled:
		return relay.PositionEnded, 0
	case place != cursor.Flying && holds && first < e.Seq:
		return relay.PositionEarlier, first
	case place == cursor.Unread:
		return relay.PositionUnread, 0
	case place == cursor.InLane:
		cb.cur.Retry(e.Order, c.now)
		c.pump(cb)
	}
	return relay.PositionDue, 0
}

// where returns the state of an entry, given that it is one of the callback's.
func (c *core) where(cb *callback, e cursor.Entry) cursor.Place {
	c.advance(cb)
	return cb.cur.Where(e)
}

// Skip ends the delivery of the event at seq without a success, if it waits; what follows of its order goes on. It
// returns once that is stored. The error is ErrUnknown, that the event could not be read, or that ctx ended before.
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
			w = relay.PositionUnread // or one of so many of its order that not even more can be noted as skipped
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

// skip ends the delivery of an event and returns what is closed once that is stored; nil if the event does not wait.
func (c *core) skip(cb *callback, ev *delivery.Event) (stored chan struct{}) {
	if !c.settle(cb, ev.Order, ev.Seq) {
		return nil
	}
	stored = make(chan struct{})
	cb.storing.awaited = append(cb.storing.awaited, stored)
	c.toStore.urgent[cb] = struct{}{}
	cb.reading.blocked = false
	c.closeDelivery(cb, ev, relay.DeliverySkipped, "skipped by an operator")
	c.pump(cb)
	return stored
}

// Gone disables a callback whose receiver has answered 410 to somebody else than the dispatcher, such as a replay. Resumed
// is how often the callback had been resumed when that sent.
func (d *Dispatcher) Gone(id, generation string, resumed int) {
	_ = d.command(id, generation, func(c *core, cb *callback) {
		if cb.target.Callback.Resumed <= resumed {
			c.beginDisabling(cb, "gone", "the receiver answered 410")
		}
	})
}

// BeginTest takes a place of a callback's concurrency and a request of its rate for one attempt that is not a
// delivery. There is one test at a time. Whoever gets leave calls EndTest; should it die, the place is free again
// after the time that an attempt may take. False means that this replica does not deliver to the callback.
func (d *Dispatcher) BeginTest(id, generation string) (t capacity.Trial, known bool) {
	d.ask(id, func(c *core, cb *callback) {
		if known = cb.gen == generation && c.valid && !cb.target.Orphaned; known {
			t = cb.sending.test.Begin(c.now, cb.sending.place, time.Duration(cb.target.Callback.TimeoutSeconds)*time.Second)
			c.followUp(cb)
		}
	})
	return t, known
}

// EndTest gives the place of a callback's test back. After a successful one everything that waits is due.
func (d *Dispatcher) EndTest(id, generation string, delivered bool) {
	d.ask(id, func(c *core, cb *callback) {
		if cb.gen == generation {
			cb.sending.test.End(cb.sending.place)
			if delivered && c.valid {
				cb.cur.Answers(c.now)
				cb.sending.place.EndHold(c.now)
			}
			c.pump(cb)
		}
	})
}
