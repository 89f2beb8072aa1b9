package capacity

import (
	"math"
	"sync"
	"time"
)

const (
	// slowest is the lowest rate to which a receiver's answers can slow a callback down, in attempts a second.
	slowest = 1
	// longestHold bounds the wait that a receiver asks for as far as it concerns the whole callback. The order that it
	// answered for waits as long as it asked.
	longestHold = 5 * time.Minute
	// firstHold bounds it for the first answer of several, unless it is about the rate (429): one of many servers may be in
	// trouble. If the next attempts are refused as well, all of them wait as long as they are asked to.
	firstHold = 5 * time.Second
	// windowAnswers and windowTime are what a share of refusals is worked out from, at least.
	windowAnswers = 20
	windowTime    = time.Second
	// windowGap is how long nothing may be sent within a window.
	windowGap = 5 * time.Second
	// tolerated is the share of refusals that changes nothing; beside it stands a margin for chance, except where the
	// receiver says that it means the rate.
	tolerated = 0.05
	// below is the part of what a receiver has accepted that it gets after a cut.
	below = 0.9
	// growth is the part by which the limit grows in a second in which it is used up. fullAt is the multiple of the
	// limit after the last cut at which there is none any more, and forgotten the time after which there is none in any case.
	growth    = 0.1
	fullAt    = 8
	forgotten = 15 * time.Minute
	// trials is how many cuts in a row that change nothing show that refusals do not come from the rate; mostly is the share
	// of refusals from which on the limit stays all the same.
	trials = 2
	mostly = 2.0 / 3
	// burst is how far attempts may be behind their rate: at high rates they need not each be waited for.
	burst = 50 * time.Millisecond
)

// Refusal is an answer by which a receiver, or what stands before it, refused an attempt for the time being.
type Refusal struct {
	Began      time.Time     // the attempt
	Asked      bool          // it asks for less in so many words (429, Retry-After): it is no failure that happens at any rate
	Whole      bool          // it is about the rate of all attempts (429)
	RetryAfter time.Duration // the wait it asked for; 0: none
}

// Slowed is what an overloaded receiver gets for the time being.
type Slowed struct {
	PerSecond float64   `json:"perSecond"` // attempts; 0: none for as long as the receiver asked for by Retry-After
	Since     time.Time `json:"since"`
}

// slowdown is the present limit of a receiver that refuses attempts. Of those made in a second or more it looks at the share
// that was refused. If that is too large the receiver gets a little less than what it has accepted, and then more again as it
// accepts it. So one that takes so many in a second is sent about as many. If the share stays as large although the
// receiver gets less, it is not overloaded but fails now and then: the limit is taken back, and the share is put up with.
// A callback whose receiver has not refused anything lately has none.
type slowdown struct {
	mu        sync.Mutex
	limit     float64   // attempts a second; 0: none
	base      float64   // the limit after the last cut
	since     time.Time // when there began to be a limit
	next      time.Time // no attempt begins before
	refusedAt time.Time // the last one
	failing   time.Time // the first one since an attempt was accepted that began later; zero: one was
	heldAt    time.Time // when a wait began that the receiver asked for
	heldUntil time.Time // the end of the last of these
	cutAt     time.Time // attempts that began before the limit was changed tell nothing about it
	usual     float64   // the share of refusals that does not depend on the rate
	window    window
	trial     trial
}

// window counts answers.
type window struct {
	from                     time.Time // the first answer; later by the waits that the receiver has asked for
	last                     time.Time // the last answer
	accepted, refused, asked int       // asked: of those refused
}

func (w *window) share() float64 { return float64(w.refused) / float64(w.accepted+w.refused) }

// trial is how the receiver does under a limit that is new.
type trial struct {
	cuts         int     // in a row, without effect; 0: there is no trial
	limit, share float64 // before the first of them
}

// Refused notes an answer by which the receiver refused an attempt.
func (pl *Place) Refused(now time.Time, r Refusal) {
	s := pl.callback.slow.Load()
	if s == nil {
		s = &slowdown{refusedAt: now}
		if !pl.callback.slow.CompareAndSwap(nil, s) {
			if s = pl.callback.slow.Load(); s == nil {
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
	if r.Began.Before(s.cutAt) {
		return
	}
	s.count(now, r.Began)
	s.window.refused++
	if r.Asked {
		s.window.asked++
	}
	s.judge(now)
}

// hold has all attempts wait as the receiver asks.
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

// Accepted notes a success of an attempt: the limit of a receiver that has refused others grows.
func (pl *Place) Accepted(now, began time.Time) {
	pl.callback.accepted.Store(now.UnixNano())
	if s := pl.callback.slow.Load(); s != nil && s.accepted(now, began) {
		pl.FullSpeed()
	}
}

// AcceptedSince reports whether the receiver has accepted an attempt of any reader after a time.
func (pl *Place) AcceptedSince(t time.Time) bool { return pl.callback.accepted.Load() > t.UnixNano() }

// accepted reports whether there is nothing left to remember of refusals.
func (s *slowdown) accepted(now, began time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over(now) {
		return true
	}
	if began.After(s.failing) {
		s.failing = time.Time{}
	}
	if began.Before(s.cutAt) {
		return false
	}
	s.count(now, began)
	s.window.accepted++
	if w := &s.window; s.limit > 0 && float64(w.refused) <= 1.5*s.usual*float64(w.accepted+w.refused) {
		if s.limit += growth; s.limit >= fullAt*s.base { // as many of these in a second as the limit says
			s.limit, s.since = 0, time.Time{}
		}
	}
	s.judge(now)
	return false
}

// count counts the time of an answer to the window. The time in which the receiver had nothing to answer, because it had
// asked for a wait or nothing was sent for long, does not say how much it accepts.
func (s *slowdown) count(now, began time.Time) {
	w, idle := &s.window, s.window.last
	if s.heldUntil.After(idle) {
		idle = s.heldUntil
	}
	switch {
	case w.from.IsZero() || began.Sub(idle) > windowGap:
		*w = window{from: now}
	case !began.Before(idle):
		w.from = w.from.Add(idle.Sub(w.last)) // by the wait
	}
	w.last = now
}

// judge looks at the share of refusals once enough answers have come to know it.
func (s *slowdown) judge(now time.Time) {
	w := &s.window
	passed, answers := now.Sub(w.from), w.accepted+w.refused
	if answers < windowAnswers || passed < windowTime {
		return
	}
	share, means := w.share(), 2*w.asked >= w.refused
	margin := 1 / math.Sqrt(float64(answers)) // at least two standard deviations
	if share < s.usual-margin {
		s.usual = (s.usual + share) / 2
	}
	if means {
		margin = 0
	}
	switch {
	case s.trial.cuts == trials && share > s.trial.share/2 && share < mostly && !means:
		s.setLimit(s.trial.limit, now)
		s.usual, s.trial = share, trial{}
	case share > s.usual+tolerated+margin:
		if s.trial.cuts == 0 {
			s.trial = trial{limit: s.limit, share: share}
		}
		s.trial.cuts = min(s.trial.cuts+1, trials)
		s.setLimit(max(below*float64(w.accepted)/passed.Seconds(), slowest), now)
		s.base = s.limit
	default:
		s.trial = trial{}
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
	s.limit, s.cutAt = limit, now
}

func (s *slowdown) over(now time.Time) bool { return now.Sub(s.refusedAt).Abs() >= forgotten }

// FullSpeed ends a slow-down: the receiver gets what the callback's own limits allow.
func (pl *Place) FullSpeed() { pl.callback.slow.Store(nil) }

// EndHold ends the wait that a receiver has asked for: it has answered meanwhile.
func (pl *Place) EndHold(now time.Time) {
	if s := pl.callback.slow.Load(); s != nil {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.next, s.heldUntil = now, now
	}
}

// Wait returns how long the callback's rate, and its receiver if that is overloaded, ask to wait before the next attempt
// begins.
func (pl *Place) Wait(now time.Time) time.Duration {
	wait := pl.RateWait(now)
	if s := pl.callback.slow.Load(); s != nil {
		wait = max(wait, s.wait(now))
	}
	return wait
}

func (s *slowdown) wait(now time.Time) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return min(max(s.next.Sub(now), 0), longestHold) // a clock that was set back must not make it longer
}

// began notes that an attempt begins.
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

// Slowed returns how far the callback is slowed down, nil if it is not.
func (pl *Place) Slowed(now time.Time) *Slowed {
	s := pl.callback.slow.Load()
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
