package dispatcher

import (
	"context"
	"time"

	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
)

// trialSlack is how long a test may take besides its attempt before its place is given to others.
const trialSlack = 10 * time.Second

// Retry makes what waits of an order due now; with an open circuit it is the next probe. False: nothing of it is
// being retried.
func (d *Dispatcher) Retry(id, order string) (retried bool) {
	d.ask(id, func(c *core, cb *callback) {
		if retried = c.valid && cb.cur.Retry(order, c.now); retried {
			c.pump(cb)
		}
	})
	return retried
}

// Skip ends the delivery of the event at seq without a success; what follows of its order goes on. False: it is not
// among what the callback has at hand (not read yet, or settled).
func (d *Dispatcher) Skip(ctx context.Context, id string, seq uint64) (bool, error) {
	if !d.ask(id, func(*core, *callback) {}) {
		return false, ErrUnknown
	}
	s, err := d.conf.Store.Events.Get(ctx, seq)
	if err != nil {
		return false, err
	}
	ev, skipped, mine := delivery.EventOf(s), false, false
	d.ask(id, func(c *core, cb *callback) {
		if mine = c.valid; !mine || !c.settle(cb, ev.Order, seq) {
			return
		}
		skipped = true
		cb.reading.blocked = false
		c.closeDelivery(cb, &ev, relay.DeliverySkipped, "skipped by an operator")
		c.pump(cb)
	})
	if !mine {
		return false, ErrUnknown
	}
	return skipped, nil
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
	case cb.cur.InFlight() >= concurrencyOf(*of):
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
	return c.now.Before(cb.sending.testUntil) && cb.cur.InFlight()+1 >= concurrencyOf(cb.target.Callback)
}
