package dispatcher

import (
	"context"
	"math"
	"time"

	"github.com/audatex-relay/relay/internal/store"
)

// rideIdle is how long a ride waits for the log to answer before its callbacks read by themselves.
const rideIdle = 2 * time.Second

// join lets loaded callbacks work. Those that stand where the shared reader still has what follows join it at once; for those not far before
// that the log is read once, for all of them together (ride); the others read by themselves.
func (d *Dispatcher) join(list []*callback) {
	var riders []rider
	for len(list) > 0 {
		chunk := list[:min(len(list), 256)] // the shared reader waits meanwhile
		list = list[len(chunk):]
		d.feed.mu.Lock()
		read := d.feed.pos.Load()
		for _, c := range chunk {
			c.mu.Lock()
			c.adopting = false
			if !c.stopped && !c.cur.Carried().Behind && !c.joinRing() && !c.halted() && c.cur.ReadFrom()+d.conf.Lookback > read {
				c.filling, c.riding = true, true
				riders = append(riders, rider{c, c.reads})
			}
			c.mu.Unlock()
		}
		d.feed.mu.Unlock()
		for _, c := range chunk {
			c.mu.Lock()
			if !c.stopped {
				if c.cur.Dirty() || len(c.records) > 0 || !c.attached && !c.riding {
					c.d.flush.mark(c)
				}
				c.pump(time.Now())
			}
			c.mu.Unlock()
		}
	}
	if len(riders) > 0 {
		d.chores.Go(func() { d.ride(d.run, riders) })
	}
}

// joinRing joins the shared reader if its ring still has everything that follows and there is room for it. feed.mu and mu are held.
func (c *callback) joinRing() bool {
	if c.target.orphaned {
		return false
	}
	events, _, ok := c.d.feed.after(c.cur.ReadFrom()-1, math.MaxInt)
	if !ok {
		return false
	}
	for _, ev := range events {
		if c.target.matches(ev) && (c.halted() || !c.offer(ev)) {
			return false
		}
	}
	c.attach()
	return true
}

// rider is a callback of which a ride reads; a change of its target since takes it out.
type rider struct {
	c     *callback
	reads uint64
}

// ride reads the log once for callbacks that have come to this replica a little before where the shared reader's ring begins, until they
// can join that: ten thousand callbacks do not read ten thousand times. One that has no room for an event leaves and reads by itself.
func (d *Dispatcher) ride(ctx context.Context, riders []rider) {
	pos := uint64(math.MaxUint64)
	bySite, anyone := map[string][]rider{}, []rider(nil)
	for _, r := range riders {
		r.c.mu.Lock()
		pos = min(pos, r.c.cur.ReadFrom()-1)
		sites, all := r.c.target.sites()
		r.c.mu.Unlock()
		if all {
			anyone = append(anyone, r)
		}
		for _, s := range sites {
			bySite[s] = append(bySite[s], r)
		}
	}
	tail, err := d.conf.Store.Events.Tail(ctx, pos+1)
	for err == nil {
		if d.alight(riders, pos) {
			tail.Stop()
			return
		}
		var m store.Message
		next, cancel := context.WithTimeout(ctx, rideIdle)
		m, err = tail.Next(next)
		cancel()
		if err != nil {
			tail.Stop()
			break
		}
		ev := newEvent(store.AsEvent(m))
		for _, r := range bySite[ev.Site] {
			r.push(ev)
		}
		for _, r := range anyone {
			r.push(ev)
		}
		pos = ev.Seq
	}
	for _, r := range riders {
		r.c.mu.Lock()
		r.leave()
		r.c.mu.Unlock()
	}
	if ctx.Err() == nil {
		d.conf.Log.Warn("the log could not be read for the callbacks of shards that came; they read by themselves", "callbacks", len(riders), "error", err)
	}
}

// push is the ride's offer.
func (r rider) push(ev *event) {
	c := r.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.riding || c.stopped || !c.target.matches(ev) {
		return
	}
	if c.reads != r.reads || c.halted() || !c.offer(ev) {
		r.leave()
		return
	}
	c.pump(time.Now())
}

// leave lets the callback read by itself from here on. c.mu is held.
func (r rider) leave() {
	c := r.c
	if !c.riding {
		return
	}
	c.filling, c.riding = false, false
	if !c.stopped {
		c.d.flush.mark(c) // the document is to say behind
		c.pump(time.Now())
	}
}

// alight lets the riders join the shared reader if its ring has everything above pos, and answers whether it has.
func (d *Dispatcher) alight(riders []rider, pos uint64) bool {
	d.feed.mu.Lock()
	defer d.feed.mu.Unlock()
	if pos < d.feed.from {
		return false
	}
	for _, r := range riders {
		c := r.c
		c.mu.Lock()
		if c.riding {
			if c.reads == r.reads && !c.stopped {
				c.cur.Advance(pos)
				if c.joinRing() {
					c.filling, c.riding = false, false
					c.pump(time.Now())
				}
			}
			r.leave()
		}
		c.mu.Unlock()
	}
	return true
}
