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
	if cb.reading.source == readsShared {
		cb.cur.Advance(c.shared.pos) // what came and was not offered is not for it
	}
	place := cb.cur.Where(e)
	if place == cursor.Settled {
		return Ended, 0
	}
	lane, laned := cb.cur.Lane(e.Order)
	switch {
	case laned && len(lane.Entries) > 0 && lane.Entries[0] < e.Seq:
		return Earlier, lane.Entries[0]
	case laned && place == cursor.InLane:
		cb.cur.Retry(e.Order, c.now)
		c.pump(cb)
	}
	return Due, 0
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
		if mine = cb.gen == generation && c.valid; !mine || !c.settle(cb, ev.Order, seq) {
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
	s, of := &cb.sending, &cb.target.Callback
	switch {
	case c.now.Before(s.testUntil):
		return Trial{Reason: "A test of this callback is under way.", Again: time.Second}
	case cb.cur.InFlight() >= delivery.Concurrency(*of):
		return Trial{Reason: "As many attempts are under way as the callback's concurrency allows.", Again: time.Second}
	}
	if wait := s.place.RateWait(c.now); wait > 0 {
		return Trial{Reason: "The callback's rate allows no request now.", Again: wait}
	}
	s.place.UseRate(c.now)
	s.testUntil = c.now.Add(time.Duration(of.TimeoutSeconds)*time.Second + trialSlack)
	return Trial{Granted: true}
}

// EndTest gives the place of a callback's test back.
func (d *Dispatcher) EndTest(id, generation string) {
	d.ask(id, func(c *core, cb *callback) {
		if cb.gen == generation {
			cb.sending.testUntil = time.Time{}
			c.pump(cb)
		}
	})
}

// inTestsWay reports whether a test has the last place that deliveries could take.
func (c *core) inTestsWay(cb *callback) bool {
	return c.now.Before(cb.sending.testUntil) && cb.cur.InFlight()+1 >= delivery.Concurrency(cb.target.Callback)
}
