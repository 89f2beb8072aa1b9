package audatex

import "time"

// backlogAgain is how long at most a request that is held back waits before it is looked at whether the backlog is gone.
const backlogAgain = 250 * time.Millisecond

// backlog holds polls back while notifications that were fetched wait to be worked on, for whatever but the vendor's budget: another
// poll would only add to them, and what it would bring waits as well at the vendor. Polls keep their guaranteed part of the rate, so
// that no queue stays unread for long.
type backlog struct {
	there func() bool // nil: there never is one
	part  bucket      // the guaranteed part of the rate
}

// OnBacklog has polls, and what is less urgent, kept to the polls' guaranteed part of the rate while there reports that notifications
// wait to be worked on. It is called often and must neither wait nor use the budget.
func (b *Budget) OnBacklog(there func() bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.backlog.there = there
}

// holds reports whether a request of a priority may be held back now; mu is held.
func (b *Budget) holds(p Priority) bool {
	return p >= PriorityPoll && b.limited && b.backlog.there != nil && b.backlog.there()
}

// held returns for how long the request whose turn it is next is held back; mu is held.
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
