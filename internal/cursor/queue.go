package cursor

import (
	"cmp"
	"container/heap"
	"slices"
	"time"
)

// node is an entry that the position must not pass: it is unsettled, and not in a lane that the
// store has. Nodes form a list in ascending order, so that the position and the ranges done above
// it can be read from it at any time.
type node struct {
	seq        uint64
	prev, next *node
	// doneBefore: an entry between the previous node (or the position) and this one was settled.
	// Where no entry was settled, all entries belong to others, and the document needs no range.
	doneBefore bool
}

// item is an entry that waits or is in flight. Its node is nil if the position may pass the entry.
type item struct {
	seq  uint64
	node *node
}

// queue holds one order's entries. If it has a lane, the order is being retried.
type queue struct {
	order string
	items []item // ascending; the first taken ones are in flight
	taken int
	batch uint64 // identifies the batch in flight; 0: none
	probe bool   // the batch in flight is a probe
	early bool   // the batch in flight was taken before it was due by the schedule
	held  bool   // the batch in flight is exhausted, and the caller has yet to settle what failed for good
	lane  *lane

	in       *queueHeap // the heap in which it waits for its turn, or nil
	index    int
	starving bool // its lane has no entry left in its list and more in the log
}

// lane is the retry state of an order.
type lane struct {
	admitted bool   // false: beyond MaxLanes, kept in memory only, and the position does not pass its entries
	openFrom uint64 // as in Lane
	openLast uint64 // the highest entry that openFrom may stand for
	// known: every entry of this order up to here that is not listed is settled. A lane holds
	// everything that waits of its order, so after a crash it may be ahead of the document loaded
	// with it.
	known        uint64
	attempts     int
	spent        bool
	failingSince time.Time
	healed       time.Time // when its head was last accepted after a failure; not stored
	reason       string
	reasonSince  time.Time
	next         time.Time // by the schedule
	wait         time.Duration
	early        bool // it is due before: a failure until then is not counted

	version, stored uint64 // of its content; dirty if stored < version
	listed          bool   // in Cursor.dirty
	handed          bool   // the store may have it, so its removal must be stored
}

func (q *queue) head() uint64 { return q.items[0].seq }

// openFrom returns where the entries begin that wait behind those listed, or 0 if there are none.
func (q *queue) openFrom() uint64 {
	if q.lane == nil {
		return 0
	}
	return q.lane.openFrom
}

// isUnlisted reports whether an entry may wait behind those listed.
func (q *queue) isUnlisted(seq uint64) bool { return q.openFrom() != 0 && seq >= q.openFrom() }

// find returns the index of seq among the items, or where it would be inserted.
func (q *queue) find(seq uint64) (int, bool) {
	if len(q.items) > 0 && q.items[0].seq == seq {
		return 0, true
	}
	return slices.BinarySearchFunc(q.items, seq, func(it item, seq uint64) int { return cmp.Compare(it.seq, seq) })
}

// due reports whether the lane's next attempt may be made.
func (l *lane) due(now time.Time) bool {
	return l.early || !l.next.After(now)
}

// hurry makes the lane due now.
func (l *lane) hurry(now time.Time) {
	if l.early = l.next.After(now); !l.early {
		l.next, l.wait = time.Time{}, 0
	}
}

// key is what lanes are sorted by: those that are early are due in the order of their heads.
func (l *lane) key() time.Time {
	if l.early {
		return time.Time{}
	}
	return l.next
}

// clamp limits the time to the next attempt to the lane's wait: a clock that was set back would
// make it longer.
func (l *lane) clamp(now time.Time) {
	if limit := now.Add(l.wait); l.next.After(limit) {
		l.next = limit
	}
}

// queueHeap holds queues that wait for their turn, by head, or by due time and then by head.
type queueHeap struct {
	qs     []*queue
	byTime bool
}

func (h *queueHeap) Len() int { return len(h.qs) }

func (h *queueHeap) Less(i, j int) bool {
	a, b := h.qs[i], h.qs[j]
	if h.byTime {
		if c := a.lane.key().Compare(b.lane.key()); c != 0 {
			return c < 0
		}
	}
	return a.head() < b.head()
}

func (h *queueHeap) Swap(i, j int) {
	h.qs[i], h.qs[j] = h.qs[j], h.qs[i]
	h.qs[i].index, h.qs[j].index = i, j
}

// Push implements heap.Interface.
func (h *queueHeap) Push(x any) {
	q := x.(*queue)
	q.in, q.index = h, len(h.qs)
	h.qs = append(h.qs, q)
}

// Pop implements heap.Interface.
func (h *queueHeap) Pop() any {
	n := len(h.qs) - 1
	q := h.qs[n]
	h.qs[n] = nil
	h.qs = h.qs[:n]
	q.in = nil
	return q
}

func (h *queueHeap) top() *queue {
	if len(h.qs) == 0 {
		return nil
	}
	return h.qs[0]
}

// place moves q to the right heap after a change: it is in flight, gone, starving, due at a time,
// or ready.
func (c *Cursor) place(q *queue) {
	c.forgetSkipped(q)
	var to *queueHeap
	starving := false
	switch {
	case q.batch != 0:
	case len(q.items) > 0 && q.lane != nil:
		to = &c.dueLanes
	case len(q.items) > 0:
		to = &c.ready
	case q.openFrom() != 0:
		starving = true
	default:
		c.remove(q, nil)
		c.drop(q)
		return
	}
	c.remove(q, to)
	if starving != q.starving {
		q.starving = starving
		if starving {
			c.starving++
		} else {
			c.starving--
		}
	}
	switch {
	case to == nil:
	case q.in == to:
		heap.Fix(to, q.index)
	default:
		heap.Push(to, q)
	}
}

// remove removes q from its heap, unless q stays in that heap.
func (c *Cursor) remove(q *queue, stays *queueHeap) {
	if q.in != nil && q.in != stays {
		heap.Remove(q.in, q.index)
	}
}
