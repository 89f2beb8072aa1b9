package cursor

import (
	"fmt"
	"testing"
	"time"
)

var probing = Policy{
	Concurrency: 4, Schedule: []time.Duration{time.Hour}, Forever: true,
	CircuitFailures: 3, ProbeSchedule: []time.Duration{5 * time.Second, 5 * time.Minute},
}

// opened returns a cursor whose circuit has just opened, with a1 and b2 in lanes and c3 fresh.
func opened(t *testing.T) *Cursor {
	t.Helper()
	c := New(probing)
	offer(t, c, "a1", "b2", "c3", "d4")
	a, b, third := take(t, c, t0, 1, "a", 1), take(t, c, t0, 1, "b", 2), take(t, c, t0, 1, "c", 3)
	take(t, c, t0, 1, "d", 4)
	c.Settle("d", 4)
	c.Fail(a, t0, Failure{})
	c.Fail(b, t0, Failure{})
	c.Release(third)
	c.Retry("a", t0)
	wantEqual(t, "state", c.State(), Failing)
	for {
		b, _ := c.Take(t0, 1)
		if b.Order == "a" {
			c.Fail(b, t0, Failure{})
			break
		}
		defer c.Release(b)
	}
	return c
}

func TestCircuitOpensOverSeveralOrdersOnly(t *testing.T) {
	t.Parallel()
	p := probing
	p.Schedule = []time.Duration{0}
	c := New(p)
	offer(t, c, "a1", "b2")
	b := take(t, c, t0, 1, "a", 1)
	for range 20 {
		c.Fail(b, t0, Failure{})
		c.Retry("a", t0)
		b, _ = c.Take(t0, 1)
		if b.Order == "b" {
			c.Release(b)
			b, _ = c.Take(t0, 1)
		}
	}
	wantEqual(t, "open with failures of one order", c.Health().Open, false)
	c.Release(b)
	for b.Order != "b" {
		b, _ = c.Take(t0, 1)
		defer c.Release(b)
	}
	c.Fail(b, t0, Failure{})
	wantEqual(t, "open with failures of two", c.Health().Open, true)
}

func TestSuccessBetweenKeepsTheCircuitClosed(t *testing.T) {
	t.Parallel()
	for _, local := range []bool{false, true} {
		c := New(probing)
		offer(t, c, "a1", "b2", "c3", "d4")
		a, b, x, d := take(t, c, t0, 1, "a", 1), take(t, c, t0, 1, "b", 2), take(t, c, t0, 1, "c", 3),
			take(t, c, t0, 1, "d", 4)
		c.Fail(a, t0, Failure{})
		c.Fail(b, t0, Failure{})
		if local {
			c.Fail(x, t0, Failure{Local: true}) // a response, though no success
		} else {
			c.Succeed(x, t0)
		}
		c.Fail(d, t0, Failure{})
		wantEqual(t, "open", c.Health().Open, false)
		wantEqual(t, "failures", c.Health().Failures, 1)
	}
}

func TestProbes(t *testing.T) {
	t.Parallel()
	c := opened(t)
	wantEqual(t, "state", c.State(), Open)
	wantDue(t, c, t0, t0.Add(5*time.Second))
	takeNone(t, c, t0.Add(4*time.Second))

	now := t0.Add(5 * time.Second)
	b := take(t, c, now, 10, "a", 1) // the oldest
	if !b.Probe || b.LastTry {
		t.Fatalf("%+v", b)
	}
	takeNone(t, c, now.Add(time.Hour)) // one at a time
	attempts, _ := c.Lane("a")
	wantEqual(t, "next probe", c.Fail(b, now, Failure{}).Next, now.Add(5*time.Minute))
	after, _ := c.Lane("a")
	wantEqual(t, "attempts of the lane", after.Attempts, attempts.Attempts)

	c = reload(t, c, probing, now) // the circuit outlives a crash
	offer(t, c, "c3")
	wantDue(t, c, now, now.Add(5*time.Minute))
	now = now.Add(5 * time.Minute)
	b = take(t, c, now, 1, "c", 3) // then one that was never tried
	c.Fail(b, now, Failure{RetryAfter: time.Hour})
	wantEqual(t, "lanes", c.Lanes(), 2) // a failed probe makes no lane
	takeNone(t, c, now.Add(5*time.Minute))
	now = now.Add(time.Hour)
	b = take(t, c, now, 1, "a", 1)
	c.Fail(b, now, Failure{})
	now = now.Add(5 * time.Minute)
	c.Fail(take(t, c, now, 1, "c", 3), now, Failure{})
	now = now.Add(5 * time.Minute)
	b = take(t, c, now, 1, "a", 1) // after c there is no older one: round again
	c.Release(b)
	wantEqual(t, "probes", c.Health().Probes, 4)
	b = take(t, c, now, 1, "b", 2)

	// A response: closed, everything due, starting slowly.
	c.Succeed(b, now)
	wantEqual(t, "state", c.State(), Failing)
	wantEqual(t, "health", c.Health(), Health{})
	take(t, c, now, 1, "c", 3)
	takeNone(t, c, now)
	c.Settle("c", 3)
	x := take(t, c, now, 1, "a", 1)
	takeNone(t, c, now)
	c.Succeed(x, now)
}

func TestSlowStart(t *testing.T) {
	t.Parallel()
	c := New(Policy{Concurrency: 5})
	for i := range 40 {
		c.Offer(Entry{uint64(i + 1), string(rune('A' + i))})
	}
	c.ResumeAll(t0)
	for _, want := range []int{1, 2, 4, 5, 5} {
		var bs []Batch
		for b, ok := c.Take(t0, 1); ok; b, ok = c.Take(t0, 1) {
			bs = append(bs, b)
		}
		wantEqual(t, "in flight", len(bs), want)
		c.Succeed(bs[0], t0)
		for _, b := range bs[1:] {
			c.Release(b)
		}
	}
}

func TestResumedLanesAreDueAfterACrash(t *testing.T) {
	t.Parallel()
	p := probing
	p.CircuitFailures = 0
	c := New(p)
	offer(t, c, "a1", "b2")
	a, b := take(t, c, t0, 1, "a", 1), take(t, c, t0, 1, "b", 2)
	c.Fail(a, t0, Failure{})
	c.Fail(b, t0, Failure{})
	stored := c.Changes()
	c.Stored(stored)
	later := t0.Add(time.Minute)
	c.ResumeAll(later)
	ch := c.Changes()
	if len(ch.Lanes) != 0 || ch.Document == nil {
		t.Fatalf("resuming is to cost one document: %+v", ch)
	}
	c, err := Load(p, *ch.Document, stored.Lanes, later)
	if err != nil {
		t.Fatal(err)
	}
	c.Fail(take(t, c, later, 1, "a", 1), later, Failure{})
	c = reload(t, c, p, later)
	take(t, c, later, 1, "b", 2)
	takeNone(t, c, later) // a was tried since
}

func TestRetryWhileOpen(t *testing.T) {
	t.Parallel()
	c := opened(t)
	wantEqual(t, "retry", c.Retry("b", t0), true)
	b := take(t, c, t0, 1, "b", 2)
	wantEqual(t, "probe", b.Probe, true)
}

func TestProbeThatIsRefusedForItselfClosesTheCircuit(t *testing.T) {
	t.Parallel()
	c := opened(t)
	now := t0.Add(5 * time.Second)
	b := take(t, c, now, 1, "a", 1)
	l, _ := c.Lane("a")
	c.Fail(b, now, Failure{Reason: "404", Local: true})
	wantEqual(t, "open", c.Health().Open, false)
	after, _ := c.Lane("a")
	wantEqual(t, "attempts", after.Attempts, l.Attempts)
}

// A receiver that refuses two old orders and would take any new one must get the new one, in spite
// of the circuit.
func TestPoisonDoesNotStarveTheOthers(t *testing.T) {
	t.Parallel()
	p := Policy{Concurrency: 2, Schedule: []time.Duration{time.Minute}, Forever: true, CircuitFailures: 2}
	c := New(p)
	offer(t, c, "a1", "b2")
	c.Fail(take(t, c, t0, 1, "a", 1), t0, Failure{})
	c.Fail(take(t, c, t0, 1, "b", 2), t0, Failure{})
	wantEqual(t, "open", c.Health().Open, true)
	now, seq := t0, uint64(3)
	for range 20 {
		wantEqual(t, "verdict", c.Offer(Entry{seq, "c"}), Accepted)
		delivered := false
		for n := 0; !delivered; n++ {
			if n > 10 {
				t.Fatalf("%d is not delivered after %d attempts of others", seq, n)
			}
			at, _ := c.NextDue(now)
			if at.After(now) {
				now = at
			}
			b, ok := c.Take(now, 1)
			if !ok {
				t.Fatal("nothing to take")
			}
			if b.Order == "c" {
				c.Succeed(b, now)
				delivered = true
			} else {
				c.Fail(b, now, Failure{})
			}
		}
		seq++
	}
}

func TestLittleIsHeldWhileOpen(t *testing.T) {
	t.Parallel()
	c := opened(t)
	n, seq := c.Unsettled(), uint64(10)
	for ; c.Offer(Entry{seq, "z"}) != Full; seq++ {
	}
	if held := c.Unsettled() - n; held > openWindow {
		t.Fatalf("%d entries are held while open", held)
	}
	wantEqual(t, "room", c.Room(), false)
}

// Attempts that are made before their time (after a resume, a test, a retry, when the circuit closes) do not use up
// those of the schedule, and leave them when they are due, also after a crash.
func TestAnEarlyAttemptIsNotCounted(t *testing.T) {
	t.Parallel()
	p := Policy{Concurrency: 4, Schedule: []time.Duration{time.Hour, time.Hour}}
	for name, hurry := range map[string]func(*Cursor, time.Time){
		"resume": (*Cursor).ResumeAll,
		"test":   (*Cursor).Answers,
		"retry":  func(c *Cursor, now time.Time) { c.Retry("a", now) },
		"success of a probe": func(c *Cursor, now time.Time) {
			c.health.Open = true
			c.answered(now)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, now := New(p), t0
			offer(t, c, "a1")
			for counted := range 3 {
				r := c.Fail(take(t, c, now, 1, "a", 1), now, Failure{})
				if counted == 2 {
					wantEqual(t, "outcome of the last", r.Outcome, Exhausted)
					return
				}
				failing, due := c.Health().FailingSince, r.Next
				for range 10 {
					now = now.Add(5 * time.Minute)
					hurry(c, now)
					c = reload(t, c, p, now)
					b := take(t, c, now, 1, "a", 1)
					wantEqual(t, "last try", b.LastTry, false)
					r := c.Fail(b, now, Failure{})
					wantEqual(t, "outcome", r, Result{Retrying, due})
					c = reload(t, c, p, now)
					takeNone(t, c, now)
					wantDue(t, c, now, due)
				}
				if name == "test" {
					wantEqual(t, "failing since", c.Health().FailingSince, failing)
				}
				lane, _ := c.Lane("a")
				wantEqual(t, "attempts", lane.Attempts, counted+1)
				hurry(c, now)
				now = due // what is made at its time is counted, also if it was due before
			}
		})
	}
}

// A failure that has ended without a success, as its event failed for good or was skipped, does not add to one that
// comes a week later; nor does time in which nothing could be sent.
func TestFailingSinceHasOnlyTimeInWhichSomethingWaits(t *testing.T) {
	t.Parallel()
	week := t0.Add(7 * 24 * time.Hour)
	fails := func(t *testing.T, c *Cursor, seq uint64, order string, now time.Time) {
		t.Helper()
		c.Fail(take(t, c, now, 1, order, seq), now, Failure{})
	}
	for name, end := range map[string]func(c *Cursor){
		"skipped":       func(c *Cursor) { c.Settle("a", 1) },
		"expired":       func(c *Cursor) { c.ExpireBelow(2) },
		"taken back":    func(c *Cursor) { c.Clamp(0) },
		"after a pause": (*Cursor).ForgetFailingSince,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := New(probing)
			offer(t, c, "a1")
			fails(t, c, 1, "a", t0)
			wantEqual(t, "failing since", c.Health().FailingSince, t0)
			end(c)
			wantEqual(t, "failing since when it is over", c.Health().FailingSince, time.Time{})
			c = reload(t, c, probing, week)
			if name == "after a pause" {
				fails(t, c, 1, "a", week)
			} else {
				offer(t, c, "b2")
				fails(t, c, 2, "b", week)
			}
			wantEqual(t, "failing since after the next failure", c.Health().FailingSince, week)
			wantEqual(t, "failures in a row", c.Health().Failures, 2)
		})
	}
}

// A circuit that is open when the last event that waits is skipped stays open, and is closed by the next success.
func TestAnOpenCircuitOutlivesWhatWaited(t *testing.T) {
	t.Parallel()
	c := opened(t)
	c.Settle("a", 1)
	c.Settle("b", 2)
	c.Settle("c", 3)
	wantEqual(t, "health", c.Health().Open && c.Health().FailingSince.IsZero(), true)
	offer(t, c, "e5")
	b := take(t, c, t0.Add(5*time.Second), 1, "e", 5)
	wantEqual(t, "probe", b.Probe, true)
	c.Succeed(b, t0.Add(5*time.Second))
	wantEqual(t, "health", c.Health(), Health{})
}

// A receiver that refuses many orders for good and takes all others gets those, while the refused ones wait.
func TestManyRefusedOrdersDoNotHoldUpTheOthers(t *testing.T) {
	t.Parallel()
	const refused, others = 40, 20
	c := New(Policy{Concurrency: 4, Schedule: []time.Duration{5 * time.Second, 5 * time.Minute, 30 * time.Minute,
		2 * time.Hour}, Forever: true, CircuitFailures: 5})
	bad := func(order string) bool { return order[0] == 'x' }
	for i := range refused + others {
		kind := 'x'
		if i >= refused {
			kind = 'o'
		}
		wantEqual(t, "offer", c.Offer(Entry{Seq: uint64(i + 1), Order: fmt.Sprintf("%c%d", kind, i)}), Accepted)
	}
	now, accepted, attempts := t0, 0, 0
	for accepted < others {
		b, ok := c.Take(now, 1)
		if !ok {
			at, due := c.NextDue(now)
			if !due || at.Sub(t0) > time.Hour {
				t.Fatalf("%d of %d were accepted within an hour, with %d attempts", accepted, others, attempts)
			}
			now = at
			continue
		}
		if attempts++; bad(b.Order) {
			c.Fail(b, now, Failure{})
		} else {
			accepted += c.Succeed(b, now)
		}
	}
	t.Logf("%d accepted after %s and %d attempts", accepted, now.Sub(t0), attempts)
}

// An operator's retry of an order that was never tried is the next probe of an open circuit.
func TestRetryOfAFreshOrderIsTheNextProbe(t *testing.T) {
	t.Parallel()
	c := opened(t)
	if _, ok := c.Take(t0, 1); ok {
		t.Fatal("the circuit is not open")
	}
	wantEqual(t, "retry", c.Retry("c", t0), true)
	if b, ok := c.Take(t0, 1); !ok || b.Order != "c" || !b.Probe {
		t.Errorf("%+v, %t is taken", b, ok)
	}
}
