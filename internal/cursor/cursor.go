package cursor

import (
	"cmp"
	"slices"
	"time"
)

// Entry is one entry of the log that the cursor is responsible for.
type Entry struct {
	// Seq is its position in the log, from 1.
	Seq uint64 `json:"seq"`
	// Order is the key of its lane: not empty, valid as a key in the store, at most 100 bytes.
	Order string `json:"order"`
}

// Verdict is what Offer did with an entry.
type Verdict int

const (
	// Ignored: settled before, or already known. There is nothing to do.
	Ignored Verdict = iota
	// Accepted: it waits for its turn.
	Accepted
	// Laned: it waits in its order's lane, perhaps for a long time.
	Laned
	// Full: there is no room. This entry and all later ones are refused until this one is offered
	// again and there is room, or until the reader begins again at ReadFrom.
	Full
)

func (v Verdict) String() string {
	return [...]string{"ignored", "accepted", "laned", "full"}[v]
}

// Cursor is the position and the pending work of one reader of one log: the resolver has one for each inbox, the
// dispatcher one for each callback, and each replay one of its own. One goroutine owns a Cursor, or a mutex guards it.
// The zero value is not usable; see New and Load.
type Cursor struct {
	policy  Policy
	carried Carried

	// What has been read. Everything up to high has been offered, or is known to be done.
	high        uint64
	refused     uint64  // 0, or the entry that was refused with Full: no later entry may be accepted before it
	ahead       []Range // ranges above high that are done, from the stored document
	first, last *node   // entries that the position must not pass
	holding     int     // the number of those entries
	doneLast    bool    // something between last (or the position) and high was settled

	// What waits. The map exists only while something waits.
	queues    map[string]*queue
	mostQueue int       // the largest size the map has had
	ready     queueHeap // orders without a lane, by head
	dueLanes  queueHeap // lanes with a listed entry, by time
	starving  int       // lanes with no listed entry and more in the log
	admitted  int       // lanes that the store has, or will have with the next Changes
	over      []*queue  // lanes beyond MaxLanes
	entries   int       // items of all queues
	inFlight  int       // batches
	lanesTurn bool      // whether a lane or a fresh order is taken next
	// newestTurn: whether the newest or the oldest fresh order is taken next, after several failures.
	newestTurn bool

	skipped skippedEntries

	// The health of the receiver.
	health    Health
	resumed   time.Time
	failing   string // the order of all failures so far, unless health.Several
	pace      int    // 0, or how many orders may be in flight during the slow start
	probing   *queue
	probeWait time.Duration
	lastProbe uint64 // head that was probed last
	wanted    string // the order that an operator wants to be probed next

	// What must be stored.
	version               uint64
	docVersion, docStored uint64
	dirty                 []*queue
	// lanes to be removed from the store, and the version at which that was noted
	gone   map[string]uint64
	latest time.Time // the latest time seen, to detect a clock set back
}

// New returns a cursor at the beginning of the log. Advance moves it to its first position.
func New(p Policy) *Cursor {
	return &Cursor{policy: p.withDefaults(), dueLanes: queueHeap{byTime: true}}
}

// SetPolicy replaces the policy, for example after a callback's concurrency was changed. It applies
// from the next call on; waits that were computed before stay as they are.
func (c *Cursor) SetPolicy(p Policy) { c.policy = p.withDefaults() }

// Carried returns the caller's fields.
func (c *Cursor) Carried() Carried { return c.carried }

// SetCarried replaces the caller's fields. A change makes the document dirty.
func (c *Cursor) SetCarried(v Carried) {
	if v != c.carried {
		c.carried = v
		c.touchDocument()
	}
}

// Offer hands the next entry of the log to the cursor. Entries must come in ascending order; the entries between two
// offered ones belong to others. Entries that are offered again, for example after a reload, are recognised.
func (c *Cursor) Offer(e Entry) Verdict {
	if e.Seq <= c.high {
		return Ignored
	}
	if c.refused != 0 && e.Seq > c.refused {
		return Full
	}
	q := c.queues[e.Order]
	laned := q != nil && q.lane != nil && q.lane.admitted
	if c.isAhead(e.Seq) {
		// The stored document has it as settled, or in a stored lane.
		if q == nil {
			c.skipped.drop(e.Order, 0, e.Seq)
		} else if q.isUnlisted(e.Seq) && !c.skipped.has(e.Order, e.Seq) {
			q.lane.openLast = max(q.lane.openLast, e.Seq)
		}
		c.read(e.Seq)
		return Ignored
	}
	if laned {
		return c.offerLaned(q, e.Seq)
	}
	if c.holding >= c.window() {
		c.refused = e.Seq
		return Full
	}
	c.read(e.Seq - 1)
	if q == nil {
		q = c.newQueue(e.Order)
	}
	q.items = append(q.items, item{e.Seq, c.hold(e.Seq)})
	c.entries++
	c.read(e.Seq)
	c.place(q)
	return Accepted
}

// offerLaned adds an entry to a lane that the store has, or will have with the next Changes. The
// position then passes the entry.
func (c *Cursor) offerLaned(q *queue, seq uint64) Verdict {
	l := q.lane
	_, listed := q.find(seq)
	known := listed || seq <= l.known
	if !known && c.health.Open && c.holding >= c.window() {
		c.refused = seq
		return Full
	}
	c.read(seq)
	c.doneLast = true
	c.touchDocument() // the lane may be removed before a document covers this entry
	switch {
	case known:
		// The lane was stored with this entry, and then a crash came before the document was: it
		// waits there, or was settled.
		return Ignored
	case l.openFrom != 0:
		l.openLast = max(l.openLast, seq)
		return Laned
	}
	q.items = append(q.items, item{seq: seq})
	c.entries++
	c.shorten(q)
	c.touchLane(q)
	c.place(q)
	return Laned
}

// shorten reduces a lane's entries to LaneEntries; openFrom stands for the others.
func (c *Cursor) shorten(q *queue) {
	if len(q.items) <= LaneEntries {
		return
	}
	l := q.lane
	l.openFrom = q.items[LaneEntries].seq
	l.openLast = max(l.openLast, q.items[len(q.items)-1].seq)
	c.entries -= len(q.items) - LaneEntries
	clear(q.items[LaneEntries:])
	q.items = q.items[:LaneEntries:LaneEntries]
}

// Advance records that everything up to seq has been offered: what lies between the last offer and seq belongs to
// others. It does not pass an entry that was refused. It does not make the document dirty.
func (c *Cursor) Advance(seq uint64) {
	if c.refused != 0 && seq >= c.refused {
		return
	}
	c.read(seq)
}

// ReadFrom returns the position at which the reader must continue, and lifts the refusal that began
// with Full: from there on the reader offers everything again.
func (c *Cursor) ReadFrom() uint64 {
	c.refused = 0
	return c.high + 1
}

// Room reports whether an entry of an order without a lane would be accepted now.
func (c *Cursor) Room() bool { return c.holding < c.window() }

// Position returns the highest position at or below which everything is settled or in a lane.
func (c *Cursor) Position() uint64 {
	if c.first != nil {
		return c.first.seq - 1
	}
	return c.high
}

// window returns how many entries outside lanes may be held at present.
func (c *Cursor) window() int {
	if c.health.Open {
		return min(openWindow, c.policy.Window)
	}
	return c.policy.Window
}

// read moves high to seq, and past the following entries that are known to be done.
func (c *Cursor) read(seq uint64) {
	c.high = max(c.high, seq)
	if c.refused != 0 && c.refused <= c.high {
		c.refused = 0
	}
	for len(c.ahead) > 0 && c.ahead[0][0] <= c.high {
		c.doneLast = true
		if c.ahead[0][1] > c.high {
			c.ahead[0][0] = c.high + 1
			break
		}
		c.ahead = c.ahead[1:]
	}
}

// isAhead reports whether seq, which is above high, is known to be done.
func (c *Cursor) isAhead(seq uint64) bool {
	_, ahead := c.findAhead(seq)
	return ahead
}

// findAhead returns the index of the range that seq is in, or else of the first one above it.
func (c *Cursor) findAhead(seq uint64) (int, bool) {
	return slices.BinarySearchFunc(c.ahead, seq, func(r Range, seq uint64) int {
		if r[0] <= seq && seq <= r[1] {
			return 0
		}
		return cmp.Compare(r[1], seq)
	})
}

// addAhead records that seq, which is above high, is done: a lane knew the entry before the reader came to it again.
func (c *Cursor) addAhead(seq uint64) {
	i, ahead := c.findAhead(seq)
	if ahead {
		return
	}
	below := i > 0 && c.ahead[i-1][1]+1 == seq
	above := i < len(c.ahead) && c.ahead[i][0]-1 == seq
	switch {
	case below && above:
		c.ahead[i-1][1] = c.ahead[i][1]
		c.ahead = slices.Delete(c.ahead, i, i+1)
	case below:
		c.ahead[i-1][1] = seq
	case above:
		c.ahead[i][0] = seq
	default:
		c.ahead = slices.Insert(c.ahead, i, Range{seq, seq})
	}
}

// hold appends an entry to the list of those that the position must not pass.
func (c *Cursor) hold(seq uint64) *node {
	n := &node{seq: seq, prev: c.last, doneBefore: c.doneLast}
	if c.last == nil {
		c.first = n
	} else {
		c.last.next = n
	}
	c.last, c.doneLast = n, false
	c.holding++
	return n
}

// pass removes an entry from that list: it is settled, or in a lane that is stored first.
func (c *Cursor) pass(n *node) {
	if n.prev == nil {
		c.first = n.next
	} else {
		n.prev.next = n.next
	}
	if n.next == nil {
		c.last, c.doneLast = n.prev, true
	} else {
		n.next.prev, n.next.doneBefore = n.prev, true
	}
	n.prev, n.next = nil, nil
	c.holding--
	c.touchDocument()
}

func (c *Cursor) newQueue(order string) *queue {
	if c.queues == nil {
		c.queues = make(map[string]*queue)
	}
	q := &queue{order: order}
	c.queues[order] = q
	c.mostQueue = max(c.mostQueue, len(c.queues))
	return q
}

// drop removes the queue of an order that has nothing waiting.
func (c *Cursor) drop(q *queue) {
	delete(c.queues, q.order)
	if len(c.queues) == 0 {
		c.ForgetFailingSince()
	}
	if len(c.queues) == 0 && c.mostQueue > 16 {
		// Maps and heaps never shrink, and ten thousand quiet cursors must not keep their largest size.
		c.queues, c.mostQueue = nil, 0
		c.ready.qs, c.dueLanes.qs, c.dirty = nil, nil, nil
	}
	if q.starving {
		q.starving = false
		c.starving--
	}
	if q.lane == nil {
		return
	}
	if q.lane.admitted {
		c.admitted--
		if q.lane.handed {
			c.version++
			if c.gone == nil {
				c.gone = make(map[string]uint64)
			}
			c.gone[q.order] = c.version
		}
	} else {
		c.over = slices.DeleteFunc(c.over, func(other *queue) bool { return other == q })
	}
	q.lane = nil
	c.admit()
}
