package dispatcher

import (
	"time"

	"github.com/audatex-relay/relay/internal/backlog"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/sender"
)

// shown is what is remembered of a callback for the metrics alone.
type shown struct {
	failure sender.Outcome  // of the last attempt that failed; 0: none has here
	excuse  delivery.Excuse // for deliveries that are late
}

// failed notes a failed attempt.
func (s *shown) failed(o sender.Outcome, now time.Time) {
	s.failure = o
	s.excuse.Until(now)
}

// punctual counts whether an event was delivered in time. A hold by the callback's rate or its receiver does not count.
func (c *core) punctual(cb *callback, ev *delivery.Event) {
	s := &cb.sending
	s.shown.excuse.Until(s.place.Held(c.now))
	if others := cb.cur.Unsettled() > cb.cur.InFlight(); others && s.place.RateWait(c.now) > 0 {
		s.shown.excuse.Until(c.now)
	}
	c.metrics.Punctual(&s.shown.excuse, ev, c.now)
}

// condition returns what the metrics show of a callback.
func (c *core) condition(cb *callback, s Status) backlog.Condition {
	of := &cb.target.Callback
	v := backlog.Condition{
		Callback: cb.id, Client: of.Client, Events: s.Backlog, OldestSeconds: s.LagSeconds, Paused: of.Paused, Disabled: of.Disabled,
	}
	v.CertificateEnds, _ = c.conf.Deliverer.CertificateEnds(cb.target)
	if !c.halted(cb) { // nothing is sent otherwise
		h := cb.cur.Health()
		v.FailingSince, v.Failure = h.FailingSince, cb.sending.shown.failure
		v.Open, v.Retrying, v.Congested = h.Open && !h.FailingSince.IsZero(), cb.cur.Lanes(), s.Health == cursor.Congested.String()
	}
	return v
}
