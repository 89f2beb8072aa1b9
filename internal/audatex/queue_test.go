package audatex

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// TestNoPriorityStarves: for all waiting requests, in any order of arrival and departure, the head
// of each priority has its turn within its patience and one turn for each priority before it, and
// an exchange at once. Connections of one priority take turns. One connection's requests keep their
// order.
func TestNoPriorityStarves(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var q queue
		waiting := map[*waiter]int{} // number of the request
		var passed [priorities]int
		type line struct {
			priority   Priority
			connection string
		}
		since := map[line]map[string]*waiter{} // who had a turn since a waiting connection's last
		number := 0
		add := func(t *rapid.T) {
			p := Priority(rapid.IntRange(0, priorities-1).Draw(t, "priority"))
			connection := fmt.Sprint("c", rapid.IntRange(0, 3).Draw(t, "connection"))
			for range rapid.IntRange(1, 8).Draw(t, "requests") {
				number++
				waiting[q.add(p, connection)] = number
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"add": add,
			"cancel": func(*rapid.T) {
				for w := range waiting {
					if !q.remove(w) {
						t.Fatal("a waiting request is not in the queue")
					}
					if q.remove(w) {
						t.Fatal("a request was removed twice")
					}
					delete(waiting, w)
					return
				}
			},
			"turns": func(t *rapid.T) {
				for range rapid.IntRange(1, 200).Draw(t, "turns") {
					w := q.next()
					if w == nil {
						if len(waiting) > 0 {
							t.Fatalf("nobody has a turn while %d wait", len(waiting))
						}
						return
					}
					mine := waiting[w]
					delete(waiting, w)
					var there [priorities]bool
					for other, n := range waiting {
						there[other.priority] = true
						if other.priority == w.priority && other.connection == w.connection && n < mine {
							t.Fatal("a later request of the same connection had its turn first")
						}
					}
					if there[PriorityExchange] && w.priority != PriorityExchange {
						t.Fatalf("a %s had its turn before an exchange", w.priority)
					}
					for p := range passed {
						if !there[p] || Priority(p) == w.priority {
							passed[p] = 0
							continue
						}
						if w.priority == PriorityExchange { // which nobody can keep coming
							continue
						}
						if passed[p]++; passed[p] > patience[p]+priorities {
							t.Fatalf("%d turns went to others while a %s waited", passed[p], Priority(p))
						}
					}
					for other := range waiting {
						if other.priority != w.priority || other.connection == w.connection {
							continue
						}
						name := line{other.priority, other.connection}
						if since[name] == nil {
							since[name] = map[string]*waiter{}
						}
						if before := since[name][w.connection]; before != nil && before != w {
							t.Fatalf("%s had two turns while %s waited", w.connection, other.connection)
						}
						since[name][w.connection] = w
					}
					delete(since, line{w.priority, w.connection})
				}
			},
			"": func(t *rapid.T) {
				there := map[line]bool{}
				for w := range waiting {
					there[line{w.priority, w.connection}] = true
				}
				for name := range since {
					if !there[name] {
						delete(since, name)
					}
				}
				if q.length != len(waiting) {
					t.Fatalf("%d in the queue, %d wait", q.length, len(waiting))
				}
			},
		})
	})
}

// TestTheMoreUrgentRequestGoesFirst: requests of all priorities come in the wrong order while
// nothing may be sent.
func TestTheMoreUrgentRequestGoesFirst(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(60)
		went := make(chan Priority, priorities)
		for p := range Priority(priorities) {
			go func() {
				if b.Wait(t.Context(), priorities-1-p, "leeds") == nil {
					went <- priorities - 1 - p
				}
			}()
			synctest.Wait()
		}
		for p := range Priority(priorities) {
			if got := <-went; got != p {
				t.Errorf("%s went in the place of %s", got, p)
			}
		}
	})
}

// TestAStormOfOneConnectionLeavesTheOthersTheirPolls: one connection has orders to read for hours
// under the default rate. A hundred others are polled every five minutes all the same, and other
// connections' orders take turns with its own.
func TestAStormOfOneConnectionLeavesTheOthersTheirPolls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const others, rounds = 90, 4
		b := NewBudget(100)
		stop := make(chan struct{})
		for range 8 {
			go func() {
				for {
					select {
					case <-stop:
						return
					default:
						_ = b.Wait(t.Context(), PriorityResolve, "storm")
					}
				}
			}()
		}
		longest, done := make(chan time.Duration, 1), make(chan struct{}, others+1)
		longest <- 0
		for i := range others {
			go func() {
				pass(time.Duration(i) * 5 * time.Minute / others)
				next := time.Now()
				for range rounds {
					pass(time.Until(next))
					asked := time.Now()
					_ = b.Wait(t.Context(), PriorityPoll, fmt.Sprint("other", i))
					longest <- max(<-longest, time.Since(asked))
					next = next.Add(5 * time.Minute)
				}
				done <- struct{}{}
			}()
		}
		go func() {
			for range rounds {
				pass(5 * time.Minute)
				asked := time.Now()
				_ = b.Wait(t.Context(), PriorityResolve, "leeds")
				if took := time.Since(asked); took > 10*time.Second {
					t.Errorf("an order of another connection waited %s", took)
				}
			}
			done <- struct{}{}
		}()
		for range others + 1 {
			<-done
		}
		close(stop)
		if d := <-longest; d > 30*time.Second {
			t.Errorf("a poll waited %s", d)
		}
	})
}
