package notice

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever happens, and whenever a process dies: everything that has failed for good is published, no kind twice in an
// hour but for one more after each crash, an outage is published once, and the end of one that was published is too.
func TestEverythingIsPublishedAndNotTooOften(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		var n Notices
		disabled, missing := now, map[time.Time]bool{} // when it was disabled: not published yet
		toldDisabled := func() {
			for at := range missing {
				missing[at] = false
			}
		}
		stored, crashes, failed, told, twice := n, 0, 0, 0, 0
		published := map[Kind][]time.Time{}
		publish := func() {
			k, g, due := n.Begin(now)
			if !due {
				return
			}
			meanwhile := rapid.IntRange(0, 2).Draw(rt, "meanwhile")
			for range meanwhile { // more happens while it is under way
				failed++
				n.FailedForGood(fmt.Sprint(failed), uint64(failed), now)
			}
			ok := rapid.IntRange(0, 3).Draw(rt, "published") > 0
			if ok {
				published[k] = append(published[k], now)
				switch k {
				case DeliveryFailed:
					told += g.Count
				case Disabled:
					toldDisabled()
				}
			}
			if ok && rapid.IntRange(0, 9).Draw(rt, "crash") == 0 { // before that is stored
				crashes++
				if k == DeliveryFailed {
					twice += g.Count
				}
				raw, err := json.Marshal(stored)
				if err != nil {
					rt.Fatal(err)
				}
				n = Notices{}
				if err := json.Unmarshal(raw, &n); err != nil || n != stored {
					rt.Fatalf("stored %+v, loaded %+v, %v", stored, n, err)
				}
				failed -= meanwhile // what was not stored has not happened
				return
			}
			n.End(k, ok, now)
		}
		store := func() {
			stored = n
			for k := range Kind(kinds) {
				stored.of(k).sending, stored.of(k).rest = false, Gathered{}
			}
			stored.saidDown, stored.again, stored.answered = false, false, Gathered{}
		}
		for range rapid.IntRange(1, 200).Draw(rt, "steps") {
			switch rapid.IntRange(0, 5).Draw(rt, "what") {
			case 5:
				if rapid.Bool().Draw(rt, "disabled again") {
					disabled = now
				}
				n.Disable(disabled, "gone", time.Time{}) // also of what it knows
				if _, known := missing[disabled]; !known {
					missing[disabled] = true
				}
			case 0:
				failed++
				n.FailedForGood(fmt.Sprint(failed), uint64(failed), now)
			case 1:
				n.AttemptFailed("e", 1, rapid.Bool().Draw(rt, "down"), now)
			case 2:
				if n.Troubled() {
					n.Answered("e", 1, now)
				}
			case 3:
				now = now.Add(time.Duration(rapid.IntRange(1, 5000).Draw(rt, "seconds")) * time.Second)
			default:
				publish()
			}
			store()
		}
		for at := n.At(now); !at.IsZero(); at = n.At(now) {
			if at.Sub(now) > every {
				rt.Fatalf("due only at %s", at)
			}
			if at.After(now) {
				now = at
			}
			k, g, due := n.Begin(now)
			if !due {
				rt.Fatalf("nothing is due at %s", at)
			}
			published[k] = append(published[k], now)
			switch k {
			case DeliveryFailed:
				told += g.Count
			case Disabled:
				toldDisabled()
			}
			n.End(k, true, now)
		}
		for at, is := range missing {
			if is {
				rt.Fatalf("that it was disabled at %s was not published", at)
			}
		}
		if told-twice != failed {
			rt.Fatalf("%d have failed for good, %d were published", failed, told-twice)
		}
		for _, k := range []Kind{DeliveryFailed, Failing} {
			early := 0
			for i, at := range published[k] {
				if i > 0 && at.Sub(published[k][i-1]) < every {
					early++
				}
			}
			if early > crashes {
				rt.Fatalf("kind %d was published too early %d times with %d crashes: %v",
					k, early, crashes, published[k])
			}
		}
		if r, f := len(published[Recovered]), len(published[Failing]); r > f+crashes {
			rt.Fatalf("%d ends of %d outages", r, f)
		}
	})
}

func TestAnOutageIsTwoEvents(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var n Notices
	for i := range 10_000 {
		n.AttemptFailed(fmt.Sprint("e", i), uint64(i+1), i >= 4, now.Add(time.Duration(i)*time.Second))
		if k, g, due := n.Begin(now.Add(time.Duration(i) * time.Second)); due {
			if k != Failing || i != 4 || g.Count != 5 || g.First != "e0" || g.Last != "e4" {
				t.Fatalf("at %d: kind %d, %+v", i, k, g)
			}
			n.End(k, true, now)
		}
	}
	now = now.Add(3 * time.Hour)
	if !n.Troubled() || !n.Answered("e", 1, now) {
		t.Fatal("its end is no end")
	}
	if k, _, due := n.Begin(now); !due || k != Recovered {
		t.Fatalf("the end is not published: %+v", n)
	}
	n.End(Recovered, true, now)
	if at := n.At(now); !at.IsZero() || n.Troubled() {
		t.Fatalf("more is due at %s: %+v", at, n)
	}
}

// An outage that is over before it could be published, as the one before was so short a time ago, is published all the
// same, and reports that it is over.
func TestAShortOutageIsNotForgotten(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var n Notices
	n.AttemptFailed("e", 1, true, now)
	if k, _, due := n.Begin(now); due {
		n.End(k, true, now)
	}
	n.Answered("e", 1, now)
	n.AttemptFailed("e", 1, true, now)
	n.Answered("e", 1, now)
	kind, _, due := n.Begin(now)
	if !due || kind != Recovered {
		t.Fatalf("the first one's end: %+v", n)
	}
	n.End(kind, true, now)
	if at := n.At(now); !at.Equal(now.Add(every)) {
		t.Fatalf("the second is due at %s: %+v", at, n)
	}
	if kind, _, due = n.Begin(now.Add(every)); !due || kind != Failing || n.Down {
		t.Fatalf("the second: %+v", n)
	}
}

// A clock that was ahead, and was set back, holds nothing up for longer than the time between two events.
func TestAClockThatWasAheadSilencesNothing(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	ahead := now.Add(24 * time.Hour)
	var n Notices
	n.FailedForGood("a", 1, ahead)
	k, _, due := n.Begin(ahead.Add(settle))
	if !due {
		t.Fatal("nothing is due")
	}
	n.End(k, true, ahead.Add(settle))
	n.FailedForGood("b", 2, now)
	if _, _, due := n.Begin(now.Add(settle)); !due {
		t.Errorf("with the clock set back it is due at %s", n.At(now))
	}
	n = Notices{}
	n.FailedForGood("a", 1, ahead)
	if _, _, due := n.Begin(now); !due {
		t.Errorf("what was gathered by the clock that was ahead is due at %s", n.At(now))
	}
}

// An outage that ends, and another that begins, while the first is being published: its end is published as well.
func TestAnOutageThatEndsWhileItIsPublishedHasAnEnd(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	var n Notices
	n.AttemptFailed("a", 1, true, now)
	k, _, due := n.Begin(now)
	if !due || k != Failing {
		t.Fatalf("due: %d, %t", k, due)
	}
	n.Answered("b", 2, now)
	n.AttemptFailed("c", 3, true, now)
	n.End(k, true, now)
	k, g, due := n.Begin(now)
	if !due || k != Recovered || g.First != "b" {
		t.Errorf("its end: %d, %+v, %t", k, g, due)
	}
	n.End(k, true, now)
	if k, _, due = n.Begin(now.Add(every)); !due || k != Failing || !n.Down {
		t.Errorf("the second outage: %d, %t", k, due)
	}
}
