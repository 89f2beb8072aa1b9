package dispatcher

import (
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
)

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
