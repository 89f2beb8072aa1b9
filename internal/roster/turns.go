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
	mu    sync.Mutex
	tasks int // that have not ended
	due   agenda
	timer *time.Timer
	fires time.Time    // when timer does; zero: it does not
	idle  []chan *task // workers that wait, the one used last at the end
	since time.Time    // what late turns are rounded from
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
	if t.tasks++; t.since.IsZero() {
		t.since = time.Now()
	}
	t.hand(k)
}

// wake gives a task a turn at once, or another one after that under way. It does nothing before begin and
// after the end.
func (t *turns) wake(k *task) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch k.phase {
	case waiting:
		heap.Remove(&t.due, k.index)
		t.hand(k)
	case atTurn:
		k.phase = again
	case apart, again:
	}
}

// hand gives a task's turn to a worker; mu is held.
func (t *turns) hand(k *task) {
	k.phase = atTurn
	if n := len(t.idle); n > 0 {
		t.idle[n-1] <- k
		t.idle = t.idle[:n-1]
		return
	}
	go t.work(k)
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

// took notes a task's turn, and reports whether its worker will be given another: through given, which is
// closed with the last task.
func (t *turns) took(k *task, wait time.Duration, more bool, given chan *task) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case !more:
		k.phase = apart
		if t.tasks--; t.tasks == 0 {
			t.rest()
			return false
		}
	case k.phase == again:
		k.phase = atTurn
		given <- k
		return true
	default:
		k.phase, k.at = waiting, t.dueIn(wait)
		heap.Push(&t.due, k)
		t.arm()
	}
	if len(t.idle) == keptWorkers {
		return false
	}
	t.idle = append(t.idle, given)
	return true
}

// rest lets all workers end, as there is no task left; mu is held.
func (t *turns) rest() {
	for _, w := range t.idle {
		close(w)
	}
	t.idle = nil
	if t.timer != nil {
		t.timer.Stop()
		t.fires = time.Time{}
	}
}

// dueIn returns when a turn is taken that is due in a while; mu is held.
func (t *turns) dueIn(wait time.Duration) time.Time {
	now := time.Now()
	if late := min(wait/latePart, lateMost); late > 0 {
		grid := time.Duration(1) << (bits.Len64(uint64(late)) - 1)
		at := now.Sub(t.since) + wait
		wait += (at + grid - 1).Truncate(grid) - at
	}
	return now.Add(wait)
}

// arm sets the timer to the next turn that is due; mu is held.
func (t *turns) arm() {
	if len(t.due) == 0 {
		return
	}
	next := t.due[0].at
	if !t.fires.IsZero() && !next.Before(t.fires) {
		return
	}
	t.fires = next
	if t.timer == nil {
		t.timer = time.AfterFunc(time.Until(next), t.fire)
		return
	}
	t.timer.Reset(time.Until(next))
}

// fire gives their turns to all that are due.
func (t *turns) fire() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.fires = time.Time{}
	for now := time.Now(); len(t.due) > 0 && !t.due[0].at.After(now); {
		t.hand(heap.Pop(&t.due).(*task))
	}
	t.arm()
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
