package dispatcher

import (
	"context"
	"time"

	"github.com/audatex-relay/relay/internal/backlog"
	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursor"
)

// Status is how a callback is doing.
type Status struct {
	Health     string           // ok, failing, open or congested
	Backlog    int              // events that wait or are under way, as estimated where they are still to be read
	LagSeconds float64          // the age of the oldest event that waits, 0 if none does
	Expired    int              // deliveries that have expired since it was registered
	Slowed     *capacity.Slowed // its receiver is overloaded; nil: it is sent to at full speed
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

// complete asks the log for what is not known of a callback, which is not for its loop to wait for.
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

// status returns how a callback is doing, as far as is known, and what is not.
func (c *core) status(cb *callback) (Status, backlog.Question) {
	r := &cb.reading
	waiting, question := r.estimate.Waiting(backlog.State{
		Target: cb.target, Cursor: cb.cur, Offered: offered(cb), Log: c.shared.pos, Held: &r.atHand, Halted: c.halted(cb),
		Behind: r.source != readsShared, Idle: r.source == readsItself && !r.fetching,
	}, c.now)
	s := Status{
		Health: cb.cur.State().String(), Backlog: waiting.Events, Expired: cb.cur.Carried().Notices.EverExpired,
		Slowed: cb.sending.place.Slowed(c.now),
	}
	if state := cb.cur.State(); s.Slowed != nil && state != cursor.Open {
		s.Health = cursor.Congested.String()
	}
	if !waiting.Since.IsZero() {
		s.LagSeconds = max(c.now.Sub(waiting.Since).Seconds(), 0)
	}
	return s, question
}

// offered returns the last position that has been offered.
func offered(cb *callback) uint64 {
	if page := cb.reading.page; len(page) > 0 {
		return page[0].Seq - 1
	}
	return cb.cur.ReadFrom() - 1
}
