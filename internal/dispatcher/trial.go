package dispatcher

import (
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// trialSlack is how long a test may take besides its attempt before its place is given to others.
const trialSlack = 10 * time.Second

// Trial is leave to test a callback, or why there is none now. It crosses the wire between replicas.
type Trial struct {
	Granted bool          `json:"granted"`
	Reason  string        `json:"reason,omitempty"` // why not, in a sentence
	Again   time.Duration `json:"again,omitempty"`  // when to ask again
}

// BeginTest takes a place of a callback's concurrency and a request of its rate for one attempt that is not a delivery. There is one
// test at a time. Whoever gets leave calls EndTest; should it die, the place is free again after the time that an attempt may take. False
// says that this replica does not deliver to the callback.
func (d *Dispatcher) BeginTest(id, generation string) (Trial, bool) {
	c := d.find(id)
	if c == nil || c.gen != generation || !c.t.lease.Valid() {
		return Trial{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now, cb := time.Now(), c.target.callback
	switch {
	case c.stopped || c.target.orphaned:
		return Trial{}, false
	case now.Before(c.testUntil):
		return Trial{Reason: "A test of this callback is under way.", Again: time.Second}, true
	case c.cur.InFlight() >= concurrencyOf(cb):
		return Trial{Reason: "As many attempts are under way as the callback's concurrency allows.", Again: time.Second}, true
	}
	if c.limiter != nil {
		if tokens := c.limiter.TokensAt(now); tokens < 1 {
			again := time.Duration((1 - tokens) / float64(c.limiter.Limit()) * float64(time.Second))
			return Trial{Reason: "The callback's rate allows no request now.", Again: again}, true
		}
		c.limiter.AllowN(now, 1)
	}
	c.testUntil = now.Add(time.Duration(cb.TimeoutSeconds)*time.Second + trialSlack)
	return Trial{Granted: true}, true
}

// EndTest gives the place of a callback's test back.
func (d *Dispatcher) EndTest(id, generation string) {
	c := d.find(id)
	if c == nil || c.gen != generation {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.testUntil = time.Time{}
	if !c.halted() {
		c.pump(time.Now())
	}
}

// inTestsWay reports whether a test has the last place that deliveries could take. mu is held.
func (c *callback) inTestsWay(now time.Time) bool {
	return now.Before(c.testUntil) && c.cur.InFlight()+1 >= concurrencyOf(c.target.callback)
}

// concurrencyOf returns how many attempts of a callback may be under way.
func concurrencyOf(cb relay.Callback) int { return min(max(cb.Concurrency, 1), relay.MaxConcurrency) }
