package poller

import (
	"hash/fnv"
	"sync"
	"time"
)

// schedule decides when one connection is polled. Each connection has its own place in every
// interval, which follows from its id alone: so thousands are spread evenly, and stay so whoever
// polls them, after a restart and after an outage. Between two ordinary polls there may be earlier
// ones, as far as the pace of all connections allows them:
//
//   - late ones, where a poll was missed or the connection has not been polled yet;
//   - sooner ones, for a while after something came or a user consented: more is likely to come.
//
// It has no clock and no lock.
type schedule struct {
	phase    float64       // the place within an interval: 0 to 1
	interval time.Duration // between ordinary polls
	sooner   time.Duration // between earlier ones; never longer than interval

	due   time.Time // the next poll is made then, whatever else
	last  time.Time // when a poll was last made or missed
	late  bool      // a poll is wanted as soon as the pace allows it
	until time.Time // polls come sooner until then
	// blockedByStore: what is due waits for the pace too, as the store is well again for all at once.
	blockedByStore bool
}

// attempt is what became of a poll that was due.
type attempt int

const (
	pollMade    attempt = iota // whatever came of it
	pollMissed                 // the vendor's host responds to nobody
	pollBlocked                // the store is in trouble
)

// phaseOf returns a connection's place within every interval.
func phaseOf(connection string) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(connection))
	x := h.Sum64() // similar ids have similar hashes, so it is mixed once more, as splitmix64 does
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return float64((x^x>>31)>>11) / (1 << 53)
}

// slot returns the first place after t of a connection that is polled at an interval.
func slot(phase float64, interval time.Duration, t time.Time) time.Time {
	offset := int64(phase * float64(interval))
	since := (t.UnixNano() - offset) % int64(interval)
	return t.Round(0).Add(interval - time.Duration(since))
}

// ordinary returns the next ordinary poll after one at t. A place that comes right after it is left out.
func (s *schedule) ordinary(t time.Time) time.Time {
	return slot(s.phase, s.interval, t.Add(s.interval/4))
}

// tried notes what became of a poll, and when the next one is made at the latest. One that was
// missed is late from now on.
func (s *schedule) tried(now time.Time, wait time.Duration, a attempt) {
	if a == pollMade {
		s.last = now
	}
	s.late, s.blockedByStore, s.due = a == pollMissed, a == pollBlocked, now.Add(wait)
}

// resume continues from the last poll of whoever polled before. A poll that was due meanwhile is late.
func (s *schedule) resume(now, last time.Time) {
	if last.After(now) { // clocks jump
		last = now
	}
	s.last, s.late, s.due = last, false, s.ordinary(last)
	if !s.due.After(now) {
		s.hurry(now)
	}
}

// hurry wants a poll as soon as the pace allows it, and at the connection's next place at the latest.
func (s *schedule) hurry(now time.Time) {
	s.late = true
	if at := s.ordinary(now); !s.due.After(now) || s.due.After(at) {
		s.due = at
	}
}

// next returns when there is something to decide.
func (s *schedule) next(now time.Time) time.Time {
	if s.blockedByStore || !s.late && !now.Before(s.until) {
		return s.due
	}
	after := now
	if least := s.last.Add(s.sooner * 9 / 10); least.After(now) {
		after = least
	}
	if early := slot(s.phase, s.step(), after); early.Before(s.due) {
		return early
	}
	return s.due
}

// step is the time between two places of earlier polls: several of them fit between two such polls.
// If only one did, a poll that was not made in its place, such as the first, would be followed by a
// wait of almost twice as long.
func (s *schedule) step() time.Duration { return max(s.sooner/6, time.Millisecond) }

// may reports whether a poll must be made now. Short reports that the vendor's budget has nothing to spare.
func (s *schedule) may(now time.Time, p *pace, short func() bool) bool {
	switch {
	case s.blockedByStore:
		return p.allow(now)
	case !now.Before(s.due):
		p.count(now)
		return true
	case s.late:
		return p.allow(now)
	case now.Before(s.until):
		return !short() && p.allow(now)
	}
	return false
}

const (
	// haste is how many times the ordinary polls of all connections earlier ones may add up to
	// together with these.
	haste = 1.5
	// leastPace is how many polls a second are never too many, however few connections there are.
	// The vendor's budget bounds them too.
	leastPace = 20
)

// pace keeps the earlier polls of all connections from coming at once, as after an outage or when
// thousands of connections are made. Ordinary polls are spread by themselves; they count and are
// never held back.
type pace struct {
	mu       sync.Mutex
	ordinary float64 // polls a second of all connections
	level    float64
	at       time.Time
}

// add takes in connections that are polled this often a second, or fewer if it is negative.
func (p *pace) add(perSecond float64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ordinary = max(0, p.ordinary+perSecond)
}

// allow takes one earlier poll, if there may be one.
func (p *pace) allow(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fill(now)
	if p.level < 1 {
		return false
	}
	p.level--
	return true
}

// count takes one ordinary poll.
func (p *pace) count(now time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fill(now)
	p.level = max(p.level-1, -p.burst())
}

func (p *pace) fill(now time.Time) {
	if passed := now.Sub(p.at); passed > 0 {
		p.level = min(p.burst(), p.level+passed.Seconds()*max(haste*p.ordinary, leastPace))
		p.at = now
	}
}

func (p *pace) burst() float64 { return max(leastPace/2, p.ordinary/4) }
