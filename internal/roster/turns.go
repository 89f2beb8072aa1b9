package roster

import (
	"container/heap"
	"math/bits"
	"sync"
	"time"
)

const (
	// keptWorkers is how many goroutines wait for the next turn. Their stacks have grown to what a turn needs.
	keptWorkers = 16
	// A turn may be late by a part of its wait, at most by lateMost: those that are due at about the same
	// time are taken together, for one wake-up of the process.
	latePart = 1024
	lateMost = time.Duration(1 << 28) // about a quarter of a second
)

// turns has tasks take their turns, each when it is due or was woken, on goroutines that are used again. So a
// task that waits costs no goroutine, and a turn no growing of a stack. A turn may take as long as it likes,
// others do not wait for it.
type turns struct {
	mu       sync.Mutex
	schedule schedule
}

// task is one that takes turns.
type task struct {
	// turn does what is due and returns how long there is nothing else; false: the task has ended.
	turn  func() (time.Duration, bool)
	phase phase
	at    time.Time // of the next turn
	index int       // within the agenda
}

// phase is where a task is between two turns.
type phase int

const (
	apart   phase = iota // not begun, or ended
	waiting              // for its time
	atTurn
	again // at its turn, and woken meanwhile
)

// begin gives a task its first turn, at once.
func (t *turns) begin(k *task) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.schedule.work == nil {
		t.schedule = schedule{work: t.work, fire: t.fire, since: time.Now()}
	}
	t.schedule.begin(k)
}

// wake gives a task a turn at once, or another one after that under way. It does nothing before begin and
// after the end.
func (t *turns) wake(k *task) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.schedule.wake(k)
}

// work takes turns until there is nothing to keep the goroutine for.
func (t *turns) work(k *task) {
	given := make(chan *task, 1)
	for k != nil {
		if wait, more := k.turn(); !t.took(k, wait, more, given) {
			return
		}
		k = <-given
	}
}

func (t *turns) took(k *task, wait time.Duration, more bool, given chan *task) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.schedule.took(k, wait, more, given)
}

// fire gives their turns to all that are due.
func (t *turns) fire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.schedule.giveDue()
}

// schedule decides whose turn it is. It is used by one goroutine at a time.
type schedule struct {
	work func(*task) // a new worker, beginning with this task
	fire func()      // what the timer calls

	tasks int // that have not ended
	due   agenda
	timer *time.Timer
	fires time.Time    // when timer does; zero: it does not
	idle  []chan *task // workers that wait, the one used last at the end
	since time.Time    // what late turns are rounded from
}

func (s *schedule) begin(k *task) {
	s.tasks++
	s.give(k)
}

func (s *schedule) wake(k *task) {
	switch k.phase {
	case waiting:
		heap.Remove(&s.due, k.index)
		s.give(k)
	case atTurn:
		k.phase = again
	case apart, again:
	}
}

// give gives a task's turn to a worker.
func (s *schedule) give(k *task) {
	k.phase = atTurn
	if n := len(s.idle); n > 0 {
		s.idle[n-1] <- k
		s.idle = s.idle[:n-1]
		return
	}
	go s.work(k)
}

// took notes a task's turn, and reports whether its worker will be given another: through given, which is
// closed with the last task.
func (s *schedule) took(k *task, wait time.Duration, more bool, given chan *task) bool {
	switch {
	case !more:
		k.phase = apart
		if s.tasks--; s.tasks == 0 {
			s.endWorkers()
			return false
		}
	case k.phase == again:
		k.phase = atTurn
		given <- k
		return true
	default:
		k.phase, k.at = waiting, s.dueIn(wait)
		heap.Push(&s.due, k)
		s.setTimer()
	}
	if len(s.idle) == keptWorkers {
		return false
	}
	s.idle = append(s.idle, given)
	return true
}

// endWorkers lets all workers end, as there is no task left.
func (s *schedule) endWorkers() {
	for _, w := range s.idle {
		close(w)
	}
	s.idle = nil
	if s.timer != nil {
		s.timer.Stop()
		s.fires = time.Time{}
	}
}

// dueIn returns when a turn is taken that is due in a while.
func (s *schedule) dueIn(wait time.Duration) time.Time {
	now := time.Now()
	if late := min(wait/latePart, lateMost); late > 0 {
		grid := time.Duration(1) << (bits.Len64(uint64(late)) - 1)
		at := now.Sub(s.since) + wait
		wait += (at + grid - 1).Truncate(grid) - at
	}
	return now.Add(wait)
}

// setTimer sets the timer to the next turn that is due.
func (s *schedule) setTimer() {
	if len(s.due) == 0 {
		return
	}
	next := s.due[0].at
	if !s.fires.IsZero() && !next.Before(s.fires) {
		return
	}
	s.fires = next
	if s.timer == nil {
		s.timer = time.AfterFunc(time.Until(next), s.fire)
		return
	}
	s.timer.Reset(time.Until(next))
}

// giveDue gives their turns to all that are due.
func (s *schedule) giveDue() {
	s.fires = time.Time{}
	for now := time.Now(); len(s.due) > 0 && !s.due[0].at.After(now); {
		s.give(heap.Pop(&s.due).(*task))
	}
	s.setTimer()
}

// agenda is a heap of tasks by the time of their turns.
type agenda []*task

func (a agenda) Len() int           { return len(a) }
func (a agenda) Less(i, j int) bool { return a[i].at.Before(a[j].at) }

func (a agenda) Swap(i, j int) {
	a[i], a[j] = a[j], a[i]
	a[i].index, a[j].index = i, j
}

// Push implements heap.Interface.
func (a *agenda) Push(k any) {
	*a = append(*a, k.(*task))
	(*a)[len(*a)-1].index = len(*a) - 1
}

// Pop implements heap.Interface.
func (a *agenda) Pop() any {
	n := len(*a) - 1
	k := (*a)[n]
	(*a)[n] = nil
	*a = (*a)[:n]
	return k
}
