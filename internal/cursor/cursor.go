package cursor

import (
	"sort"
	"time"
)

// Entry is one entry of the log that the reader's cursor answers for.
type Entry struct {
	// Seq is its position in the log, from 1.
	Seq uint64 `json:"seq"`
	// Order is the key of the lane it belongs to: not empty, and what a key in the store may be; at most 100 bytes.
	Order string `json:"order"`
}

// Verdict is what became of an offered entry.
type Verdict int

const (
	// Ignored: settled before, or known already. Nothing to do.
	Ignored Verdict = iota
	// Accepted: it waits for its turn.
	Accepted
	// Laned: it waits in its order's lane, perhaps for long.
	Laned
	// Full: there is no room. It and everything after it is refused until it is offered again and there is room, or
	// until the reader begins anew at ReadFrom.
	Full
)

func (v Verdict) String() string {
	return [...]string{"ignored", "accepted", "laned", "full"}[v]
}

// Cursor is where one reader of one log stands. The zero value is not usable; see New and Load.
type Cursor struct {
	policy  Policy
	carried Carried

	// What has been read. Everything up to high has been offered, or is known to be done.
	high        uint64
	refused     uint64  // 0, or the entry that was answered Full: nothing after it may pass it
	ahead       []Range // done above high, from the stored document
	first, last *node   // entries that hold the position
	holding     int     // how many those are
	doneLast    bool    // something was settled above last (or the position) and at or below high

	// What waits. A map is only there while something does.
	queues    map[string]*queue
	mostQueue int       // the most queues the map has held
	ready     queueHeap // orders without lane, by head
	dueLanes  queueHeap // lanes with an entry at hand, by time
	starving  int       // lanes with none at hand and more in the log
	admitted  int       // lanes the store knows, or will with the next Changes
	over      []*queue  // lanes over the bound
	entries   int       // items of all queues
	inFlight  int       // batches
	lanesTurn bool      // of lanes and fresh orders, whose turn it is

	skipped       int                 // entries settled out of turn, see skip
	skippedBefore map[string][]uint64 // those of a loaded document whose orders have not come up

	// How the receiver answers.
	health    Health
	resumed   time.Time
	failing   string // the order of all failures so far, unless health.Several
	pace      int    // 0, or how many orders may be in flight while starting slowly
	probing   *queue
	probeWait time.Duration
	lastProbe uint64 // head that was probed last
	wanted    string // order whose turn as a probe an operator asked for

	// What is to be stored.
	version               uint64
	docVersion, docStored uint64
	dirty                 []*queue
	gone                  map[string]uint64 // lanes to be removed from the store, with the version that says so
	latest                time.Time         // the latest time seen, to notice a clock set back
}

// New returns a cursor that stands before the first entry of the log. Advance moves it to where it is to begin.
func New(p Policy) *Cursor {
	return &Cursor{policy: p.withDefaults(), dueLanes: queueHeap{byTime: true}}
}

// SetPolicy replaces the policy, say because a callback's concurrency was changed. It holds from the next call on; waits
// already computed stay.
func (c *Cursor) SetPolicy(p Policy) { c.policy = p.withDefaults() }

// Carried returns the caller's own fields.
func (c *Cursor) Carried() Carried { return c.carried }

// SetCarried replaces the caller's own fields; a change is a reason to store the document.
func (c *Cursor) SetCarried(v Carried) {
	if v != c.carried {
		c.carried = v
		c.touchDocument()
	}
}

// Offer hands the cursor the next entry of the log. Entries come in ascending order; whatever lies between one and the
// next is taken not to be ours. Entries offered again, say after a reload, are recognised.
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
		q.recallDone(e.Seq)
		if q == nil {
			c.passSkipped(e.Order, e.Seq)
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
	q.items = append(q.items, item{e.Seq, c.hold(e.Seq, q)})
	c.entries++
	c.read(e.Seq)
	c.place(q)
	return Accepted
}

// recallDone takes note of an entry of q that the stored document says is settled or in a stored lane.
func (q *queue) recallDone(seq uint64) {
	if q != nil && q.lane != nil && q.lane.openFrom != 0 && seq >= q.lane.openFrom && !q.isSkipped(seq) {
		q.lane.openLast = max(q.lane.openLast, seq)
	}
}

// offerLaned takes an entry into a lane that the store knows, or will with the next Changes, so that the position
// passes it.
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
	c.touchDocument() // the lane may be gone before the document says that it has covered this entry
	switch {
	case known:
		// Stored with the lane, just before a crash kept the document from saying so: it waits there, or was settled.
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

// shorten cuts a lane's entries to what it may list; the rest stands behind openFrom.
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

// Advance says that everything up to seq has been offered: what lies between the last offer and seq is not ours. It has
// no effect beyond an entry that was refused. It is no reason to store the document.
func (c *Cursor) Advance(seq uint64) {
	if c.refused != 0 && seq >= c.refused {
		return
	}
	c.read(seq)
}

// ReadFrom returns the position the reader has to go on from, and withdraws the refusal that a Full began: from here on
// the reader offers everything again.
func (c *Cursor) ReadFrom() uint64 {
	c.refused = 0
	return c.high + 1
}

// Room says whether an entry of an order without a lane would be accepted now.
func (c *Cursor) Room() bool { return c.holding < c.window() }

// Position returns the position: everything at or below is settled or in a lane.
func (c *Cursor) Position() uint64 {
	if c.first != nil {
		return c.first.seq - 1
	}
	return c.high
}

// window is how many entries outside lanes may be held at present.
func (c *Cursor) window() int {
	if c.health.Open {
		return min(openWindow, c.policy.Window)
	}
	return c.policy.Window
}

// read moves high to seq, past what is known to be done up to there.
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

// isAhead says whether seq, above high, is known to be done.
func (c *Cursor) isAhead(seq uint64) bool {
	i := sort.Search(len(c.ahead), func(i int) bool { return c.ahead[i][1] >= seq })
	return i < len(c.ahead) && c.ahead[i][0] <= seq
}

// addAhead notes that seq, above high, is done: an entry that a lane knew before the reader came to it again.
func (c *Cursor) addAhead(seq uint64) {
	i := sort.Search(len(c.ahead), func(i int) bool { return c.ahead[i][1] >= seq })
	if i < len(c.ahead) && c.ahead[i][0] <= seq {
		return
	}
	below := i > 0 && c.ahead[i-1][1]+1 == seq
	above := i < len(c.ahead) && c.ahead[i][0]-1 == seq
	switch {
	case below && above:
		c.ahead[i-1][1] = c.ahead[i][1]
		c.ahead = append(c.ahead[:i], c.ahead[i+1:]...)
	case below:
		c.ahead[i-1][1] = seq
	case above:
		c.ahead[i][0] = seq
	default:
		c.ahead = append(c.ahead, Range{})
		copy(c.ahead[i+1:], c.ahead[i:])
		c.ahead[i] = Range{seq, seq}
	}
}

// hold appends an entry to those the position must not pass.
func (c *Cursor) hold(seq uint64, q *queue) *node {
	n := &node{seq: seq, q: q, prev: c.last, doneBefore: c.doneLast}
	if c.last == nil {
		c.first = n
	} else {
		c.last.next = n
	}
	c.last, c.doneLast = n, false
	c.holding++
	return n
}

// pass lets the position pass an entry: it is settled, or in a lane that is stored first.
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
	n.prev, n.next, n.q = nil, nil, nil
	c.holding--
	c.touchDocument()
}

func (c *Cursor) newQueue(order string) *queue {
	if c.queues == nil {
		c.queues = make(map[string]*queue)
	}
	q := &queue{order: order}
	c.recallSkipped(q)
	c.queues[order] = q
	c.mostQueue = max(c.mostQueue, len(c.queues))
	return q
}

// drop forgets an order of which nothing waits any more.
func (c *Cursor) drop(q *queue) {
	delete(c.queues, q.order)
	c.putSkippedBack(q)
	if len(c.queues) == 0 && c.mostQueue > 16 {
		// Maps and heaps never shrink; ten thousand quiet cursors should not hold what each once needed.
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
		c.leaveOver(q)
	}
	q.lane = nil
	c.admit()
}
