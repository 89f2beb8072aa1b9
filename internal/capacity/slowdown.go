package capacity

import (
	"sync"
	"time"
)

const (
	// slowest is the lowest rate to which a receiver's answers can slow a callback down, in attempts a second.
	slowest = 0.1
	// longestHold bounds the wait that a receiver asks for as far as it concerns the whole callback. The order that it
	// answered for waits as long as it asked.
	longestHold = 5 * time.Minute
	// raiseIn is how long it takes, without another such answer, until the rate has doubled; fullAt is the multiple of the
	// rate at which there is no limit any more, and forgotten the time after which there is none in any case.
	raiseIn   = 16 * time.Second
	fullAt    = 8
	forgotten = 15 * time.Minute
	// longestStep bounds the time that one success can raise the rate for.
	longestStep = 10 * time.Second
)

// Overload is an answer by which a receiver asked for less.
type Overload struct {
	Began      time.Time // the attempt
	Took       time.Duration
	RetryAfter time.Duration // the wait it asked for; 0: none
}

// Slowed is how much of a callback's concurrency and rate an overloaded receiver gets for the time being.
type Slowed struct {
	AtOnce    int       `json:"atOnce"`    // attempts
	PerSecond float64   `json:"perSecond"` // attempts
	Since     time.Time `json:"since"`
}

// slowdown is the present limit of an overloaded receiver: it is halved by an answer that asks for less, and raised again by
// successes, step by step. A callback that is well has none.
type slowdown struct {
	since time.Time
	full  int // the callback's concurrency

	mu        sync.Mutex
	atOnce    float64
	perSecond float64
	base      float64   // the rate after the last cut, from which it is raised in equal steps
	begun     int       // attempts since the last cut
	cutAt     time.Time // attempts that began before tell nothing new
	raisedAt  time.Time
	next      time.Time // no attempt begins before
}

// Overloaded notes an answer by which the receiver asked for less: fewer attempts are made at once, and fewer in a second,
// whoever reads the log for the callback.
func (pl *Place) Overloaded(now time.Time, o Overload) {
	pl.of.mu.Lock()
	full, taken := max(pl.callback.concurrency, 1), max(pl.callback.taken, 1)
	pl.of.mu.Unlock()
	s := pl.callback.slow.Load()
	if s == nil {
		rate := float64(taken) / max(o.Took, time.Millisecond).Seconds() // what it got until now, about
		if limiter := pl.callback.limiter.Load(); limiter != nil {
			rate = min(rate, float64(limiter.Limit()))
		}
		s = &slowdown{since: now, full: full, atOnce: float64(min(taken, full)), perSecond: rate}
		if !pl.callback.slow.CompareAndSwap(nil, s) {
			s = pl.callback.slow.Load()
		}
	}
	if s != nil {
		s.cut(now, o)
	}
}

// cut halves the limit.
func (s *slowdown) cut(now time.Time, o Overload) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if hold := now.Add(min(o.RetryAfter, longestHold)); hold.After(s.next) {
		s.next = hold
	}
	if !s.cutAt.IsZero() && !o.Began.After(s.cutAt) {
		return
	}
	if passed := now.Sub(s.cutAt); !s.cutAt.IsZero() && passed >= time.Second { // what was sent in fact
		s.perSecond = min(s.perSecond, float64(max(s.begun, 1))/passed.Seconds())
	}
	s.atOnce = max(s.atOnce/2, 1)
	s.perSecond = max(s.perSecond/2, slowest)
	s.base, s.begun, s.cutAt, s.raisedAt = s.perSecond, 0, now, now
	if next := now.Add(s.apart()); next.After(s.next) {
		s.next = next
	}
}

func (s *slowdown) apart() time.Duration { return time.Duration(float64(time.Second) / s.perSecond) }

// Answered notes a success: an overloaded receiver gets a little more.
func (pl *Place) Answered(now time.Time) {
	if s := pl.callback.slow.Load(); s != nil && s.raise(now) {
		pl.FullSpeed()
	}
}

// raise raises the limit, and reports whether there is none any more.
func (s *slowdown) raise(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	passed := min(max(now.Sub(s.raisedAt), 0), longestStep)
	s.raisedAt = now
	s.perSecond += s.base * passed.Seconds() / raiseIn.Seconds()
	s.atOnce = min(s.atOnce+1/s.atOnce, float64(s.full))
	return s.perSecond >= fullAt*s.base && s.atOnce >= float64(s.full) || s.over(now)
}

func (s *slowdown) over(now time.Time) bool { return now.Sub(s.cutAt).Abs() >= forgotten }

// FullSpeed ends a slow-down: the receiver gets what the callback's own limits allow.
func (pl *Place) FullSpeed() { pl.callback.slow.Store(nil) }

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
	return min(max(s.next.Sub(now), 0), max(longestHold, s.apart())) // a clock that was set back must not make it longer
}

// Full reports whether a reader has as many attempts under way as an overloaded receiver gets at once.
func (pl *Place) Full(underWay int) bool {
	s := pl.callback.slow.Load()
	return s != nil && s.isFull(underWay)
}

func (s *slowdown) isFull(underWay int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return underWay >= int(s.atOnce)
}

// began notes that an attempt begins.
func (s *slowdown) began(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.begun++
	s.next = now.Add(s.apart())
}

// Slowed returns how far the callback is slowed down, nil if it is not.
func (pl *Place) Slowed(now time.Time) *Slowed {
	s := pl.callback.slow.Load()
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over(now) {
		return nil
	}
	return &Slowed{AtOnce: int(s.atOnce), PerSecond: s.perSecond, Since: s.since}
}
