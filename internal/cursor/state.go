package cursor

import "slices"

// State is the cursor's overall condition.
type State int

const (
	// OK: nothing is being retried.
	OK State = iota
	// Failing: some orders are in lanes, or the last attempt failed.
	Failing
	// Congested: the maximum number of orders is being retried; no fresh entry is taken.
	Congested
	// Open: only probes are sent to the receiver.
	Open
)

func (s State) String() string { return [...]string{"ok", "failing", "congested", "open"}[s] }

// State returns the cursor's condition.
func (c *Cursor) State() State {
	switch {
	case c.health.Open:
		return Open
	case c.Congested():
		return Congested
	case !c.health.FailingSince.IsZero() || c.Lanes() > 0:
		return Failing
	}
	return OK
}

// Lanes returns the number of orders being retried.
func (c *Cursor) Lanes() int { return c.admitted + len(c.over) }

// InFlight returns the number of batches in flight.
func (c *Cursor) InFlight() int { return c.inFlight }

// Holds reports whether entries of an order wait or are in flight.
func (c *Cursor) Holds(order string) bool { return c.queues[order] != nil }

// Next returns the last entry of an order's batch in flight. If there is none, it returns that of the batch which Take
// would return with the same most, if it were the order's turn.
func (c *Cursor) Next(order string, most int) (seq uint64, ok bool) {
	q := c.queues[order]
	switch {
	case q == nil || len(q.items) == 0:
		return 0, false
	case q.batch != 0:
		return q.items[q.taken-1].seq, true
	}
	return q.items[c.batchSize(q, most)-1].seq, true
}

// Unsettled returns how many listed entries wait or are in flight. It does not count the entries
// that a lane's OpenFrom stands for.
func (c *Cursor) Unsettled() int { return c.entries }

// Ahead returns the ranges above the last position read whose entries are known to be settled or in
// a lane.
func (c *Cursor) Ahead() []Range { return slices.Clone(c.ahead) }

// Idle reports whether there is nothing to do, to refill or to store: everything read is settled.
func (c *Cursor) Idle() bool { return len(c.queues) == 0 && !c.Dirty() }

// Oldest returns the lowest position that waits or is in flight. It visits every lane.
func (c *Cursor) Oldest() (uint64, bool) {
	var oldest uint64
	consider := func(seq uint64) {
		if seq != 0 && (oldest == 0 || seq < oldest) {
			oldest = seq
		}
	}
	if c.first != nil {
		consider(c.first.seq)
	}
	if c.Lanes() > 0 {
		for _, q := range c.queues {
			if len(q.items) > 0 {
				consider(q.head())
			} else {
				consider(q.lane.openFrom)
			}
		}
	}
	return oldest, oldest != 0
}

// Lane returns the record of an order that is being retried.
func (c *Cursor) Lane(order string) (Lane, bool) {
	q := c.queues[order]
	if q == nil || q.lane == nil {
		return Lane{}, false
	}
	s := c.snapshot(q)
	s.Entries = s.Entries[:min(len(s.Entries), LaneEntries)]
	return s, true
}

// Place is the state of one of our entries.
type Place int

const (
	// Unread: the reader has not reached it.
	Unread Place = iota
	// Waiting for its turn; its order is not being retried.
	Waiting
	// InLane: it waits in its order's lane; see Lane.
	InLane
	// Flying: an attempt is under way.
	Flying
	// Settled: the cursor has finished with it.
	Settled
)

func (p Place) String() string {
	return [...]string{"unread", "waiting", "in-lane", "in-flight", "settled"}[p]
}

// Where returns the state of an entry, given that it is one of ours.
func (c *Cursor) Where(e Entry) Place {
	if q := c.queues[e.Order]; q != nil {
		i, ok := q.find(e.Seq)
		switch {
		case !ok && c.skipped.has(e.Order, e.Seq):
			return Settled
		case ok && i < q.taken:
			return Flying
		case ok && q.lane != nil:
			return InLane
		case ok:
			return Waiting
		case q.isUnlisted(e.Seq) && e.Seq <= c.high:
			return InLane
		}
	}
	if e.Seq > c.high && !c.isAhead(e.Seq) {
		return Unread
	}
	return Settled
}
