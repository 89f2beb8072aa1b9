package dispatcher

import (
	"context"
	"math"
	"time"

	"github.com/audatex-relay/relay/internal/delivery"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
)

const (
	// countEvery bounds how often the log is asked what waits for a callback that reads nothing and has never read.
	countEvery = 10 * time.Second
	// maxCounted bounds how many orders with more waiting than their lanes list are counted for one callback.
	maxCounted = 16
)

// Status is how a callback is doing.
type Status struct {
	Health    string // ok, failing, open or congested
	Backlog   int    // events that wait or are under way
	Estimated bool   // Backlog counts what is still to be read by the density of what was read
	// LagSeconds is the age of the oldest event that waits, 0 if none does.
	LagSeconds   float64
	InFlight     int       // attempts under way
	Lanes        int       // orders being retried
	Behind       bool      // it reads by itself: it cannot keep up, or is catching up
	FailingSince time.Time // zero unless the last attempts failed
	NextAttempt  time.Time // of the next retry or probe; zero if none waits
}

// Status returns how a callback of this replica is doing; false if it has none of that id.
func (d *Dispatcher) Status(id string) (Status, bool) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	var s Status
	var u unknown
	if !d.ask(id, func(c *core, cb *callback) { s, u = c.status(cb) }) {
		return Status{}, false
	}
	if u.lookUp(ctx, d) {
		d.ask(id, func(c *core, cb *callback) { s = c.learn(cb, &u) })
	}
	return s, true
}

// statuses returns how all callbacks of this replica are doing.
func (d *Dispatcher) statuses(ctx context.Context) map[string]Status {
	all := map[string]Status{}
	for i := range d.loops {
		l := d.loops[i].Load()
		if l == nil {
			continue
		}
		var unknowns []unknown
		l.ask(func(c *core) {
			for id, cb := range c.callbacks {
				s, u := c.status(cb)
				if all[id] = s; u.any() {
					unknowns = append(unknowns, u)
				}
			}
		})
		for _, u := range unknowns {
			if u.lookUp(ctx, d) {
				d.ask(u.cb.id, func(c *core, cb *callback) { all[cb.id] = c.learn(cb, &u) })
			}
		}
	}
	return all
}

// unknown is what the log has to be asked for to say how a callback is doing. Who asks for the status reads it, not
// the loop.
type unknown struct {
	cb     *callback
	target *delivery.Target

	waitingFrom, read uint64          // 0, or from where what waits must be counted, and up to where it counts
	unlisted          []cursor.Refill // lanes whose unlisted events must be counted
	oldest            uint64          // 0, or the event whose age must be known

	waiting        uint64
	waitingSince   time.Time
	unlistedEvents int
	oldestAt       time.Time
}

func (u *unknown) any() bool { return u.waitingFrom > 0 || len(u.unlisted) > 0 || u.oldest > 0 }

// lookUp reports whether it has learned anything.
func (u *unknown) lookUp(ctx context.Context, d *Dispatcher) (learned bool) {
	if !u.any() {
		return false
	}
	events := d.conf.Store.Events
	if filters, none := u.target.Subjects(""); u.waitingFrom > 0 && !none {
		n, since, err := events.Waiting(ctx, u.waitingFrom, filters)
		if u.waiting, u.waitingSince = n, since; err != nil {
			u.waiting = 0
		}
	}
	for _, lane := range u.unlisted {
		filters, none := u.target.Subjects(lane.Order)
		if none {
			continue
		}
		n, _, err := events.Waiting(ctx, lane.From, filters)
		if err != nil {
			u.unlisted = nil // what was counted before holds
			break
		}
		u.unlistedEvents += int(n)
	}
	if u.oldest > 0 {
		if ev, err := events.Get(ctx, u.oldest); err == nil {
			u.oldestAt = ev.Time
		}
	}
	return true
}

// learn notes what the log has returned, and returns the status again.
func (c *core) learn(cb *callback, u *unknown) Status {
	if e := &cb.reading.estimate; cb == u.cb {
		if u.waiting > 0 {
			e.density = min(float64(u.waiting)/float64(u.read-u.waitingFrom+1), 1)
			if cb.reading.lastRead.IsZero() {
				cb.reading.lastRead = u.waitingSince
			}
		}
		if len(u.unlisted) > 0 {
			e.unlisted, e.unlistedAt = u.unlistedEvents, c.now
		}
		if !u.oldestAt.IsZero() {
			e.oldest, e.oldestAt = u.oldest, u.oldestAt
		}
	}
	s, _ := c.status(cb)
	return s
}

// status returns how a callback is doing, as far as is known, and what is not.
func (c *core) status(cb *callback) (Status, unknown) {
	r, h := &cb.reading, cb.cur.Health()
	u := c.unknown(cb)
	s := Status{
		Health: cb.cur.State().String(), Backlog: cb.cur.Unsettled(), InFlight: cb.cur.InFlight(), Lanes: cb.cur.Lanes(),
		Behind: r.source != readsShared, FailingSince: h.FailingSince,
	}
	if n := c.unlisted(cb); n > 0 {
		s.Backlog, s.Estimated = s.Backlog+n, true
	}
	if at, ok := cb.cur.NextDue(c.now); ok && at.After(c.now) {
		s.NextAttempt = at
	}
	oldest, waits := cb.cur.Oldest()
	if r.source != readsShared && c.shared.pos > cb.cur.Position() {
		if unread := c.shared.pos - min(c.shared.pos, highest(cb)); unread > 0 {
			s.Estimated = true
			n := math.Round(float64(unread) * r.estimate.density)
			if c.halted(cb) { // it left the shared reader at an event that was its own
				n = max(n, 1)
			}
			s.Backlog += int(n)
			if !waits && n >= 1 {
				s.LagSeconds = sinceSeconds(c.now, r.lastRead)
			}
		}
	}
	if !waits {
		return s, u
	}
	switch ev := r.held[oldest]; {
	case ev != nil:
		s.LagSeconds = sinceSeconds(c.now, ev.Time)
	case r.estimate.oldest == oldest:
		s.LagSeconds = sinceSeconds(c.now, r.estimate.oldestAt)
	default:
		u.oldest = oldest
	}
	return s, u
}

// unknown is what the log has to be asked for: what waits for a callback that stands still where nothing that it has
// read can say so (one that was registered paused, or was paused when this process started), and what waits behind
// what lanes list.
func (c *core) unknown(cb *callback) unknown {
	r := &cb.reading
	u := unknown{cb: cb, target: cb.target}
	from := highest(cb) + 1
	if e := &r.estimate; r.source == readsItself && !r.fetching && e.density == 0 && c.shared.pos >= from && c.now.Sub(e.counted).Abs() >= countEvery {
		e.counted = c.now
		u.waitingFrom, u.read = from, c.shared.pos
	}
	if c.manyListed(cb) && c.now.Sub(r.estimate.unlistedAt).Abs() >= countEvery {
		u.unlisted = cb.cur.Unlisted()
		u.unlisted = u.unlisted[:min(len(u.unlisted), maxCounted)]
	}
	return u
}

// unlisted is how many events wait behind what lanes list, as counted last.
func (c *core) unlisted(cb *callback) int {
	if !c.manyListed(cb) || len(cb.cur.Unlisted()) == 0 {
		return 0
	}
	return cb.reading.estimate.unlisted
}

// manyListed reports whether a lane may list all that it can.
func (c *core) manyListed(cb *callback) bool {
	return cb.cur.Lanes() > 0 && cb.cur.Unsettled() >= cursor.LaneEntries
}

// highest returns the last position that has been offered.
func highest(cb *callback) uint64 {
	if page := cb.reading.page; len(page) > 0 {
		return page[0].Seq - 1
	}
	return cb.cur.ReadFrom() - 1
}

func sinceSeconds(now, at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return max(now.Sub(at).Seconds(), 0)
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
	if cb.reading.source == readsShared {
		cb.cur.Advance(c.shared.pos) // what came and was not offered is not for it
	}
	place := cb.cur.Where(cursor.Entry{Seq: seq, Order: order})
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
