package dispatcher

import (
	"context"
	"time"

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

// Status returns how a callback of this replica is doing; false if it has none of that id.
func (d *Dispatcher) Status(id string) (Status, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var s Status
	var q backlog.Question
	if !d.ask(id, func(c *core, cb *callback) { s, q = c.status(cb) }) {
		return Status{}, false
	}
	return d.complete(ctx, id, s, &q), true
}

// eachCallback calls each with how each callback of this replica is doing.
func (d *Dispatcher) eachCallback(ctx context.Context, each func(backlog.Condition)) {
	for i := range d.loops {
		l := d.loops[i].Load()
		if l == nil {
			continue
		}
		all, questions := map[string]backlog.Condition{}, map[string]*backlog.Question{}
		l.ask(func(c *core) {
			for id, cb := range c.callbacks {
				s, q := c.status(cb)
				all[id] = c.condition(cb, s)
				if !q.Empty() {
					questions[id] = &q
				}
			}
		})
		for id, of := range all {
			if q := questions[id]; q != nil {
				s := d.complete(ctx, id, Status{Backlog: of.Events, LagSeconds: of.OldestSeconds}, q)
				of.Events, of.OldestSeconds = s.Backlog, s.LagSeconds
			}
			each(of)
		}
	}
}

// complete asks the log for what is not known of a callback, here rather than in its loop, which must not wait for it.
func (d *Dispatcher) complete(ctx context.Context, id string, s Status, q *backlog.Question) Status {
	if !q.Empty() {
		q.Ask(ctx, d.conf.Store.Events)
		d.ask(id, func(c *core, cb *callback) {
			if cb.gen == q.Generation() { // else it was deleted and made again meanwhile
				cb.reading.estimate.Learn(q, c.now)
				s, _ = c.status(cb)
			}
		})
	}
	return s
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
