package cursor

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

var t0 = time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)

// offer offers entries written as "a1 b2 a3" and returns the verdicts.
func offer(t *testing.T, c *Cursor, entries ...string) []Verdict {
	t.Helper()
	var vs []Verdict
	for _, s := range entries {
		var e Entry
		if _, err := fmt.Sscanf(s[1:], "%d", &e.Seq); err != nil {
			t.Fatal(err)
		}
		e.Order = s[:1]
		vs = append(vs, c.Offer(e))
	}
	return vs
}

// take wants the next batch to be of the order and entries given.
func take(t *testing.T, c *Cursor, now time.Time, most int, order string, seqs ...uint64) Batch {
	t.Helper()
	b, ok := c.Take(now, most)
	if !ok {
		t.Fatalf("nothing to take, want %v of %q", seqs, order)
	}
	if b.Order != order || !slices.Equal(b.Seqs, seqs) {
		t.Fatalf("took %v of %q, want %v of %q", b.Seqs, b.Order, seqs, order)
	}
	return b
}

func takeNone(t *testing.T, c *Cursor, now time.Time) {
	t.Helper()
	if b, ok := c.Take(now, 1); ok {
		t.Fatalf("took %v of %q, want nothing", b.Seqs, b.Order)
	}
}

func wantDue(t *testing.T, c *Cursor, now, want time.Time) {
	t.Helper()
	if at, ok := c.NextDue(now); !ok || !at.Equal(want) {
		t.Fatalf("next due %v %v, want %v", at, ok, want)
	}
}

func wantEqual[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Fatalf("%s: %v, want %v", what, got, want)
	}
}

// reload stores everything there is to store and loads it into a new cursor.
func reload(t *testing.T, c *Cursor, p Policy, now time.Time) *Cursor {
	t.Helper()
	var lanes []Lane
	for _, q := range c.sorted() {
		if q.lane != nil && q.lane.admitted {
			lanes = append(lanes, c.snapshot(q))
		}
	}
	again, err := Load(p, c.Document(), lanes, now)
	if err != nil {
		t.Fatal(err)
	}
	return again
}

func TestOrderAndConcurrency(t *testing.T) {
	t.Parallel()
	c := New(Policy{Concurrency: 2})
	offer(t, c, "a1", "a2", "b5", "c6", "a7")
	a := take(t, c, t0, 1, "a", 1)
	b := take(t, c, t0, 1, "b", 5)
	takeNone(t, c, t0) // two in flight
	if _, ok := c.NextDue(t0); ok {
		t.Fatal("something is due though all that may be is in flight")
	}
	c.Succeed(b, t0)
	wantEqual(t, "position", c.Position(), 0)
	take(t, c, t0, 1, "c", 6) // a waits for itself
	c.Succeed(a, t0)
	wantEqual(t, "position", c.Position(), 1)
	take(t, c, t0, 10, "a", 2, 7)
	wantEqual(t, "in flight", c.InFlight(), 2)
}

func TestReleaseAndPartOfABatch(t *testing.T) {
	t.Parallel()
	c := New(Policy{Schedule: []time.Duration{time.Second}})
	offer(t, c, "a1", "a2")
	b := take(t, c, t0, 2, "a", 1, 2)
	offer(t, c, "a3", "a4")
	wantEqual(t, "settled", c.Settle("a", 1), 1) // the first is through, the next fails
	wantEqual(t, "outcome", c.Fail(b, t0, Failure{Reason: "503"}).Outcome, Retrying)
	l, _ := c.Lane("a")
	if !slices.Equal(l.Entries, []uint64{2, 3, 4}) || l.Attempts != 1 {
		t.Fatalf("lane %+v", l)
	}
	wantEqual(t, "position", c.Position(), 4)
	b = take(t, c, t0.Add(time.Second), 1, "a", 2)
	c.Release(b)
	again := take(t, c, t0.Add(time.Second), 1, "a", 2)
	wantEqual(t, "attempt after a release", again.Attempt, 2)
	wantEqual(t, "stale", c.Succeed(b, t0), 0)
	wantEqual(t, "stale", c.Fail(b, t0, Failure{}).Outcome, Stale)
}

// A head uses up the schedule's waits and is then exhausted. Each follower gets one attempt. After
// a success, attempts start again from the beginning.
func TestScheduleAndFollowers(t *testing.T) {
	t.Parallel()
	p := Policy{Schedule: []time.Duration{5 * time.Second, 5 * time.Minute}}
	c := New(p)
	offer(t, c, "a1", "a2", "a3", "a4")
	now := t0
	for i, wait := range []time.Duration{5 * time.Second, 5 * time.Minute} {
		b := take(t, c, now, 1, "a", 1)
		wantEqual(t, "attempt", b.Attempt, i+1)
		wantEqual(t, "last try", b.LastTry, false)
		r := c.Fail(b, now, Failure{Reason: "503"})
		wantEqual(t, "next", r.Next, now.Add(wait))
		takeNone(t, c, now.Add(wait-time.Millisecond))
		wantDue(t, c, now, now.Add(wait))
		now = now.Add(wait)
	}
	b := take(t, c, now, 1, "a", 1)
	wantEqual(t, "last try", b.LastTry, true)
	wantEqual(t, "outcome", c.Fail(b, now, Failure{Reason: "503"}).Outcome, Exhausted)
	takeNone(t, c, now) // until the caller has settled it
	wantEqual(t, "settled", c.Settle("a", 1), 1)

	b = take(t, c, now, 1, "a", 2) // at once
	wantEqual(t, "attempt", b.Attempt, 1)
	wantEqual(t, "last try", b.LastTry, true)
	wantEqual(t, "failing since", b.FailingSince, t0)
	c.Release(b)
	c = reload(t, c, p, now) // the lane remembers that its time is spent
	b = take(t, c, now, 1, "a", 2)
	wantEqual(t, "outcome", c.Fail(b, now, Failure{Reason: "503"}).Outcome, Exhausted)
	c.Settle("a", 2)
	c.Succeed(take(t, c, now, 1, "a", 3), now)

	b = take(t, c, now, 1, "a", 4)
	wantEqual(t, "last try", b.LastTry, false)
	wantEqual(t, "failing since", b.FailingSince, time.Time{})
	r := c.Fail(b, now, Failure{})
	wantEqual(t, "next", r.Next, now.Add(5*time.Second))
	c.Succeed(take(t, c, r.Next, 1, "a", 4), r.Next)
	wantEqual(t, "lanes", c.Lanes(), 0)
	wantEqual(t, "state", c.State(), OK)
}

func TestExhaustedButNotSettledIsTriedAgain(t *testing.T) {
	t.Parallel()
	c := New(Policy{})
	offer(t, c, "a1")
	b := take(t, c, t0, 1, "a", 1)
	wantEqual(t, "last try", b.LastTry, true)
	wantEqual(t, "outcome", c.Fail(b, t0, Failure{}).Outcome, Exhausted)
	c = reload(t, c, Policy{}, t0) // a crash before the caller had stored that it failed
	b = take(t, c, t0, 1, "a", 1)
	wantEqual(t, "outcome", c.Fail(b, t0, Failure{}).Outcome, Exhausted)
	c.Release(b)
	take(t, c, t0, 1, "a", 1)
}

func TestForever(t *testing.T) {
	t.Parallel()
	c := New(Policy{Schedule: []time.Duration{time.Second, time.Minute}, Forever: true})
	offer(t, c, "a1")
	now := t0
	for i, wait := range []time.Duration{time.Second, time.Minute, time.Minute, time.Minute} {
		r := c.Fail(take(t, c, now, 1, "a", 1), now, Failure{})
		if r.Outcome != Retrying || r.Next.Sub(now) != wait {
			t.Fatalf("failure %d: %v after %v, want %v", i+1, r.Outcome, r.Next.Sub(now), wait)
		}
		now = r.Next
	}
}

func TestRetryAfterAndJitter(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct{ hint, want time.Duration }{
		{0, 11 * time.Second}, {5 * time.Second, 11 * time.Second}, {time.Hour, time.Hour},
		{48 * time.Hour, 24 * time.Hour}, {-time.Hour, 11 * time.Second},
	} {
		c := New(Policy{Schedule: []time.Duration{10 * time.Second},
			Jitter: func(d time.Duration) time.Duration { return d + d/10 }})
		offer(t, c, "a1")
		r := c.Fail(take(t, c, t0, 1, "a", 1), t0, Failure{RetryAfter: tc.hint})
		wantEqual(t, fmt.Sprint("wait at a hint of ", tc.hint), r.Next.Sub(t0), tc.want)
	}
}

func TestReasonSince(t *testing.T) {
	t.Parallel()
	c := New(Policy{Schedule: []time.Duration{time.Minute}, Forever: true})
	offer(t, c, "a1")
	for i, tc := range []struct {
		reason string
		since  int // minutes
	}{{"404", 0}, {"404", 0}, {"403", 2}, {"404", 3}, {"404", 3}} {
		now := t0.Add(time.Duration(i) * time.Minute)
		b := take(t, c, now, 1, "a", 1)
		c.Fail(b, now, Failure{Reason: tc.reason})
		l, _ := c.Lane("a")
		wantEqual(t, "reason", l.Reason, tc.reason)
		wantEqual(t, "reason since", l.ReasonSince, t0.Add(time.Duration(tc.since)*time.Minute))
		wantEqual(t, "failing since", l.FailingSince, t0)
	}
	long := make([]byte, 1000)
	for i := range long {
		long[i] = "ä"[i%2]
	}
	c.Fail(take(t, c, t0.Add(time.Hour), 1, "a", 1), t0.Add(time.Hour), Failure{Reason: string(long)})
	if l, _ := c.Lane("a"); l.Reason != string(long[:256]) {
		t.Fatalf("reason of %d bytes", len(l.Reason))
	}
}

func TestSkip(t *testing.T) {
	t.Parallel()
	c := New(Policy{Schedule: []time.Duration{time.Hour}})
	offer(t, c, "a1", "a2", "a3", "b4", "b5")
	a := take(t, c, t0, 1, "a", 1)
	wantEqual(t, "skip one that waits", c.Settle("a", 2), 1)
	wantEqual(t, "skip it again", c.Settle("a", 2), 0)
	wantEqual(t, "where", c.Where(Entry{2, "a"}), Settled)
	c.Fail(a, t0, Failure{Reason: "404"})
	wantEqual(t, "where", c.Where(Entry{1, "a"}), InLane)
	wantEqual(t, "skip the head of a lane", c.Settle("a", 1), 1)
	b := take(t, c, t0, 1, "a", 3) // due at once, attempts counted from zero, and still known to fail for that reason
	if b.Attempt != 1 || b.LastTry || b.Reason != "404" || !b.ReasonSince.Equal(t0) {
		t.Fatalf("follower %+v", b)
	}
	wantEqual(t, "skip in flight", c.Settle("a", 3), 1)
	wantEqual(t, "stale", c.Succeed(b, t0), 0)
	wantEqual(t, "lanes", c.Lanes(), 0)
	wantEqual(t, "skip of an unknown order", c.Settle("x", 1), 0)
	take(t, c, t0, 5, "b", 4, 5)
	wantEqual(t, "where", c.Where(Entry{4, "b"}), Flying)
	wantEqual(t, "where", c.Where(Entry{6, "b"}), Unread)
	wantEqual(t, "position", c.Position(), 3)
}

func TestRetryNow(t *testing.T) {
	t.Parallel()
	c := New(Policy{Schedule: []time.Duration{time.Hour}})
	offer(t, c, "a1")
	b := take(t, c, t0, 1, "a", 1)
	wantEqual(t, "retry in flight", c.Retry("a", t0), false)
	c.Fail(b, t0, Failure{})
	takeNone(t, c, t0)
	wantEqual(t, "retry", c.Retry("a", t0), true)
	wantEqual(t, "attempt", take(t, c, t0, 1, "a", 1).Attempt, 2)
	wantEqual(t, "retry of nothing", c.Retry("b", t0), false)
}

// Next names what is sent of an order, or is being sent: with a closed circuit the last entry that is taken, with an
// open one its first.
func TestWhatIsSentNext(t *testing.T) {
	t.Parallel()
	c := New(Policy{Schedule: []time.Duration{time.Hour}, CircuitFailures: 3})
	next := func(most int, want uint64) {
		t.Helper()
		if got, ok := c.Next("a", most); got != want || ok != (want > 0) {
			t.Fatalf("next of %d: %d, want %d", most, got, want)
		}
	}
	next(1, 0)
	offer(t, c, "a1", "a2")
	next(1, 1)
	next(LaneEntries, 2)
	b := take(t, c, t0, LaneEntries, "a", 1, 2)
	offer(t, c, "a3", "b4", "b5")
	next(1, 2)
	next(LaneEntries, 2) // in flight
	c.Fail(b, t0, Failure{})
	next(2, 2)
	next(LaneEntries, 3)
	for range 2 {
		c.Fail(take(t, c, t0, 1, "b", 4), t0, Failure{})
		c.Retry("b", t0)
	}
	wantEqual(t, "circuit", c.State(), Open)
	next(LaneEntries, 1)
	c.Retry("a", t0)
	take(t, c, t0, LaneEntries, "a", 1)
	next(LaneEntries, 1)
}

// A clock set back makes no wait longer than it was computed; nor does one that was wrong when the
// state was stored.
func TestClockSetBack(t *testing.T) {
	t.Parallel()
	p := Policy{Concurrency: 2, Schedule: []time.Duration{5 * time.Second}, Forever: true}
	for name, reloaded := range map[string]bool{"in memory": false, "from the store": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := New(p)
			offer(t, c, "a1", "b2")
			a, b := take(t, c, t0, 1, "a", 1), take(t, c, t0, 1, "b", 2)
			c.Fail(a, t0, Failure{RetryAfter: 20 * time.Hour})
			c.Fail(b, t0.Add(21*time.Hour), Failure{}) // due after a, though its wait is shorter
			back := t0.Add(10 * time.Hour)
			if reloaded {
				c = reload(t, c, p, back)
			}
			wantDue(t, c, back, back.Add(5*time.Second))
			take(t, c, back.Add(5*time.Second), 1, "b", 2)
			wantDue(t, c, back.Add(5*time.Second), t0.Add(20*time.Hour))
		})
	}
}

func TestFreshAndLanesTakeTurns(t *testing.T) {
	t.Parallel()
	c := New(Policy{Concurrency: 3, Schedule: []time.Duration{0}, Forever: true})
	offer(t, c, "a1", "b2", "c3", "d4", "e5")
	a, b := take(t, c, t0, 1, "a", 1), take(t, c, t0, 1, "b", 2)
	c.Fail(a, t0, Failure{})
	c.Fail(b, t0, Failure{})
	var got []string
	for range 3 {
		b, _ := c.Take(t0, 1)
		got = append(got, b.Order)
	}
	lanes := 0
	for _, o := range got {
		if o <= "b" {
			lanes++
		}
	}
	if lanes == 0 || lanes == 3 {
		t.Fatalf("took %v: retries and new orders are to take turns", got)
	}
}
