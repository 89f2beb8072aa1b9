package cursor

import (
	"cmp"
	"slices"
)

// Entries that are settled out of turn, while earlier ones of their order wait, need remembering: the order's lane, now
// or later, may read the log again from before them. They are few (an operator skips them), so the document lists them.

// skip notes an entry of q settled out of turn; it reports false if there are too many.
func (c *Cursor) skip(q *queue, seq uint64) bool {
	i, ok := slices.BinarySearch(q.skipped, seq)
	if ok {
		return true
	}
	if c.skipped >= MaxSkipped {
		return false
	}
	q.skipped = slices.Insert(q.skipped, i, seq)
	c.skipped++
	c.touchDocument()
	return true
}

// skipUnlisted settles an entry that waits behind a lane's openFrom.
func (c *Cursor) skipUnlisted(q *queue, seq uint64) bool {
	l := q.lane
	if l == nil || l.openFrom == 0 || seq < l.openFrom || seq > c.high || q.isSkipped(seq) {
		return false
	}
	return c.skip(q, seq)
}

func (q *queue) isSkipped(seq uint64) bool {
	_, ok := slices.BinarySearch(q.skipped, seq)
	return ok
}

// forgetSkipped drops from what q has skipped all that lies below everything that waits, but for what has not been read
// again since a reload: what is older may still come up.
func (c *Cursor) forgetSkipped(q *queue) {
	if len(q.skipped) == 0 {
		return
	}
	n := len(q.skipped)
	if len(q.items) > 0 {
		n, _ = slices.BinarySearch(q.skipped, q.head())
	} else if q.lane != nil && q.lane.openFrom != 0 {
		n, _ = slices.BinarySearch(q.skipped, q.lane.openFrom)
	}
	read, found := slices.BinarySearch(q.skipped, c.high)
	if found {
		read++
	}
	c.cutSkipped(q, 0, min(n, read))
}

// putSkippedBack keeps what is left of an order's skipped entries when nothing of it waits at present.
func (c *Cursor) putSkippedBack(q *queue) {
	if len(q.skipped) == 0 {
		return
	}
	if c.skippedBefore == nil {
		c.skippedBefore = make(map[string][]uint64)
	}
	c.skippedBefore[q.order], q.skipped = q.skipped, nil
}

func (c *Cursor) cutSkipped(q *queue, from, to int) {
	q.skipped = slices.Delete(q.skipped, from, to)
	c.skipped -= to - from
}

// loadSkipped keeps what a document lists until its orders come up.
func (c *Cursor) loadSkipped(es []Entry) {
	for _, e := range es {
		if c.skippedBefore == nil {
			c.skippedBefore = make(map[string][]uint64)
		}
		c.skippedBefore[e.Order] = append(c.skippedBefore[e.Order], e.Seq)
		c.skipped++
	}
}

// recallSkipped gives a queue that comes up what was skipped of its order before the cursor was loaded.
func (c *Cursor) recallSkipped(q *queue) {
	if seqs, ok := c.skippedBefore[q.order]; ok {
		q.skipped = seqs
		delete(c.skippedBefore, q.order)
	}
}

// passSkipped forgets what was skipped of an order that has not come up, up to seq, which has been read.
func (c *Cursor) passSkipped(order string, seq uint64) {
	seqs, ok := c.skippedBefore[order]
	if !ok {
		return
	}
	n := 0
	for n < len(seqs) && seqs[n] <= seq {
		n++
	}
	c.skipped -= n
	if c.skippedBefore[order] = seqs[n:]; n == len(seqs) {
		delete(c.skippedBefore, order)
	}
}

// dropSkippedBefore forgets what was skipped of orders that have not come up, up to where everything has been read: no
// lane can read the log again there. above keeps only that which is not above it.
func (c *Cursor) dropSkippedBefore(read, above uint64) {
	for order, seqs := range c.skippedBefore {
		n := len(seqs)
		seqs = slices.DeleteFunc(seqs, func(seq uint64) bool { return seq <= read || seq > above })
		c.skipped -= n - len(seqs)
		if c.skippedBefore[order] = seqs; len(seqs) == 0 {
			delete(c.skippedBefore, order)
		}
	}
}

// listSkipped is what the document says.
func (c *Cursor) listSkipped() []Entry {
	if c.skipped == 0 {
		return nil
	}
	es := make([]Entry, 0, c.skipped)
	for _, q := range c.queues {
		for _, seq := range q.skipped {
			es = append(es, Entry{seq, q.order})
		}
	}
	for order, seqs := range c.skippedBefore {
		for _, seq := range seqs {
			es = append(es, Entry{seq, order})
		}
	}
	slices.SortFunc(es, func(a, b Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	return es
}
