package trouble

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)

func at(minutes float64) time.Time { return start.Add(time.Duration(minutes * float64(time.Minute))) }

func TestTimes(t *testing.T) {
	t.Parallel()
	var times Times
	want := func(what string, from, to, minutes float64) {
		t.Helper()
		if got := times.Within(at(from), at(to)).Minutes(); got != minutes {
			t.Errorf("%s: %v minutes of trouble between %v and %v, want %v", what, got, from, to, minutes)
		}
	}
	want("none", 0, 100, 0)
	times.Ended(at(1)) // there was none
	if !times.None() {
		t.Error("there is trouble")
	}
	times.Began(at(10))
	times.Began(at(12))
	want("it goes on", 5, 15, 5)
	want("it goes on, and this came in it", 14, 15, 1)
	times.Ended(at(20))
	want("before", 0, 10, 0)
	want("all of it, and as long again to catch up", 0, 100, 20)
	want("came while it caught up", 25, 100, 5)
	want("came later", 30, 100, 0)
	times.Began(at(25))
	times.Ended(at(26))
	want("a short one while it caught up adds nothing", 0, 100, 20)
	times.Wait(at(40), at(41))
	times.Wait(at(41), at(42))
	times.Wait(at(41), at(41.5))
	want("waits", 0, 100, 22)
	times.Began(at(50))
	want("all together", 20, 60, 22)
	times.Note(at(55), at(60), true)
	want("caught up, but for what goes on", 0, 60, 10)
	times.Note(time.Time{}, at(45), false) // the clock was set back
	want("a clock that was set back", 0, 60, 0)

	times = Times{}
	times.Began(Ever)
	times.Ended(at(0))
	want("of which nobody saw the beginning", -10, 0, 10)
	want("time to catch up is bounded", 0, 100000, 24*60)
}

// However troubles come, what counts is at least the trouble itself, as far as that is remembered, and at most twice as
// much.
func TestTimesProperty(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var times Times
		var real, waits, now time.Duration
		for range rapid.IntRange(1, maxKept).Draw(t, "troubles") {
			now += time.Duration(rapid.IntRange(0, 100).Draw(t, "well")) * time.Second
			lasts := time.Duration(rapid.IntRange(0, 100).Draw(t, "lasts")) * time.Second
			if rapid.Bool().Draw(t, "wait") {
				times.Wait(start.Add(now), start.Add(now+lasts))
				waits += lasts
			} else {
				times.Began(start.Add(now))
				times.Ended(start.Add(now + lasts))
				real += lasts
			}
			now += lasts
		}
		if got := times.Within(start, start.Add(time.Hour*24)); got < real+waits || got > 2*real+waits {
			t.Fatalf("%v of trouble and %v of waits count as %v", real, waits, got)
		}
		middle := start.Add(time.Duration(rapid.IntRange(0, 2000).Draw(t, "middle")) * time.Second)
		end := start.Add(time.Hour * 24)
		if a, b, all := times.Within(start, middle), times.Within(middle, end), times.Within(start, end); a+b != all {
			t.Fatalf("%v and %v are not %v", a, b, all)
		}
	})
}
