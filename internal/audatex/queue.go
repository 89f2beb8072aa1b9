package audatex

import (
	"container/list"
	"slices"
)

// Priority is the urgency of a request among those that wait for the vendor's budget.
type Priority int

// The priorities, the most urgent first.
const (
	// PriorityExchange is for what a person waits for at the end of a consent: the code is valid
	// for a minute only.
	PriorityExchange Priority = iota
	// PriorityRefresh is for access tokens: without one no other request can be made.
	PriorityRefresh
	// PriorityResolve is for the orders of notifications that were taken out of the vendor's queue.
	PriorityResolve
	// PriorityPoll is for polls, and for what must come before a connection's first poll.
	PriorityPoll
	// PriorityReconcile is for orders that are read again in case a notification was lost.
	PriorityReconcile

	priorities = iota
)

var priorityNames = [priorities]string{"exchange", "refresh", "resolve", "poll", "reconcile"}

// String returns the priority's name in metrics and logs.
func (p Priority) String() string { return priorityNames[p] }

// patience is how many turns in a row others may have while a request of a priority waits; the next
// turn is its own. So each priority has a share of the budget that nothing can take away, and what
// it does not need is free for the others:
//
//   - exchanges always come first. Each of them needs a person who has just consented.
//   - refreshes come next, but leave a fourth of all turns to resolving and a fifth to polls.
//   - resolving leaves a fifth of all turns to polls: an unread queue stops everything without
//     notice, and it is not known how long the vendor keeps what waits in it.
//   - reconciling gets what is left over, and one turn in fifty.
var patience = [priorities]int{
	PriorityExchange: 0, PriorityRefresh: 3, PriorityResolve: 3, PriorityPoll: 4, PriorityReconcile: 49,
}

// queue holds the requests that wait for the budget, and decides whose turn it is. It has no lock
// and no clock.
type queue struct {
	levels [priorities]level
	length int
}

// level holds the waiting requests of one priority. Connections take turns; the requests of one
// connection stay in order.
type level struct {
	lines  list.List                // of *line, the next one first
	of     map[string]*list.Element // the line of each waiting connection
	length int
	passed int // turns that others have had since this level's last one, or since it has requests
}

// line holds the waiting requests of one connection.
type line struct {
	connection string
	waiters    []*waiter
}

// waiter is one waiting request.
type waiter struct {
	priority   Priority
	connection string
	turn       chan struct{} // closed when its turn has come
}

// add appends a request.
func (q *queue) add(p Priority, connection string) *waiter {
	w := &waiter{priority: p, connection: connection, turn: make(chan struct{})}
	l := &q.levels[p]
	if l.of == nil {
		l.of = map[string]*list.Element{}
	}
	at := l.of[connection]
	if at == nil {
		at = l.lines.PushBack(&line{connection: connection})
		l.of[connection] = at
	}
	waiting := at.Value.(*line)
	waiting.waiters = append(waiting.waiters, w)
	l.length++
	q.length++
	return w
}

// chosen returns the priority whose turn it is, and whether that is by its guaranteed share. It
// returns a negative priority if nothing waits.
func (q *queue) chosen() (p Priority, guaranteed bool) {
	p = -1
	for i := range q.levels {
		if q.levels[i].lines.Len() == 0 {
			continue
		}
		if q.levels[i].passed >= patience[i] {
			return Priority(i), true
		}
		if p < 0 {
			p = Priority(i)
		}
	}
	return p, false
}

// next removes and returns the request whose turn it is, or nil.
func (q *queue) next() *waiter {
	chosen, _ := q.chosen()
	if chosen < 0 {
		return nil
	}
	for p := range q.levels {
		if Priority(p) != chosen && q.levels[p].lines.Len() > 0 {
			q.levels[p].passed++
		}
	}
	l := &q.levels[chosen]
	l.passed = 0
	at := l.lines.Front()
	waiting := at.Value.(*line)
	w := waiting.waiters[0]
	l.lines.MoveToBack(at)
	q.remove(w)
	return w
}

// remove removes a request that no longer waits. It returns false if the request has had its turn.
func (q *queue) remove(w *waiter) bool {
	l := &q.levels[w.priority]
	at := l.of[w.connection]
	if at == nil {
		return false
	}
	waiting := at.Value.(*line)
	i := slices.Index(waiting.waiters, w)
	if i < 0 {
		return false
	}
	waiting.waiters = slices.Delete(waiting.waiters, i, i+1)
	if len(waiting.waiters) == 0 {
		l.lines.Remove(at)
		delete(l.of, w.connection)
	}
	if l.lines.Len() == 0 {
		l.passed = 0
	}
	l.length--
	q.length--
	return true
}
