package dispatcher

import (
	"context"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// install makes the callbacks of what was read; they do nothing yet.
func (d *Dispatcher) install(ctx context.Context, of func(string) *tenure, found map[string]*stored, gone map[string]bool, first, last uint64) (made []*callback, clamped []string) {
	d.settings.mu.Lock()
	defer d.settings.mu.Unlock()
	for id, cb := range d.settings.callbacks {
		t := of(id)
		if t == nil || gone[id] || d.settings.retiring[id] || t.ending.Load() || !t.mark.touched || d.find(id) != nil {
			continue
		}
		s := found[id]
		if s == nil {
			s = &stored{}
		}
		if higher := s.epoch(); higher > t.lease.Epoch() {
			t.supersede(d.conf.Log, higher)
			continue
		}
		c, cut := d.make(ctx, t, cb, s, first, last)
		if cut {
			clamped = append(clamped, store.CallbackCursor(id))
		}
		d.mu.Lock()
		d.callbacks[id] = c
		d.mu.Unlock()
		made = append(made, c)
	}
	return made, clamped
}

// make makes a callback of its stored cursor, or of none, and takes that on under the tenure's epoch. Clamped says that it stood beyond the
// log. settings.mu is held.
func (d *Dispatcher) make(ctx context.Context, t *tenure, cb relay.Callback, s *stored, first, last uint64) (c *callback, clamped bool) {
	c = &callback{
		d: d, t: t, id: cb.ID, gen: cb.Generation, log: d.conf.Log.With("callback", cb.ID), laneRevs: map[string]uint64{}, adopting: true,
	}
	now := time.Now()
	lanes := make([]cursor.Lane, 0, len(s.lanes))
	for _, l := range s.lanes {
		lanes = append(lanes, l.Value)
		c.laneRevs[l.Value.Order] = l.Revision
	}
	known := s.doc != nil && s.doc.Value.Generation == cb.Generation
	if s.doc != nil {
		c.revision = s.doc.Revision
	}
	if s.unreadable {
		d.erase(ctx, t, cb.ID, s, "")
		lanes, c.laneRevs = nil, map[string]uint64{}
	}
	if known {
		cur, err := cursor.Load(d.policyOf(cb), s.doc.Value, lanes, now)
		if err != nil { // one bad document must not keep everybody's deliveries from starting
			c.log.Error("the cursor contradicts itself; the callback starts anew from where it was registered", "error", err)
			known = false
		}
		c.cur = cur
	}
	if !known {
		c.cur = d.anew(t, cb, lanes, max(min(cb.StartSeq, last), first-1), now)
	}
	_, clamped = c.cur.Clamp(last)
	carried := c.cur.Carried()
	if !carried.Behind {
		c.cur.Advance(t.mark.base)
		if c.cur.Position() < t.mark.highest() { // loaded after the watermark has moved: it does not speak for this one
			carried.Behind = true
		}
	}
	c.cur.SetCarried(carried)
	c.cur.Adopt(t.lease.Epoch())
	c.holds, c.durable = !carried.Behind, c.cur.Position()
	c.tripped = c.cur.Health().Open
	if since := c.cur.Health().FailingSince; !since.IsZero() && now.Sub(since) >= d.conf.DisableAfter && cb.Disabled == nil {
		c.cur.ResumeAll(now) // resumed while nobody delivered, or nobody delivered for days: it gets its chance
		c.tripped = false
	}
	c.ctx, c.cancel = context.WithCancel(t.life)
	c.place = d.places.join(cb.Client, c.placed)
	d.memory.callbacks.Add(1)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.setTarget(d.targetOf(cb))
	if known {
		c.expireBelow(first, now)
	}
	return c, clamped
}

// anew is the cursor of a callback that has none. Lanes there may be of one before are removed with what is stored first.
func (d *Dispatcher) anew(t *tenure, cb relay.Callback, lanes []cursor.Lane, from uint64, now time.Time) *cursor.Cursor {
	c := cursor.New(d.policyOf(cb))
	c.Advance(from)
	c.SetCarried(cursor.Carried{Epoch: t.lease.Epoch(), Adopted: t.lease.Epoch() + 1, Generation: cb.Generation, Behind: true})
	if bare, err := cursor.Load(d.policyOf(cb), c.Document(), lanes, now); err == nil {
		return bare
	}
	return c
}
