package cursor

import (
	"fmt"
	"slices"
	"time"
)

// Load returns the cursor that was stored as d and lanes; reading continues at ReadFrom. If the
// clock was set back, waits are shortened to the length they were computed with. Lanes of another
// Generation, or with an epoch below the document's Adopted, are not loaded, and the next Changes
// remove them. Contradictory data is an error.
func Load(p Policy, d Document, lanes []Lane, now time.Time) (*Cursor, error) {
	if err := d.validate(); err != nil {
		return nil, fmt.Errorf("loading cursor: %w", err)
	}
	c := New(p)
	c.carried, c.latest = d.Carried, now
	c.ahead = append([]Range(nil), d.Done...)
	c.health, c.resumed = d.Health, d.Resumed
	c.probeWait = time.Duration(d.Health.ProbeWaitMillis) * time.Millisecond
	if limit := now.Add(c.probeWait); c.health.NextProbe.After(limit) {
		c.health.NextProbe = limit
	}
	if c.resumed.After(now) {
		c.resumed = now
	}
	end := d.Position
	if n := len(d.Done); n > 0 {
		end = d.Done[n-1][1]
	}
	c.read(d.Position)
	for _, e := range d.Skipped {
		c.skipped.add(e)
	}
	for i := range lanes {
		if err := c.loadLane(&lanes[i], end, now); err != nil {
			return nil, fmt.Errorf("loading lane of order %q: %w", lanes[i].Order, err)
		}
	}
	if len(c.queues) == 0 { // what waits, if anything does, has not failed yet
		c.health.FailingSince = time.Time{}
	}
	for order := range c.skipped.of {
		if c.queues[order] == nil { // no lane can read the log again
			c.skipped.drop(order, 0, d.Position)
		}
	}
	return c, nil
}

func (c *Cursor) loadLane(s *Lane, end uint64, now time.Time) error {
	if err := s.validate(); err != nil {
		return err
	}
	if c.queues[s.Order] != nil || c.gone[s.Order] != 0 {
		return fmt.Errorf("there are two")
	}
	if s.Generation != c.carried.Generation || s.Epoch < c.carried.Adopted {
		c.version++
		if c.gone == nil {
			c.gone = make(map[string]uint64)
		}
		c.gone[s.Order] = c.version
		return nil
	}
	l := &lane{
		admitted: true, handed: true, openFrom: s.OpenFrom,
		attempts: s.Attempts, spent: s.Spent, failingSince: s.FailingSince, reason: s.Reason,
		reasonSince: s.ReasonSince, next: s.Next, wait: time.Duration(s.WaitMillis) * time.Millisecond,
	}
	if n := len(s.Entries); n > 0 {
		l.known = s.Entries[n-1]
	}
	if l.openFrom != 0 {
		l.known = l.openFrom - 1
		l.openLast = max(l.openFrom, end)
	}
	if l.clamp(now); s.Early || l.next.Add(-l.wait).Before(c.resumed) {
		l.hurry(now)
	}
	q := c.newQueue(s.Order)
	q.lane = l
	c.admitted++
	for _, seq := range s.Entries {
		q.items = append(q.items, item{seq: seq})
	}
	c.entries += len(q.items)
	c.place(q)
	return nil
}

// Adopt takes over a loaded cursor under a new epoch. The next Changes contain every lane and the
// document. Storing them, each at the revision that was read, keeps a former owner from storing
// anything of this cursor afterwards. If the process dies in between, some lanes have a higher
// epoch than their document; the next owner loads them as usual.
func (c *Cursor) Adopt(epoch uint64) {
	c.carried.Epoch, c.carried.Adopted = epoch, epoch
	for _, q := range c.sorted() {
		if q.lane != nil {
			c.touchLane(q)
		}
	}
	c.touchDocument()
}

// Changes is what must be stored: first Lanes, then Document unless it is nil, then the removal of
// the lanes of the orders in Remove. If all of that succeeded, Stored must be called. Only one
// store may be under way at a time.
type Changes struct {
	Lanes    []Lane
	Document *Document
	Remove   []string

	marks      []mark
	docVersion uint64
	removals   []uint64
}

// mark identifies the version of a lane that was handed out.
type mark struct {
	lane    *lane
	version uint64
}

// Empty reports whether there is nothing to store.
func (ch *Changes) Empty() bool {
	return len(ch.Lanes) == 0 && ch.Document == nil && len(ch.Remove) == 0
}

// Dirty reports whether Changes would return anything.
func (c *Cursor) Dirty() bool {
	return c.docVersion != c.docStored || len(c.dirty) > 0 || len(c.gone) > 0
}

// Changes returns what has changed since the last Stored. Passing entries that belong to others is
// not a change; it is stored with the next one.
func (c *Cursor) Changes() Changes {
	var ch Changes
	c.forgetClean()
	for _, q := range c.dirty {
		q.lane.handed = true
		ch.Lanes = append(ch.Lanes, c.snapshot(q))
		ch.marks = append(ch.marks, mark{q.lane, q.lane.version})
	}
	if c.docVersion != c.docStored {
		d := c.Document()
		ch.Document, ch.docVersion = &d, c.docVersion
	}
	for order, v := range c.gone {
		ch.Remove = append(ch.Remove, order)
		ch.removals = append(ch.removals, v)
	}
	return ch
}

// Stored acknowledges that all of ch has been stored. Later changes remain to be stored.
func (c *Cursor) Stored(ch Changes) {
	for _, m := range ch.marks {
		m.lane.stored = max(m.lane.stored, m.version)
	}
	c.forgetClean()
	c.docStored = max(c.docStored, ch.docVersion)
	for i, order := range ch.Remove {
		if c.gone[order] == ch.removals[i] {
			delete(c.gone, order)
		}
	}
	if len(c.gone) == 0 {
		c.gone = nil
	}
	c.admit()
}

// forgetClean removes from dirty the lanes that have been stored, and those that were removed.
func (c *Cursor) forgetClean() {
	c.dirty = slices.DeleteFunc(c.dirty, func(q *queue) bool {
		if q.lane != nil && q.lane.stored == q.lane.version {
			q.lane.listed = false
		}
		return q.lane == nil || !q.lane.listed
	})
	if len(c.dirty) == 0 && cap(c.dirty) > 16 {
		c.dirty = nil
	}
}

// Document returns the document in its present state. It must not be stored by itself while Changes
// has Lanes.
func (c *Cursor) Document() Document {
	d := Document{V: version, Position: c.Position(), Health: c.health, Resumed: stamp(c.resumed), Carried: c.carried}
	d.Health.FailingSince, d.Health.NextProbe = stamp(d.Health.FailingSince), stamp(d.Health.NextProbe)
	for n := c.first; n != nil && len(d.Done) < MaxDone; n = n.next {
		switch {
		case n.next == nil && c.doneLast && c.high > n.seq:
			d.Done = append(d.Done, Range{n.seq + 1, c.high})
		case n.next != nil && n.next.doneBefore && n.next.seq > n.seq+1:
			d.Done = append(d.Done, Range{n.seq + 1, n.next.seq - 1})
		}
	}
	for _, r := range c.ahead {
		if n := len(d.Done); n > 0 && d.Done[n-1][1]+1 == r[0] {
			d.Done[n-1][1] = r[1]
		} else if n < MaxDone {
			d.Done = append(d.Done, r)
		}
	}
	d.Skipped = c.skipped.list()
	return d
}

func (c *Cursor) snapshot(q *queue) Lane {
	l := q.lane
	return Lane{
		V: version, Order: q.order, Entries: seqs(q.items), OpenFrom: l.openFrom,
		Attempts: l.attempts, Spent: l.spent, FailingSince: stamp(l.failingSince),
		Reason: l.reason, ReasonSince: stamp(l.reasonSince), Next: stamp(l.next), WaitMillis: l.wait.Milliseconds(),
		Early: l.early, Epoch: c.carried.Epoch, Generation: c.carried.Generation,
	}
}

func (c *Cursor) touchDocument() {
	c.version++
	c.docVersion = c.version
}

// touchLane marks a lane's record as changed. Lanes over the bound have no record.
func (c *Cursor) touchLane(q *queue) {
	l := q.lane
	if !l.admitted {
		return
	}
	c.version++
	l.version = c.version
	if !l.listed {
		l.listed = true
		c.dirty = append(c.dirty, q)
	}
}

func seqs(items []item) []uint64 {
	if len(items) == 0 {
		return nil
	}
	s := make([]uint64, len(items))
	for i, it := range items {
		s[i] = it.seq
	}
	return s
}
