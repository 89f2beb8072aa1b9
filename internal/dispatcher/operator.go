package dispatcher

import (
	"context"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
)

// trialSlack is how long a test may take besides its attempt before its place is given to others.
const trialSlack = 10 * time.Second

// Waiting is where a delivery stood that an operator wanted to be retried or skipped.
type Waiting int

// The places.
const (
	Due     Waiting = iota // it is due now, or under way
	Earlier                // it waits for an earlier event of its order
	Unread                 // the callback has not reached it yet
	Skipped                // it was skipped by this
	Ended                  // it does not wait: it has ended, or was not for the callback
)

// Retry makes the delivery of an event that waits in its order's lane due now; with an open circuit it is the next probe.
// If it waits for an earlier event, that one's position is returned as well. The error is ErrUnknown.
func (d *Dispatcher) Retry(id, generation string, seq uint64, order string) (w Waiting, earlier uint64, err error) {
	mine := false
	d.ask(id, func(c *core, cb *callback) {
		if mine = cb.gen == generation && c.valid; mine {
			w, earlier = c.retry(cb, cursor.Entry{Seq: seq, Order: order})
		}
	})
	if !mine {
		return Ended, 0, ErrUnknown
	}
	return w, earlier, nil
}

func (c *core) retry(cb *callback, e cursor.Entry) (w Waiting, earlier uint64) {
	place := c.where(cb, e)
	first, holds := cb.cur.First(e.Order)
	switch {
	case place == cursor.Settled:
		return Ended, 0
	case place != cursor.Flying && holds && first < e.Seq:
		return Earlier, first
	case place == cursor.Unread:
		return Unread, 0
	case place == cursor.InLane:
		cb.cur.Retry(e.Order, c.now)
		c.pump(cb)
	}
	return Due, 0
}

// where returns the state of an entry, given that it is one of the callback's.
func (c *core) where(cb *callback, e cursor.Entry) cursor.Place {
	if cb.reading.source == readsShared {
		cb.cur.Advance(c.shared.pos) // what came and was not offered is not for it
	}
	return cb.cur.Where(e)
}

// Skip ends the delivery of the event at seq without a success, if it waits; what follows of its order goes on. The error
// is ErrUnknown, or that the event could not be read.
func (d *Dispatcher) Skip(ctx context.Context, id, generation string, seq uint64) (w Waiting, err error) {
	if !d.ask(id, func(*core, *callback) {}) {
		return Ended, ErrUnknown
	}
	s, err := d.conf.Store.Events.Get(ctx, seq)
	if err != nil {
		return Ended, err
	}
	ev, mine := delivery.EventOf(s), false
	w = Ended
	d.ask(id, func(c *core, cb *callback) {
		if mine = cb.gen == generation && c.valid; !mine {
			return
		}
		if !c.settle(cb, ev.Order, seq) {
			if c.where(cb, cursor.Entry{Seq: seq, Order: ev.Order}) != cursor.Settled {
				w = Unread // or one of so many of its order that not even more can be noted as skipped
			}
			return
		}
		w = Skipped
		cb.reading.blocked = false
		c.closeDelivery(cb, &ev, relay.DeliverySkipped, "skipped by an operator")
		c.pump(cb)
	})
	if !mine {
		return Ended, ErrUnknown
	}
	return w, nil
}

// Gone disables a callback whose receiver has answered 410 to somebody else than the dispatcher, such as a replay.
func (d *Dispatcher) Gone(id, generation string) {
	d.ask(id, func(c *core, cb *callback) {
		if cb.gen == generation && c.valid {
			c.beginDisabling(cb, "gone", "the receiver answered 410")
		}
	})
}

// Trial is leave to test a callback, or why there is none now. It crosses the wire between replicas.
type Trial struct {
	Granted bool          `json:"granted"`
	Reason  string        `json:"reason,omitempty"` // why not, in a sentence
	Again   time.Duration `json:"again,omitempty"`  // when to ask again
}

// BeginTest takes a place of a callback's concurrency and a request of its rate for one attempt that is not a
// delivery. There is one test at a time. Whoever gets leave calls EndTest; should it die, the place is free again
// after the time that an attempt may take. False means that this replica does not deliver to the callback.
func (d *Dispatcher) BeginTest(id, generation string) (t Trial, known bool) {
	d.ask(id, func(c *core, cb *callback) {
		if known = cb.gen == generation && c.valid && !cb.target.Orphaned; known {
			t = c.beginTest(cb)
		}
	})
	return t, known
}

func (c *core) beginTest(cb *callback) Trial {
	s := &cb.sending
	if c.now.Before(s.testUntil) {
		return Trial{Reason: "A test of this callback is under way.", Again: time.Second}
	}
	endTest(cb)
	if !s.place.TryTake() {
		return Trial{Reason: "As many attempts are under way as the callback may have.", Again: time.Second}
	}
	if !s.place.UseRate(c.now) {
		s.place.Release()
		return Trial{Reason: "The callback's rate allows no request now.", Again: max(s.place.RateWait(c.now), time.Millisecond)}
	}
	s.testUntil = c.now.Add(time.Duration(cb.target.Callback.TimeoutSeconds)*time.Second + trialSlack)
	c.followUp(cb)
	return Trial{Granted: true}
}

// EndTest gives the place of a callback's test back.
func (d *Dispatcher) EndTest(id, generation string) {
	d.ask(id, func(c *core, cb *callback) {
		if cb.gen == generation {
			endTest(cb)
			c.pump(cb)
		}
	})
}

// endTest gives the place of a test back, if there is one.
func endTest(cb *callback) {
	if s := &cb.sending; !s.testUntil.IsZero() {
		s.testUntil = time.Time{}
		s.place.Release()
	}
}
