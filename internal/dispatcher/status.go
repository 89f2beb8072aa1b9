package dispatcher

import (
	"context"
	"math"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
)

// Status is how a callback is doing.
type Status struct {
	Health    string // ok, failing, open or congested
	Backlog   int    // events that wait or are under way
	Estimated bool   // Backlog counts what is still to be read as the density of what was read says
	// LagSeconds is the age of the oldest event that waits, 0 if none does.
	LagSeconds   float64
	InFlight     int       // attempts under way
	Lanes        int       // orders being retried
	Behind       bool      // it reads by itself: it cannot keep up, or is catching up
	FailingSince time.Time // zero unless the last attempts failed
	NextAttempt  time.Time // of the next retry or probe; zero if none waits
}

// Status answers how a callback of this replica is doing; false if it has none of that id.
func (d *Dispatcher) Status(id string) (Status, bool) {
	c := d.find(id)
	if c == nil {
		return Status{}, false
	}
	c.mu.Lock()
	stopped := c.stopped
	c.mu.Unlock()
	if stopped {
		return Status{}, false
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return c.status(ctx, time.Now()), true
}

// countEvery bounds how often the log is asked what waits for a callback that reads nothing and has never read.
const countEvery = 10 * time.Second

// count has the log say what waits for a callback that stands still, where nothing that it has read can: one that was registered
// paused, or that was paused when this process started.
func (c *callback) count(ctx context.Context, now time.Time) {
	c.mu.Lock()
	from, t := c.highest()+1, c.target
	read := c.d.feed.pos.Load()
	idle := !c.attached && !c.filling && c.density == 0 && read >= from && now.Sub(c.counted).Abs() >= countEvery
	if idle {
		c.counted = now
	}
	c.mu.Unlock()
	filters, none := t.subjects("")
	if !idle || none {
		return
	}
	n, oldest, err := c.d.conf.Store.Events.Waiting(ctx, from, filters)
	if err != nil || n == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.density = min(float64(n)/float64(read-from+1), 1)
	if c.lastRead.IsZero() {
		c.lastRead = oldest
	}
}

// maxCounted bounds how many orders with more waiting than their lanes list are counted for one callback.
const maxCounted = 16

// countUnlisted answers how many events wait behind what lanes list, as counted at most countEvery ago.
func (c *callback) countUnlisted(ctx context.Context, now time.Time) int {
	c.mu.Lock()
	if c.cur.Lanes() == 0 || c.cur.Unsettled() < cursor.LaneEntries { // no lane lists all that it may
		c.mu.Unlock()
		return 0
	}
	long, t := c.cur.Unlisted(), c.target
	known, fresh := c.unlisted, now.Sub(c.unlistedAt).Abs() < countEvery
	c.mu.Unlock()
	switch {
	case len(long) == 0:
		return 0
	case fresh:
		return known
	}
	n := 0
	for _, r := range long[:min(len(long), maxCounted)] {
		filters, none := t.subjects(r.Order)
		if none {
			continue
		}
		waiting, _, err := c.d.conf.Store.Events.Waiting(ctx, r.From, filters)
		if err != nil {
			return known
		}
		n += int(waiting)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.unlisted, c.unlistedAt = n, now
	return n
}

func (c *callback) status(ctx context.Context, now time.Time) Status {
	c.count(ctx, now)
	unlisted := c.countUnlisted(ctx, now)
	c.mu.Lock()
	h := c.cur.Health()
	s := Status{
		Health: c.cur.State().String(), Backlog: c.cur.Unsettled(), InFlight: c.cur.InFlight(), Lanes: c.cur.Lanes(),
		Behind: !c.attached, FailingSince: h.FailingSince,
	}
	if unlisted > 0 {
		s.Backlog, s.Estimated = s.Backlog+unlisted, true
	}
	if at, ok := c.cur.NextDue(now); ok && at.After(now) {
		s.NextAttempt = at
	}
	oldest, waits := c.cur.Oldest()
	if !c.attached {
		if read := c.d.feed.pos.Load(); read > c.cur.Position() {
			if unread := read - min(read, c.highest()); unread > 0 {
				s.Estimated = true
				n := math.Round(float64(unread) * c.density)
				if c.halted() { // it left the shared reader at an event that was its own
					n = max(n, 1)
				}
				s.Backlog += int(n)
				if !waits && n >= 1 {
					s.LagSeconds = sinceSeconds(now, c.lastRead)
				}
			}
		}
	}
	var at time.Time
	if waits {
		switch ev := c.held[oldest]; {
		case ev != nil:
			at = ev.Time
		case c.oldest.seq == oldest:
			at = c.oldest.at
		}
	}
	c.mu.Unlock()
	if !waits {
		return s
	}
	if at.IsZero() {
		ev, err := c.d.conf.Store.Events.Get(ctx, oldest)
		if err != nil {
			return s
		}
		at = ev.Time
		c.mu.Lock()
		c.oldest = datedSeq{oldest, at}
		c.mu.Unlock()
	}
	s.LagSeconds = sinceSeconds(now, at)
	return s
}

// highest answers the last position that has been offered. mu is held.
func (c *callback) highest() uint64 {
	if len(c.page) > 0 {
		return c.page[0].Seq - 1
	}
	return c.cur.ReadFrom() - 1
}

func sinceSeconds(now, at time.Time) float64 {
	if at.IsZero() {
		return 0
	}
	return max(now.Sub(at).Seconds(), 0)
}

// Delivery is where one event stands at one callback before its delivery has ended; how it ended is in the log of attempts.
type Delivery struct {
	Status      relay.DeliveryStatus // pending or retrying; empty if the callback is through with the event
	UnderWay    bool                 // an attempt is being made
	Attempts    int                  // failed so far, of the order's oldest event
	NextAttempt time.Time
	Reason      string // of the last failure
}

// Delivery answers where the event at seq, of the order given, stands; false if this replica does not know the callback.
func (d *Dispatcher) Delivery(id string, seq uint64, order string) (Delivery, bool) {
	c := d.find(id)
	if c == nil {
		return Delivery{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return Delivery{}, false
	}
	if c.attached {
		c.cur.Advance(d.feed.pos.Load()) // what came and was not offered is not for it
	}
	var v Delivery
	place := c.cur.Where(cursor.Entry{Seq: seq, Order: order})
	lane, laned := c.cur.Lane(order)
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
	return v, true
}

// mine reports whether an operator's word for the callback will be kept: it is loaded, and certainly this replica's. mu is held.
func (c *callback) mine() bool { return !c.stopped && !c.adopting && c.t.lease.Valid() }

// Retry makes what waits of an order due now; with an open circuit it is the next probe. False: nothing of it is being retried.
func (d *Dispatcher) Retry(id, order string) bool {
	c := d.find(id)
	if c == nil {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if !c.mine() || !c.cur.Retry(order, now) {
		return false
	}
	c.pump(now)
	return true
}

// Skip ends the delivery of the event at seq without a success; what follows of its order goes on. False: it is not among what the
// callback has at hand (not read yet, or settled).
func (d *Dispatcher) Skip(ctx context.Context, id string, seq uint64) (bool, error) {
	c := d.find(id)
	if c == nil {
		return false, ErrUnknown
	}
	s, err := d.conf.Store.Events.Get(ctx, seq)
	if err != nil {
		return false, err
	}
	ev := newEvent(s)
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.mine() {
		return false, ErrUnknown
	}
	if c.cur.Settle(ev.Order, seq) == 0 {
		return false, nil
	}
	now := time.Now()
	c.dropSeq(seq)
	c.blocked = false
	c.close(ev, relay.DeliverySkipped, "skipped by an operator", now)
	c.pump(now)
	return true, nil
}
