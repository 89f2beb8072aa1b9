package cursor

import (
	"cmp"
	"slices"
)

// Entries that were settled out of order, while earlier ones of their order wait, must be
// remembered: the order's lane, now or later, may read the log again from before them. They are few
// (an operator skips them), so the document lists them.

// skip records that an entry of q was settled out of order. It returns false if there are too many.
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

// forgetSkipped removes from q's skipped entries those below everything that waits. It keeps those
// that have not been read again since a reload, because older entries may still come.
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

// putSkippedBack keeps an order's remaining skipped entries when the order has nothing waiting.
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

// loadSkipped keeps the skipped entries of a document until their orders have queues.
func (c *Cursor) loadSkipped(es []Entry) {
	for _, e := range es {
		if c.skippedBefore == nil {
			c.skippedBefore = make(map[string][]uint64)
		}
		c.skippedBefore[e.Order] = append(c.skippedBefore[e.Order], e.Seq)
		c.skipped++
	}
}

// recallSkipped gives a new queue the entries of its order that were skipped before the cursor was
// loaded.
func (c *Cursor) recallSkipped(q *queue) {
	if seqs, ok := c.skippedBefore[q.order]; ok {
		q.skipped = seqs
		delete(c.skippedBefore, q.order)
	}
}

// passSkipped removes the skipped entries of an order without a queue, up to seq, which has been
// read.
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

// dropSkippedBefore removes the skipped entries of orders without queues that are not in (read,
// above]: below read no lane can read the log again, and above the log has ended.
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

// listSkipped returns all skipped entries for the document.
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
