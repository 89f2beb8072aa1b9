package audatex

import "time"

// backlogAgain is how often it is checked whether a backlog that holds requests back is gone.
const backlogAgain = 250 * time.Millisecond

// backlog holds polls back while fetched notifications wait to be worked on, for any reason but the
// vendor's budget. Another poll would only add to them, and its notifications can just as well wait
// at the vendor. Polls keep their guaranteed part of the rate, so that no queue stays unread for
// long.
type backlog struct {
	there func() bool // nil if there is never a backlog
	part  bucket      // the guaranteed part of the rate
}

// OnBacklog limits polls, and less urgent requests, to the polls' guaranteed part of the rate while
// there reports that notifications wait to be worked on. there is called often, and must neither
// wait nor use the budget.
func (b *Budget) OnBacklog(there func() bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backlog.there = there
}

// holds reports whether a request of a priority may be held back now. The caller must hold
// mu.
func (b *Budget) holds(p Priority) bool {
	return p >= PriorityPoll && b.limited && b.backlog.there != nil && b.backlog.there()
}

// held returns for how long the next request is held back. The caller must hold mu.
func (b *Budget) held(now time.Time) time.Duration {
	p, guaranteed := b.waiting.chosen()
	if !b.holds(p) {
		return 0
	}
	part := &b.backlog.part
	if perSecond := b.slowed(now) / float64(patience[PriorityPoll]+1); perSecond != part.perSecond {
		part.change(now, perSecond, 1)
	}
	if guaranteed {
		return 0
	}
	return min(part.wait(now), backlogAgain)
}
