package cursor

import (
	"cmp"
	"slices"
)

// skippedEntries are entries that were settled out of order, while earlier ones of their order
// waited. They must be remembered: the order's lane, now or later, may read the log again from
// before them. They are few (an operator skips them), so the document lists them.
type skippedEntries struct {
	of map[string][]uint64 // by order, ascending
	n  int                 // in total
}

func (s *skippedEntries) has(order string, seq uint64) bool {
	_, there := slices.BinarySearch(s.of[order], seq)
	return there
}

func (s *skippedEntries) add(e Entry) {
	if s.of == nil {
		s.of = make(map[string][]uint64)
	}
	i, _ := slices.BinarySearch(s.of[e.Order], e.Seq)
	s.of[e.Order] = slices.Insert(s.of[e.Order], i, e.Seq)
	s.n++
}

// drop forgets the entries of an order that are in [from, to].
func (s *skippedEntries) drop(order string, from, to uint64) {
	before := s.of[order]
	left := slices.DeleteFunc(before, func(seq uint64) bool { return seq >= from && seq <= to })
	s.n -= len(before) - len(left)
	if len(left) == 0 {
		delete(s.of, order)
	} else {
		s.of[order] = left
	}
}

// list returns all of them for the document.
func (s *skippedEntries) list() []Entry {
	if s.n == 0 {
		return nil
	}
	es := make([]Entry, 0, s.n)
	for order, seqs := range s.of {
		for _, seq := range seqs {
			es = append(es, Entry{seq, order})
		}
	}
	slices.SortFunc(es, func(a, b Entry) int { return cmp.Compare(a.Seq, b.Seq) })
	return es
}

// skip records that an entry of q was settled out of order. It returns false if there are too many.
func (c *Cursor) skip(q *queue, seq uint64) bool {
	switch {
	case c.skipped.has(q.order, seq):
		return true
	case c.skipped.n >= MaxSkipped:
		return false
	}
	c.skipped.add(Entry{seq, q.order})
	c.touchDocument()
	return true
}

// skipUnlisted settles an entry that waits behind a lane's openFrom.
func (c *Cursor) skipUnlisted(q *queue, seq uint64) bool {
	return q.isUnlisted(seq) && seq <= c.high && !c.skipped.has(q.order, seq) && c.skip(q, seq)
}

// forgetSkipped removes q's skipped entries below everything that waits. It keeps those that have
// not been read again since a reload, because older entries may still come.
func (c *Cursor) forgetSkipped(q *queue) {
	if c.skipped.n == 0 {
		return
	}
	below := c.high
	if len(q.items) > 0 {
		below = min(below, q.head()-1)
	} else if open := q.openFrom(); open != 0 {
		below = min(below, open-1)
	}
	c.skipped.drop(q.order, 0, below)
}
