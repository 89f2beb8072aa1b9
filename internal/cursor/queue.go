package cursor

import (
	"cmp"
	"container/heap"
	"slices"
	"time"
)

// node is an entry the position must not pass: unsettled, and not in a lane the store knows of. Nodes form a list in
// ascending order; offers append to it, so the position and the ranges done above it can be read off at any time.
type node struct {
	seq        uint64
	q          *queue
	prev, next *node
	// doneBefore: between the node before (or the position) and this one something was settled. Stretches without it
	// were merely not ours, and are not worth a range in the document.
	doneBefore bool
}

// item is an entry that waits or is in flight. Its node is nil if the position may pass it.
type item struct {
	seq  uint64
	node *node
}

// queue is one order's entries; with a lane it is being retried.
type queue struct {
	order string
	items []item // ascending; the first taken ones are in flight
	taken int
	// skipped are entries above the head that were settled out of turn, ascending: reading the log again for a lane must
	// not bring them back.
	skipped []uint64
	batch   uint64 // identifies the batch in flight; 0: none
	probe   bool   // the batch in flight is a probe
	held    bool   // the batch in flight is exhausted: the caller settles what failed for good
	lane    *lane

	in       *queueHeap // where it waits for its turn, if it does
	index    int
	starving bool // its lane has more in the log and nothing at hand
}

// lane is what retrying an order takes.
type lane struct {
	admitted bool   // false: over the bound, kept in memory only, its entries hold the position
	openFrom uint64 // as in Lane
	openLast uint64 // the highest entry that openFrom may stand for
	// known: of this order everything up to here that is not listed is settled. A lane holds all that waits of its order,
	// so that one loaded after a crash may know more than the document loaded with it.
	known        uint64
	attempts     int
	spent        bool
	failingSince time.Time
	reason       string
	reasonSince  time.Time
	next         time.Time
	wait         time.Duration

	version, stored uint64 // of its content; stored < version: dirty
	listed          bool   // in Cursor.dirty
	handed          bool   // the store may know it: removing it needs saying
}

func (q *queue) head() uint64 { return q.items[0].seq }

// find returns where seq is among the items, or would be.
func (q *queue) find(seq uint64) (int, bool) {
	if len(q.items) > 0 && q.items[0].seq == seq {
		return 0, true
	}
	return slices.BinarySearchFunc(q.items, seq, func(it item, seq uint64) int { return cmp.Compare(it.seq, seq) })
}

// due says whether the lane's next attempt may be made.
func (l *lane) due(now time.Time) bool {
	return !l.next.After(now)
}

// clamp keeps the next attempt from being further away than its own wait, which a clock set back would make it.
func (l *lane) clamp(now time.Time) {
	if limit := now.Add(l.wait); l.next.After(limit) {
		l.next = limit
	}
}

// queueHeap holds queues that wait for their turn: by head, or by time due and then head.
type queueHeap struct {
	qs     []*queue
	byTime bool
}

func (h *queueHeap) Len() int { return len(h.qs) }

func (h *queueHeap) Less(i, j int) bool {
	a, b := h.qs[i], h.qs[j]
	if h.byTime {
		if c := a.lane.next.Compare(b.lane.next); c != 0 {
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

// place puts q where it belongs after anything of it has changed: in flight, gone, starving, due at a time, or ready.
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
	case q.lane != nil && q.lane.openFrom != 0:
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

// remove takes q out of the heap it is in, unless that is the one it stays in.
func (c *Cursor) remove(q *queue, stays *queueHeap) {
	if q.in != nil && q.in != stays {
		heap.Remove(q.in, q.index)
	}
}
