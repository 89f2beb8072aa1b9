package cursor

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// Expired is what left the log before it was settled.
type Expired struct {
	// Entries were waiting; they are settled now.
	Entries []Entry
	// Stretches may have held entries that were not listed: entries behind a lane's OpenFrom or, if
	// Order is empty, entries that were not read yet.
	Stretches []Stretch
}

// Stretch is the inclusive range [From, To] of the log; if Order is not empty, only the entries of
// that order.
type Stretch struct {
	Order    string
	From, To uint64
}

// ExpireBelow settles the waiting entries below first, the log's first position, because they can
// no longer be read. Batches in flight are not affected. It visits everything that waits: call it
// after Load, and whenever first has changed.
func (c *Cursor) ExpireBelow(first uint64) Expired {
	var ex Expired
	if first == 0 {
		return ex
	}
	if first-1 > c.high {
		ex.Stretches = append(ex.Stretches, Stretch{From: c.high + 1, To: first - 1})
		c.read(first - 1)
		c.doneLast = true
		c.touchDocument()
	}
	for _, q := range c.sorted() {
		end, _ := q.find(first)
		n := max(end-q.taken, 0)
		for _, it := range q.items[q.taken : q.taken+n] {
			ex.Entries = append(ex.Entries, Entry{it.seq, q.order})
			c.settled(it)
		}
		q.items = slices.Delete(q.items, q.taken, q.taken+n)
		l := q.lane
		behind := q.openFrom() != 0 && q.openFrom() < first
		if behind {
			ex.Stretches = append(ex.Stretches, Stretch{q.order, l.openFrom, min(l.openLast, first-1)})
			if l.openFrom = first; l.openLast < first {
				l.openFrom = 0
			}
		}
		if n == 0 && !behind {
			continue
		}
		if l != nil {
			if q.taken == 0 && n > 0 {
				l.attempts, l.next, l.wait, l.early = 0, time.Time{}, 0, false
			}
			c.touchLane(q)
		}
		c.place(q)
	}
	slices.SortFunc(ex.Entries, func(a, b Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	return ex
}

// Clamped is the result of Clamp.
type Clamped struct {
	// From and To are the positions before and after; ReadFrom and ReadTo the last positions read.
	From, To         uint64
	ReadFrom, ReadTo uint64
	// Entries were waiting and are no longer in the log.
	Entries []Entry
}

// Clamp moves everything back to last, the log's last position, when the log ends before the
// cursor's position (after a power cut, or a restore). The positions above it will be given to
// other entries. Call it at the start, before anything is offered; batches in flight above last
// become stale. It returns false if nothing had to be moved.
func (c *Cursor) Clamp(last uint64) (Clamped, bool) {
	if last == math.MaxUint64 {
		return Clamped{}, false
	}
	cl := Clamped{From: c.Position(), ReadFrom: c.high}
	for order := range c.skipped.of {
		c.skipped.drop(order, last+1, math.MaxUint64)
	}
	changed := c.high > last || len(c.ahead) > 0 && c.ahead[len(c.ahead)-1][1] > last
	for _, q := range c.sorted() {
		keep, _ := q.find(last + 1)
		cut := q.items[keep:]
		for _, it := range cut {
			cl.Entries = append(cl.Entries, Entry{it.seq, q.order})
			c.entries--
			if it.node != nil {
				c.pass(it.node)
			}
		}
		l := q.lane
		if l != nil {
			l.known = min(l.known, last)
		}
		behind := q.openFrom() != 0 && l.openLast > last
		if behind {
			if l.openLast = last; l.openFrom > last {
				l.openFrom = 0
			}
		}
		if len(cut) == 0 && !behind {
			continue
		}
		changed = true
		q.items = q.items[:keep:keep]
		if l != nil {
			if keep == 0 {
				l.attempts, l.next, l.wait, l.early = 0, time.Time{}, 0, false
			}
			c.touchLane(q)
		}
		if q.taken = min(q.taken, keep); q.batch != 0 && q.taken == 0 {
			c.land(q)
		} else {
			c.place(q)
		}
	}
	if !changed {
		return Clamped{}, false
	}
	c.high = min(c.high, last)
	if c.refused > last {
		c.refused = 0
	}
	for n := len(c.ahead); n > 0 && c.ahead[n-1][1] > last; n-- {
		if c.ahead[n-1][0] <= last {
			c.ahead[n-1][1] = last
			break
		}
		c.ahead = c.ahead[:n-1]
	}
	c.touchDocument()
	cl.To, cl.ReadTo = c.Position(), c.high
	slices.SortFunc(cl.Entries, func(a, b Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	return cl, true
}

// sorted returns all queues sorted by order, so that operations on all of them are deterministic.
func (c *Cursor) sorted() []*queue {
	return slices.SortedFunc(maps.Values(c.queues), func(a, b *queue) int { return cmp.Compare(a.order, b.order) })
}
