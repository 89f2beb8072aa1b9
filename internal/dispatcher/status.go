package dispatcher

import (
	"github.com/audatex-relay/relay/internal/backlog"
	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/trouble"
)

// Status is how a callback is doing.
type Status struct {
	Health     string           // ok, failing, open or congested
	Backlog    int              // events that wait or are under way; of those that were not read yet it is an estimate
	LagSeconds float64          // the age of the oldest event that waits, 0 if none does
	Expired    int              // deliveries that have expired since it was registered
	Slowed     *capacity.Slowed // the limit that its overloaded receiver has; nil: none
}

// status returns how a callback is doing, as far as that is known, and a question for the log about the rest.
func (c *core) status(cb *callback) (Status, backlog.Question) {
	r := &cb.reading
	waiting, question := r.estimate.Waiting(backlog.State{
		Target: cb.target, Cursor: cb.cur, Offered: offered(cb), Log: c.shared.pos, Held: &r.atHand, Halted: c.halted(cb),
		Behind: r.source != readsShared, Idle: r.source == readsItself && !r.fetching,
	}, c.now)
	s := Status{
		Health: cb.cur.State().String(), Backlog: waiting.Events, Expired: cb.cur.Carried().Notices.EverExpired,
		Slowed: cb.sending.allowance.Slowed(c.now),
	}
	if state := cb.cur.State(); s.Slowed != nil && state != cursor.Open {
		s.Health = cursor.Congested.String()
	}
	if !waiting.Since.IsZero() {
		s.LagSeconds = max(c.now.Sub(waiting.Since).Seconds(), 0)
	}
	return s, question
}

// offered returns the last position that has been offered to a callback.
func offered(cb *callback) uint64 {
	if page := cb.reading.page; len(page) > 0 {
		return page[0].Seq - 1
	}
	return cb.cur.ReadFrom() - 1
}

// shown is the state of a callback that only the metrics need.
type shown struct {
	failure  sender.Outcome // of the last attempt that failed; 0: none has failed on this replica
	troubles trouble.Times  // the times in which receiver or owner held deliveries up: that is not the relay's delay
}

// noteTrouble notes whether the receiver or the callback's owner holds deliveries up now. Waits because of the rate, or
// because the receiver asks for them, are noted by nextJob.
func (c *core) noteTrouble(cb *callback) {
	since := cb.cur.Health().FailingSince
	if since.IsZero() && (c.halted(cb) || cb.cur.Congested()) {
		since = c.now
	}
	cb.sending.shown.troubles.Note(since, c.now, cb.reading.source == readsShared && cb.cur.Unsettled() == 0)
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
