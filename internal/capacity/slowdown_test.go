package capacity

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

const (
	simConcurrency = 8
	simTook        = 20 * time.Millisecond // an attempt; so the callback gets 400 a second at most
)

// slowSim lets a callback that always has something to deliver send to a receiver, in a time of its own.
type slowSim struct {
	allowance *Allowance
	now       time.Time
	receiver  func(now time.Time) (refuses, asks bool)
	after     time.Duration // the Retry-After of refusals
	underWay  []time.Time   // when each began

	sent, refused int
}

func newSlowSim() *slowSim {
	s := &slowSim{allowance: NewSlots(100).Join("shop", "cb", func() {}),
		now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)}
	s.allowance.SetLimits(simConcurrency, simConcurrency, 0)
	return s
}

func (s *slowSim) run(d time.Duration) {
	s.sent, s.refused = 0, 0
	for end := s.now.Add(d); s.now.Before(end); s.now = s.now.Add(time.Millisecond) {
		for len(s.underWay) > 0 && s.now.Sub(s.underWay[0]) >= simTook {
			began := s.underWay[0]
			s.underWay = s.underWay[1:]
			s.allowance.Release()
			if refuses, asks := s.receiver(s.now); refuses {
				s.refused++
				s.allowance.Refused(s.now, Refusal{Began: began, Asked: asks, Whole: asks, RetryAfter: s.after})
			} else {
				s.allowance.Accepted(s.now, began)
			}
		}
		for s.allowance.Wait(s.now) == 0 && s.allowance.TryTake() {
			s.allowance.UseRate(s.now)
			s.underWay = append(s.underWay, s.now)
			s.sent++
		}
	}
}

// takes returns a receiver that takes so many a second: each second's first ones, or spread over it.
func takes(perSecond int, spread, asks bool) func(time.Time) (bool, bool) {
	var second time.Time
	taken := 0
	each := time.Second
	if spread {
		each, perSecond = time.Second/time.Duration(perSecond), 1
	}
	return func(now time.Time) (bool, bool) {
		if at := now.Truncate(each); !at.Equal(second) {
			second, taken = at, 0
		}
		taken++
		return taken > perSecond, asks
	}
}

// A receiver that takes so many a second, and refuses all others, is sent about as many. Once it takes more it gets all
// again.
func TestAnOverloadedReceiverGetsWhatItTakes(t *testing.T) {
	t.Parallel()
	for _, perSecond := range []int{2, 50} {
		for _, spread := range []bool{false, true} {
			for _, asks := range []bool{false, true} {
				t.Run(fmt.Sprintf("%d/s, spread %t, asks %t", perSecond, spread, asks), func(t *testing.T) {
					t.Parallel()
					s := newSlowSim()
					s.receiver = takes(perSecond, spread, asks)
					s.run(time.Minute)
					if storm := s.refused; storm > 1000 {
						t.Errorf("%d were refused in the first minute", storm)
					}
					s.run(2 * time.Minute)
					accepted, most := s.sent-s.refused, 120*perSecond
					t.Logf("%d of %d accepted, %d refused", accepted, most, s.refused)
					if accepted < most*7/10 || s.refused > s.sent*3/10 {
						t.Errorf("in two minutes %d of %d were accepted, and %d refused", accepted, most, s.refused)
					}
					if slowed := s.allowance.Slowed(s.now); slowed == nil || slowed.PerSecond > float64(2*perSecond) {
						t.Errorf("it is slowed to %+v", slowed)
					}
					s.receiver = func(time.Time) (bool, bool) { return false, false }
					s.run(time.Minute)
					s.run(10 * time.Second)
					if slowed := s.allowance.Slowed(s.now); slowed != nil || s.sent < 3500 {
						t.Errorf("a minute later it is slowed to %+v and gets %d in ten seconds", slowed, s.sent)
					}
				})
			}
		}
	}
}

// A receiver that refuses a share whatever it is sent is not overloaded: it keeps most of its rate.
func TestAReceiverThatFailsNowAndThenIsNotSlowedDown(t *testing.T) {
	t.Parallel()
	for _, share := range []float64{0.1, 0.3, 0.5} {
		t.Run(fmt.Sprint(share), func(t *testing.T) {
			t.Parallel()
			s, dice := newSlowSim(), rand.New(rand.NewPCG(1, uint64(share*100)))
			s.receiver = func(time.Time) (bool, bool) { return dice.Float64() < share, false }
			s.run(2 * time.Minute)
			t.Logf("%d of 48000 sent", s.sent)
			if s.sent < 48_000*8/10 {
				t.Errorf("in two minutes it was sent %d of 48000", s.sent)
			}
		})
	}
}

// What a receiver asks for is kept by the whole callback, and not for ever: one response must not stop it for a day.
func TestRetryAfterHoldsACallback(t *testing.T) {
	t.Parallel()
	slots := NewSlots(10)
	live, replay := slots.Join("shop", "cb", func() {}), slots.Join("shop", "cb", func() {})
	live.SetLimits(4, 4, 0)
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	live.Refused(now, Refusal{Began: now, Whole: true, RetryAfter: time.Minute})
	if live.Wait(now) != time.Minute || replay.Wait(now.Add(time.Second)) != 59*time.Second {
		t.Errorf("it waits for %s and %s", live.Wait(now), replay.Wait(now.Add(time.Second)))
	}
	live.Refused(now, Refusal{Began: now, Whole: true, RetryAfter: 24 * time.Hour})
	if slowed := live.Slowed(now); slowed == nil || slowed.PerSecond != 0 {
		t.Errorf("it is shown as %+v", slowed)
	}
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

// One refusal of 503 among many successes may be that of one server of many: it holds the callback for seconds only. If
// what follows is refused as well, all of it waits.
func TestOneRefusalDoesNotHoldACallbackForLong(t *testing.T) {
	t.Parallel()
	live := NewSlots(10).Join("shop", "cb", func() {})
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	refuse := func() {
		live.Refused(now, Refusal{Began: now.Add(-time.Millisecond), Asked: true, RetryAfter: time.Minute})
	}
	for range 3 {
		refuse()
		refuse() // it was under way
		if wait := live.Wait(now); wait != firstHold {
			t.Fatalf("it waits for %s", wait)
		}
		now = now.Add(firstHold + time.Second)
		live.Accepted(now, now.Add(-time.Millisecond))
	}
	refuse()
	now = now.Add(firstHold + time.Second)
	if refuse(); live.Wait(now) != time.Minute {
		t.Errorf("refused again it waits for %s", live.Wait(now))
	}
}

// The time in which nothing was sent, because nothing waited or the receiver had asked for that, does not show how much
// it takes.
func TestATimeWithoutAttemptsSlowsNobodyDown(t *testing.T) {
	t.Parallel()
	t.Run("Retry-After", func(t *testing.T) {
		t.Parallel()
		s := newSlowSim()
		s.after, s.receiver = time.Minute, func(now time.Time) (bool, bool) {
			return now.Second() == 0 && now.Minute() == 0, true
		}
		s.run(time.Minute + time.Second)
		s.run(10 * time.Second)
		if s.sent < 3000 {
			t.Errorf("after a wait of a minute it is sent %d of 4000 in ten seconds, slowed to %+v",
				s.sent, s.allowance.Slowed(s.now))
		}
	})
	t.Run("idle", func(t *testing.T) {
		t.Parallel()
		s := newSlowSim()
		s.allowance.Refused(s.now, Refusal{Began: s.now, Asked: true})
		for range 17 {
			s.now = s.now.Add(40 * time.Second)
			s.allowance.Accepted(s.now, s.now.Add(-simTook))
		}
		first := true
		s.receiver = func(time.Time) (bool, bool) { refuses := first; first = false; return refuses, true }
		s.run(10 * time.Second)
		if s.sent < 3000 {
			t.Errorf("after a quiet time it is sent %d of 4000 in ten seconds, slowed to %+v",
				s.sent, s.allowance.Slowed(s.now))
		}
	})
}
