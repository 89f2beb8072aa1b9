package dispatcher

import (
	"context"
	"time"

	"github.com/audatex-relay/relay/internal/backlog"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
)

// ReadFrom returns the position at which the shared reader goes on.
func (d *Dispatcher) ReadFrom() uint64 { return d.feed.Position() + 1 }

// FollowFromEnd has the log followed from its end on: what was there at the start is read by callbacks.
func (d *Dispatcher) FollowFromEnd() { d.recent = 0 }

// Details are what tests wait for at a callback, beside its status.
type Details struct {
	Status

	InFlight     int       // attempts under way
	Lanes        int       // orders being retried
	Behind       bool      // it reads by itself: it cannot keep up, or is catching up
	FailingSince time.Time // zero unless the last attempts failed
}

// Details returns how a callback of this replica is doing; false if it has none of that id.
func (d *Dispatcher) Details(id string) (v Details, known bool) {
	var q backlog.Question
	known = d.ask(id, func(c *core, cb *callback) {
		v.Status, q = c.status(cb)
		v.InFlight, v.Lanes, v.Behind = cb.cur.InFlight(), cb.cur.Lanes(), cb.reading.source != readsShared
		v.FailingSince = cb.cur.Health().FailingSince
	})
	v.Status = d.complete(context.Background(), id, v.Status, &q)
	return v, known
}

// Delivery is where one event stands at one callback before its delivery has ended; how it ended is in the log of
// attempts.
type Delivery struct {
	Status      relay.DeliveryStatus // pending or retrying; empty if the callback is through with the event
	UnderWay    bool                 // an attempt is being made
	Attempts    int                  // failed so far, of the order's oldest event
	NextAttempt time.Time
	Reason      string // of the last failure
}

// Delivery returns where the event at seq, of the order given, stands; false if this replica does not know the
// callback.
func (d *Dispatcher) Delivery(id string, seq uint64, order string) (v Delivery, known bool) {
	known = d.ask(id, func(c *core, cb *callback) { v = c.delivery(cb, seq, order) })
	return v, known
}

func (c *core) delivery(cb *callback, seq uint64, order string) (v Delivery) {
	place := c.where(cb, cursor.Entry{Seq: seq, Order: order})
	lane, laned := cb.cur.Lane(order)
	switch place {
	case cursor.Unread, cursor.Waiting:
		v.Status = relay.DeliveryPending
	case cursor.InLane, cursor.Flying:
		v.Status, v.UnderWay = relay.DeliveryPending, place == cursor.Flying
		if laned {
			v.NextAttempt, v.Reason = lane.Next, lane.Reason
			if len(lane.Entries) > 0 && lane.Entries[0] == seq && lane.Attempts > 0 {
				v.Status, v.Attempts = relay.DeliveryRetrying, lane.Attempts
			}
		}
	case cursor.Settled:
	}
	return v
}
