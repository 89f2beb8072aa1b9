package roster

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// scripted is a task of a test: it counts its turns, each of which takes a while, and ends when it is told to.
type scripted struct {
	task
	turns  atomic.Int64
	within atomic.Int64
	most   atomic.Int64 // turns of its own at once
	took   time.Duration
	wait   time.Duration
	ends   atomic.Bool
	last   atomic.Int64
}

func newScripted(wait, took time.Duration) *scripted {
	s := &scripted{wait: wait, took: took}
	s.turn = func() (time.Duration, bool) {
		s.most.Store(max(s.most.Load(), s.within.Add(1)))
		defer s.within.Add(-1)
		s.turns.Add(1)
		s.last.Store(time.Now().UnixNano())
		if s.took > 0 {
			pass(s.took)
		}
		return s.wait, !s.ends.Load()
	}
	return s
}

func (s *scripted) end(t *turns) {
	s.ends.Store(true)
	t.wake(&s.task)
}

func TestATurnIsTakenWhenItIsDueAndWhenItIsWanted(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var all turns
		s := newScripted(5*time.Minute, 0)
		expect := func(turns int64, when string) {
			t.Helper()
			synctest.Wait()
			if n := s.turns.Load(); n != turns {
				t.Fatalf("%s: %d turns, want %d", when, n, turns)
			}
		}
		all.wake(&s.task)
		expect(0, "woken before it has begun")
		all.begin(&s.task)
		expect(1, "begun")
		pass(5*time.Minute - time.Second)
		expect(1, "not due yet")
		pass(time.Second + lateMost)
		expect(2, "due")
		all.wake(&s.task)
		expect(3, "woken")
		pass(5*time.Minute + lateMost)
		expect(4, "due again, counted from the turn before")
		s.end(&all)
		expect(5, "the last")
		all.wake(&s.task)
		pass(time.Hour)
		expect(5, "after its end")
	})
}

// What is reported during a turn may have come too late for it.
func TestATaskThatIsWokenAtItsTurnHasAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var all turns
		s := newScripted(time.Hour, 10*time.Second)
		all.begin(&s.task)
		synctest.Wait()
		for range 3 {
			all.wake(&s.task)
		}
		pass(15 * time.Second)
		if n, most := s.turns.Load(), s.most.Load(); n != 2 || most != 1 {
			t.Errorf("%d turns, %d at once; want the one and the other", n, most)
		}
		pass(10 * time.Second)
		if n := s.turns.Load(); n != 2 {
			t.Errorf("%d turns", n)
		}
		s.end(&all)
		pass(time.Minute)
	})
}

// A turn that hangs keeps nobody else from theirs.
func TestTurnsDoNotWaitForOneAnother(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var all turns
		var slow, quick []*scripted
		for range 10 * keptWorkers {
			slow, quick = append(slow, newScripted(time.Second, time.Hour)), append(quick, newScripted(time.Second, 0))
		}
		for i := range slow {
			all.begin(&slow[i].task)
			all.begin(&quick[i].task)
		}
		pass(time.Minute)
		for _, s := range quick {
			if n := s.turns.Load(); n < 55 {
				t.Fatalf("%d turns in a minute, with one due every second", n)
			}
			s.end(&all)
		}
		for _, s := range slow {
			s.end(&all)
		}
		pass(time.Hour)
		synctest.Wait()
		if all.schedule.tasks != 0 || len(all.schedule.idle) != 0 || len(all.schedule.due) != 0 {
			t.Errorf("%d tasks, %d workers, %d due after the end",
				all.schedule.tasks, len(all.schedule.idle), len(all.schedule.due))
		}
	})
}

// Turns of many tasks come in few moments, none early and none later than the part of its wait.
func TestTurnsThatAreDueTogetherAreTakenTogether(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var all turns
		var mu sync.Mutex
		moments := map[time.Time]int{}
		var tasks []*task
		const n = 1000
		wait := 5 * time.Minute
		for range n {
			k, due := &task{}, time.Time{}
			k.turn = func() (time.Duration, bool) {
				if now := time.Now(); !due.IsZero() {
					if late := now.Sub(due); late < 0 || late > min(wait/latePart, lateMost) {
						t.Errorf("taken %s late", late)
					}
					mu.Lock()
					defer mu.Unlock()
					moments[now]++
					return 0, false
				}
				due = time.Now().Add(wait)
				return wait, true
			}
			tasks = append(tasks, k)
		}
		for _, k := range tasks {
			pass(10 * time.Millisecond) // ten seconds in all
			all.begin(k)
		}
		pass(2 * wait)
		mu.Lock()
		defer mu.Unlock()
		if len(moments) > 50 {
			t.Errorf("%d turns in %d moments", n, len(moments))
		}
	})
}

// Whatever is woken, ends and takes its time in whatever order: a task has one turn at once, one after each
// waking, and none after its end.
func TestTurnsInvariants(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		rapid.Check(bubbled{t}, func(rt *rapid.T) {
			var all turns
			tasks := make([]*scripted, rapid.IntRange(1, 40).Draw(rt, "tasks"))
			for i := range tasks {
				wait := time.Duration(rapid.IntRange(0, 100).Draw(rt, "wait")+1) * 100 * time.Millisecond
				tasks[i] = newScripted(wait, time.Duration(rapid.IntRange(0, 3).Draw(rt, "took"))*time.Second)
				all.begin(&tasks[i].task)
			}
			for range rapid.IntRange(1, 60).Draw(rt, "steps") {
				s := tasks[rapid.IntRange(0, len(tasks)-1).Draw(rt, "task")]
				switch rapid.SampledFrom([]string{"wake", "wake", "pass", "end"}).Draw(rt, "step") {
				case "wake":
					before := s.turns.Load()
					all.wake(&s.task)
					pass(2*s.took + time.Nanosecond)
					synctest.Wait()
					if !s.ends.Load() && s.turns.Load() == before {
						rt.Fatal("woken, and no turn")
					}
				case "pass":
					pass(time.Duration(rapid.IntRange(0, 20).Draw(rt, "seconds")) * time.Second)
				case "end":
					s.end(&all)
				}
			}
			synctest.Wait()
			for _, s := range tasks {
				if !s.ends.Load() && time.Since(time.Unix(0, s.last.Load())) > s.wait+s.took+lateMost {
					rt.Fatalf("no turn for longer than its wait of %s", s.wait)
				}
				s.end(&all)
			}
			pass(time.Minute)
			synctest.Wait()
			for _, s := range tasks {
				if s.most.Load() > 1 {
					rt.Fatalf("%d turns of one task at once", s.most.Load())
				}
			}
			if all.schedule.tasks != 0 || len(all.schedule.idle) != 0 || len(all.schedule.due) != 0 {
				rt.Fatalf("%d tasks, %d workers, %d due after the end",
					all.schedule.tasks, len(all.schedule.idle), len(all.schedule.due))
			}
		})
	})
}

// bubbled hides what may not be called of a testing.T in a synctest bubble.
type bubbled struct{ testing.TB }

// pass lets virtual time pass.
func pass(d time.Duration) { <-time.After(d) }
