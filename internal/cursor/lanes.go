package cursor

import (
	"cmp"
	"slices"
	"time"
)

// enterLane puts an order whose head has failed in a lane. The lane will be stored if there is
// room; otherwise it exists only in memory, and the position does not pass its entries.
func (c *Cursor) enterLane(q *queue, now time.Time) {
	q.lane = &lane{failingSince: now}
	c.over = append(c.over, q)
	c.admit()
}

// admit moves lanes from beyond the bound into the store, as far as there is room. A lane that is
// being removed takes up room until its removal is acknowledged, so that the store never holds more
// than MaxLanes.
func (c *Cursor) admit() {
	for i := 0; i < len(c.over); {
		q := c.over[i]
		_, known := c.gone[q.order]
		if !known && !c.laneRoom() {
			i++
			continue
		}
		c.over = slices.Delete(c.over, i, i+1)
		delete(c.gone, q.order)
		c.admitted++
		q.lane.admitted, q.lane.handed = true, known
		for j := range q.items {
			if n := q.items[j].node; n != nil {
				c.pass(n)
				q.items[j].node = nil
			}
		}
		c.shorten(q)
		c.touchLane(q)
	}
	if len(c.over) == 0 {
		c.over = nil
	}
}

func (c *Cursor) laneRoom() bool { return c.admitted+len(c.gone) < c.policy.MaxLanes }

// Congested reports whether the bound of lanes has been reached: no fresh entry is taken until a
// lane has ended.
func (c *Cursor) Congested() bool { return len(c.over) > 0 || !c.laneRoom() }

// Refill is a request of a lane with no entry left in its list and more in the log: read the
// order's entries in [From, Through] and pass them to Cursor.Refill.
type Refill struct {
	Order         string
	From, Through uint64
}

// Refills returns the lanes that need a Refill. A lane is returned until it has been refilled.
func (c *Cursor) Refills() []Refill {
	if c.starving == 0 {
		return nil
	}
	return c.unlisted(func(q *queue) bool { return q.starving })
}

// Unlisted returns the ranges of the log that lanes have behind their listed entries, for counting
// what waits there. Unsettled does not count those entries.
func (c *Cursor) Unlisted() []Refill {
	return c.unlisted(func(q *queue) bool { return q.openFrom() != 0 })
}

func (c *Cursor) unlisted(wanted func(*queue) bool) []Refill {
	var rs []Refill
	for _, q := range c.queues {
		if wanted(q) {
			// After a reload a lane may cover more than has been read again. Waiting for the reader
			// could last forever, because the reader may be waiting for the lane.
			rs = append(rs, Refill{q.order, q.lane.openFrom, max(c.high, q.lane.openLast)})
		}
	}
	slices.SortFunc(rs, func(a, b Refill) int { return cmp.Compare(a.From, b.From) })
	return rs
}

// Refill completes a Refill: seqs are all entries of the order in [r.From, through], ascending, of
// which LaneEntries are enough. With through = r.Through and all entries, the lane lists everything
// that waits; a lower through (a page that ended early) leaves the rest for the next time. A
// request that is out of date has no effect. It reports whether the lane has changed.
func (c *Cursor) Refill(r Refill, seqs []uint64, through uint64) bool {
	q := c.queues[r.Order]
	if q == nil || !q.starving || q.lane.openFrom != r.From {
		return false
	}
	if through = min(through, r.Through, max(c.high, q.lane.openLast)); through < r.From {
		return false
	}
	l := q.lane
	l.openFrom = 0
	for _, seq := range seqs {
		listed := len(q.items) > 0 && seq <= q.items[len(q.items)-1].seq
		if seq < r.From || seq > through || listed || c.skipped.has(q.order, seq) {
			continue
		}
		if len(q.items) == LaneEntries {
			l.openFrom = seq
			break
		}
		q.items = append(q.items, item{seq: seq})
		c.entries++
	}
	if l.openFrom == 0 && l.openLast > through {
		l.openFrom = through + 1
	}
	l.known = max(l.known, through)
	if l.openFrom != 0 {
		l.known = l.openFrom - 1
	}
	c.touchLane(q)
	c.place(q)
	return true
}
