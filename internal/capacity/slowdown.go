package capacity

import (
	"math"
	"sync"
	"time"
)

const (
	// slowest is the lowest rate to which a receiver's responses can slow a callback down, in attempts a second.
	slowest = 1
	// longestHold is the longest time for which a receiver can hold up the whole callback by a Retry-After. The order
	// for which it gave that response waits as long as the receiver asked.
	longestHold = 5 * time.Minute
	// firstHold is the same for the first refusal of several, unless it is about the rate (429): perhaps only one of
	// many servers is in trouble. If the next attempts are refused as well, longestHold counts.
	firstHold = 5 * time.Second
	// windowAnswers and windowTime are the least number of responses, and the least time, from which a share of
	// refusals is calculated.
	windowAnswers = 20
	windowTime    = time.Second
	// windowGap is the longest time within a window in which nothing is sent.
	windowGap = 5 * time.Second
	// tolerated is the share of refusals that changes nothing. A margin for chance is added to it, unless the
	// receiver's responses show that they are about the rate.
	tolerated = 0.05
	// cutTo is the new limit after a cut, as a part of what the receiver has accepted.
	cutTo = 0.9
	// growth is the part by which the limit grows in a second in which it is used up. At removeAt times the limit after
	// the last cut it is removed, and forgetAfter the last refusal in any case.
	growth      = 0.1
	removeAt    = 8
	forgetAfter = 15 * time.Minute
	// vainCuts is the number of cuts without effect that shows that the rate is not the cause of the refusals. From a
	// share of mostRefused on the limit stays nevertheless.
	vainCuts    = 2
	mostRefused = 2.0 / 3
	// burst is how far attempts may be behind their rate: at high rates they need not each be waited for.
	burst = 50 * time.Millisecond
)

// Refusal is a response by which a receiver, or a proxy before it, refused an attempt for the time being.
type Refusal struct {
	Began      time.Time     // when the attempt began
	Asked      bool          // the receiver asks for fewer attempts (429, Retry-After): it does not merely fail
	Whole      bool          // the response is about the rate of all attempts (429)
	RetryAfter time.Duration // the wait that the receiver asked for; 0: none
}

// Slowed is the limit that an overloaded receiver has now.
type Slowed struct {
	PerSecond float64   `json:"perSecond"` // attempts; 0: none until the end of the receiver's Retry-After
	Since     time.Time `json:"since"`
}

// slowdown limits the attempts at a receiver that refuses some of them. It looks at the share of refusals in a window
// of a second or more:
//
//   - If the share is too large, the limit is cut to a little less than what the receiver has accepted. While the
//     receiver accepts what it gets, the limit grows again. So a receiver that takes a certain rate is sent about that
//     rate.
//   - If the share stays as large after several cuts, the receiver is not overloaded but fails now and then. Then the
//     cuts are undone, and the share is tolerated from then on.
//
// A callback whose receiver has not refused anything lately has no slowdown.
type slowdown struct {
	mu        sync.Mutex
	limit     float64   // attempts a second; 0: none
	base      float64   // the limit after the last cut
	since     time.Time // since when there has been a limit
	next      time.Time // no attempt may begin before
	refusedAt time.Time // the last refusal
	failing   time.Time // the first refusal since an attempt that began later was accepted; zero: there is none
	heldAt    time.Time // when the wait for the receiver's Retry-After began
	heldUntil time.Time // when it ends
	changedAt time.Time // when the limit was changed: attempts that began before show nothing about it
	usual     float64   // the share of refusals that does not depend on the rate
	window    window
	cuts      cuts
}

// window counts responses.
type window struct {
	from                     time.Time // the first response; later by the waits that the receiver has asked for
	last                     time.Time // the last response
	accepted, refused, asked int       // asked is the number of refusals with Asked
}

func (w *window) share() float64 { return float64(w.refused) / float64(w.accepted+w.refused) }

// cuts are cuts of the limit in a row, of which it is not known yet whether they help.
type cuts struct {
	count                    int
	limitBefore, shareBefore float64 // before the first of them
}

// Refused counts an attempt that the receiver refused.
func (a *Allowance) Refused(now time.Time, r Refusal) {
	s := a.callback.slow.Load()
	if s == nil {
		s = &slowdown{refusedAt: now}
		if !a.callback.slow.CompareAndSwap(nil, s) {
			if s = a.callback.slow.Load(); s == nil {
				return
			}
		}
	}
	s.refused(now, r)
}

func (s *slowdown) refused(now time.Time, r Refusal) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hold(now, r)
	s.refusedAt = now
	if r.Began.Before(s.changedAt) {
		return
	}
	s.count(now, r.Began)
	s.window.refused++
	if r.Asked {
		s.window.asked++
	}
	s.judge(now)
}

// hold makes all attempts wait for as long as the receiver asks.
func (s *slowdown) hold(now time.Time, r Refusal) {
	if s.failing.IsZero() {
		s.failing = now
	}
	wait := min(r.RetryAfter, longestHold)
	if first := r.Began.Before(s.failing) || s.failing.Equal(now); first && !r.Whole {
		wait = min(wait, firstHold)
	}
	if until := now.Add(wait); wait > 0 && until.After(s.next) {
		if !s.heldUntil.After(now) {
			s.heldAt = now
		}
		s.next, s.heldUntil = until, until
	}
}

// Accepted counts an attempt that the receiver accepted: if it has refused others, its limit grows.
func (a *Allowance) Accepted(now, began time.Time) {
	a.callback.accepted.Store(now.UnixNano())
	if s := a.callback.slow.Load(); s != nil && s.accepted(now, began) {
		a.FullSpeed()
	}
}

// AcceptedSince reports whether the receiver has accepted an attempt of any of the callback's readers since t.
func (a *Allowance) AcceptedSince(t time.Time) bool { return a.callback.accepted.Load() > t.UnixNano() }

// accepted reports whether the refusals are so long ago that the slowdown can be removed.
func (s *slowdown) accepted(now, began time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over(now) {
		return true
	}
	if began.After(s.failing) {
		s.failing = time.Time{}
	}
	if began.Before(s.changedAt) {
		return false
	}
	s.count(now, began)
	s.window.accepted++
	if w := &s.window; s.limit > 0 && float64(w.refused) <= 1.5*s.usual*float64(w.accepted+w.refused) {
		if s.limit += growth; s.limit >= removeAt*s.base { // in a second as many of these as the limit allows
			s.limit, s.since = 0, time.Time{}
		}
	}
	s.judge(now)
	return false
}

// count adds the time of a response to the window, but without the time in which the receiver had nothing to respond to
// because it had asked for a wait or nothing was sent: that shows nothing about the rate that it accepts.
func (s *slowdown) count(now, began time.Time) {
	w, idle := &s.window, s.window.last
	if s.heldUntil.After(idle) {
		idle = s.heldUntil
	}
	switch {
	case w.from.IsZero() || began.Sub(idle) > windowGap:
		*w = window{from: now}
	case !began.Before(idle):
		w.from = w.from.Add(idle.Sub(w.last)) // without the wait
	}
	w.last = now
}

// judge cuts the limit, or undoes cuts, by the share of refusals, once there are enough responses to calculate it.
func (s *slowdown) judge(now time.Time) {
	w := &s.window
	passed, answers := now.Sub(w.from), w.accepted+w.refused
	if answers < windowAnswers || passed < windowTime {
		return
	}
	share, rateMeant := w.share(), 2*w.asked >= w.refused
	margin := 1 / math.Sqrt(float64(answers)) // at least two standard deviations
	if share < s.usual-margin {
		s.usual = (s.usual + share) / 2
	}
	if rateMeant {
		margin = 0
	}
	switch {
	case s.cuts.count == vainCuts && share > s.cuts.shareBefore/2 && share < mostRefused && !rateMeant:
		s.setLimit(s.cuts.limitBefore, now)
		s.usual, s.cuts = share, cuts{}
	case share > s.usual+tolerated+margin:
		if s.cuts.count == 0 {
			s.cuts = cuts{limitBefore: s.limit, shareBefore: share}
		}
		s.cuts.count = min(s.cuts.count+1, vainCuts)
		s.setLimit(max(cutTo*float64(w.accepted)/passed.Seconds(), slowest), now)
		s.base = s.limit
	default:
		s.cuts = cuts{}
	}
	*w = window{}
}

func (s *slowdown) setLimit(limit float64, now time.Time) {
	switch {
	case limit == 0:
		s.since = time.Time{}
	case s.limit == 0:
		s.since = now
	}
	s.limit, s.changedAt = limit, now
}

func (s *slowdown) over(now time.Time) bool { return now.Sub(s.refusedAt).Abs() >= forgetAfter }

// FullSpeed removes the slowdown: the receiver gets what the callback's own limits allow.
func (a *Allowance) FullSpeed() { a.callback.slow.Store(nil) }

// EndHold ends the wait that a receiver has asked for: it has accepted an attempt meanwhile.
func (a *Allowance) EndHold(now time.Time) {
	if s := a.callback.slow.Load(); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.next, s.heldUntil = now, now
	}
}

// Wait returns how long the next attempt must wait because of the callback's rate, or because its receiver is
// overloaded.
func (a *Allowance) Wait(now time.Time) time.Duration {
	wait := a.RateWait(now)
	if s := a.callback.slow.Load(); s != nil {
		wait = max(wait, s.wait(now))
	}
	return wait
}

func (s *slowdown) wait(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(max(s.next.Sub(now), 0), longestHold) // a clock that was set back must not make it longer
}

// began counts an attempt that begins.
func (s *slowdown) began(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.limit == 0 {
		return
	}
	if earliest := now.Add(-burst); s.next.Before(earliest) {
		s.next = earliest
	}
	s.next = s.next.Add(time.Duration(float64(time.Second) / s.limit))
}

// Slowed returns the limit that the receiver has now, nil if it has none.
func (a *Allowance) Slowed(now time.Time) *Slowed {
	s := a.callback.slow.Load()
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.heldUntil.After(now) && s.next.After(now):
		return &Slowed{Since: s.heldAt}
	case s.limit == 0 || s.over(now):
		return nil
	}
	return &Slowed{PerSecond: s.limit, Since: s.since}
}
