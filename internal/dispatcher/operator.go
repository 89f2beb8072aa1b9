package dispatcher

import (
	"time"

	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
)

// retry makes the delivery of an event due now if it waits. If an earlier event of its order is sent first, it returns
// that one.
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

// skip ends the delivery of an event if it waits, and has stored called once that is stored.
func (c *core) skip(cb *callback, ev *delivery.Event, stored func()) relay.DeliveryPosition {
	switch {
	case c.settle(cb, ev.Order, ev.Seq):
	case c.where(cb, cursor.Entry{Seq: ev.Seq, Order: ev.Order}) == cursor.Settled:
		return relay.PositionEnded
	default: // or too many of its order have been skipped out of their turn for one more
		return relay.PositionUnread
	}
	cb.storing.waiters = append(cb.storing.waiters, stored)
	c.toStore.urgent[cb] = struct{}{}
	cb.reading.blocked = false
	c.closeDelivery(cb, ev, relay.DeliverySkipped, "skipped by an operator")
	c.startAttempts(cb)
	return relay.PositionSkipped
}

// beginTest permits a test. It returns false if the callback is an orphan.
func (c *core) beginTest(cb *callback) (t capacity.TestPermission, known bool) {
	if cb.target.Orphaned {
		return t, false
	}
	t = cb.sending.test.Begin(c.now, cb.sending.allowance, time.Duration(cb.target.Callback.TimeoutSeconds)*time.Second)
	c.followUp(cb)
	return t, true
}

func (c *core) endTest(cb *callback, delivered bool) {
	cb.sending.test.End(cb.sending.allowance)
	if delivered && c.valid {
		cb.cur.Answers(c.now)
		cb.sending.allowance.EndHold(c.now)
	}
	c.startAttempts(cb)
}
