package capacity

import (
	"testing"
	"time"
)

// A receiver that takes so many a second, and answers all others by 429, gets about that: few are refused, and once it takes
// more the callback is at full speed again by itself.
func TestASlowedCallbackFindsTheRateOfItsReceiver(t *testing.T) {
	t.Parallel()
	places := NewPlaces(100)
	pl := places.Join("shop", "cb", func() {})
	pl.Bound(4, 4, 0)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	if pl.Wait(now) != 0 || pl.Full(4) || pl.Slowed(now) != nil {
		t.Fatal("it is slow from the start")
	}
	const took, takes = 10 * time.Millisecond, 10 // a second
	run := func(seconds int, limited bool) (sent, refused int) {
		var second time.Time
		taken := 0
		for end := now.Add(time.Duration(seconds) * time.Second); now.Before(end); now = now.Add(took) {
			if now.Sub(second) >= time.Second {
				second, taken = now, 0
			}
			for under := 0; under < 4 && pl.Wait(now) == 0 && !pl.Full(under) && pl.Take(); under++ {
				pl.UseRate(now)
				sent++
				if taken++; limited && taken > takes {
					refused++
					pl.Overloaded(now.Add(took), Overload{Began: now, Took: took})
				} else {
					pl.Answered(now.Add(took))
				}
				pl.Release()
			}
		}
		return sent, refused
	}
	run(30, true)
	sent, refused := run(300, true)
	if sent < 300*takes/5 || refused > sent/10 {
		t.Errorf("in five minutes %d were sent, and %d of them refused", sent, refused)
	}
	if s := pl.Slowed(now); s == nil || s.PerSecond > 8*takes {
		t.Errorf("it is slowed to %+v", s)
	}
	run(180, false)
	if s := pl.Slowed(now); s != nil {
		t.Errorf("three minutes later it is still slowed to %+v", s)
	}
}

// What a receiver asks for is kept by the whole callback, and not for ever: one answer must not stop it for a day.
func TestRetryAfterHoldsACallback(t *testing.T) {
	t.Parallel()
	places := NewPlaces(10)
	live, replay := places.Join("shop", "cb", func() {}), places.Join("shop", "cb", func() {})
	live.Bound(4, 4, 0)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	live.Overloaded(now, Overload{Began: now, Took: time.Millisecond, RetryAfter: time.Minute})
	if live.Wait(now) != time.Minute || replay.Wait(now.Add(time.Second)) != 59*time.Second {
		t.Errorf("it waits for %s and %s", live.Wait(now), replay.Wait(now.Add(time.Second)))
	}
	live.Overloaded(now, Overload{Began: now, Took: time.Millisecond, RetryAfter: 24 * time.Hour})
	if live.Wait(now) != longestHold {
		t.Errorf("it waits for %s", live.Wait(now))
	}
	if back := now.Add(-time.Hour); live.Wait(back) > longestHold {
		t.Errorf("after the clock was set back it waits for %s", live.Wait(back))
	}
	if live.FullSpeed(); live.Wait(now) != 0 {
		t.Error("it waits although it was resumed")
	}
}
