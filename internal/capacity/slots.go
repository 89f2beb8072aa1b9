// Package capacity divides what all callbacks of a replica share, so that receivers that hang take nothing that others
// need: attempts under way (Slots), bodies that attempts have read for themselves (Bodies), bodies that callbacks keep
// at hand (Memory), pages of the log (NextPage), and how much a receiver gets that asks for less (Allowance.Wait,
// slowdown.go). No call here waits: it returns at once whether there is something left, and a reader that was refused a
// slot is woken when it has one. Begin reading at Slots.
package capacity

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Slots bounds the attempts that may be under way at once, and divides them:
//
//   - Half of all slots are guaranteed, in equal parts to the clients that have callbacks here and to one that may
//     come. Nobody else gets those.
//   - Of the other half a client takes no more than it leaves free. However many clients take all they can, the next
//     one still finds some.
//   - A reader of a callback takes at most twice what it leaves free of what its client may have. Each gets a first
//     slot if there is one.
//   - All readers of a callback together take no more than its concurrency, and each no more than its own limit.
//   - A reader that was refused waits. A slot that becomes free goes to the waiting client with the fewest attempts
//     under way, and there to the waiting reader with the fewest. So a reader that gives a slot back does not get it
//     again while others with fewer attempts wait.
//
// An attempt is bounded in time, so slots always become free again, and every reader that waits gets one. Slots is safe
// for concurrent use.
type Slots struct {
	limit int

	mu        sync.Mutex // nothing but wake functions is called while it is locked
	taken     int
	clients   map[string]*clientSlots
	callbacks map[string]*callbackLimits
	queue     []*clientSlots // those with readers that wait
	waiting   atomic.Int64   // readers that wait

	guaranteed      int // slots that each client has for itself
	aboveGuaranteed int // slots that clients have taken beyond these
}

// clientSlots are the slots that the callbacks of one client have taken.
type clientSlots struct {
	id      string
	members int
	taken   int
	waiting []*Allowance // in the order in which they were refused
}

// callbackLimits bound what the readers of one callback do together.
type callbackLimits struct {
	readers, taken, concurrency int
	limiter                     atomic.Pointer[rate.Limiter] // nil: no limit
	slow                        atomic.Pointer[slowdown]     // nil: the receiver is not overloaded
	// when the receiver accepted an attempt last, in nanoseconds
	accepted atomic.Int64
}

// Allowance is what one reader of a callback (its deliveries, or a replay) may do: how many attempts it may have under
// way, and when the next one may begin.
type Allowance struct {
	of       *Slots
	client   *clientSlots
	key      string
	callback *callbackLimits
	wake     func()
	most     int  // 0: as many as the callback may have
	taken    int  // with the one that was granted
	granted  bool // it was given a slot while it waited, and has not used it yet
	waits    bool
	left     bool
}

// NewSlots returns so many slots.
func NewSlots(limit int) *Slots {
	return &Slots{limit: max(limit, 1), clients: map[string]*clientSlots{}, callbacks: map[string]*callbackLimits{}}
}

// Join adds a reader of a callback. The key names the callback, and all its readers give the same; an empty one is a
// callback of its own. Wake is called when a slot was given to the reader after it was refused one. It must return at
// once, and must not call Slots.
func (s *Slots) Join(client, key string, wake func()) *Allowance {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.clients[client]
	if c == nil {
		c = &clientSlots{id: client}
		s.clients[client] = c
		s.divideGuaranteed()
		s.grantFree() // the parts may have become so small that more is left to share
	}
	c.members++
	cb := s.callbacks[key]
	if cb == nil {
		cb = &callbackLimits{}
		if key != "" {
			s.callbacks[key] = cb
		}
	}
	cb.readers++
	return &Allowance{of: s, client: c, key: key, callback: cb, wake: wake}
}

// Taken returns how many slots are taken.
func (s *Slots) Taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.taken
}

// Waiting returns how many readers wait for a slot. While any does, a reader must give its slots back after each
// attempt.
func (s *Slots) Waiting() int { return int(s.waiting.Load()) }

// Starved returns how many readers wait for a slot although they are below their own limits.
func (s *Slots) Starved() (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.queue {
		for _, a := range c.waiting {
			if !a.atOwnLimits() {
				n++
			}
		}
	}
	return n
}

// SetLimits sets how many slots all readers of the callback may have together, how many this one may have (0: as many),
// and how many attempts they may begin in a second (0: any number). Until then only the client's limits count.
func (a *Allowance) SetLimits(concurrency, most int, perSecond float64) {
	s, cb := a.of, a.callback
	s.mu.Lock()
	defer s.mu.Unlock()
	switch limiter := cb.limiter.Load(); {
	case perSecond <= 0:
		cb.limiter.Store(nil)
	case limiter == nil || limiter.Limit() != rate.Limit(perSecond):
		atOnce := max(1, int(perSecond/20)) // bursts of 50 ms: fewer wake-ups at high rates
		cb.limiter.Store(rate.NewLimiter(rate.Limit(perSecond), atOnce))
	}
	cb.concurrency, a.most = concurrency, most
	s.grantFree()
}

// RateWait returns how long the next attempt must wait because of the callback's rate.
func (a *Allowance) RateWait(now time.Time) time.Duration {
	limiter := a.callback.limiter.Load()
	if limiter == nil {
		return 0
	}
	tokens := limiter.TokensAt(now)
	if tokens >= 1 {
		return 0
	}
	return time.Duration((1-tokens)/float64(limiter.Limit())*float64(time.Second)) + time.Millisecond
}

// UseRate counts an attempt that begins. It returns false if the attempt must wait, as another reader of the callback
// was faster.
func (a *Allowance) UseRate(now time.Time) bool {
	if limiter := a.callback.limiter.Load(); limiter != nil && !limiter.AllowN(now, 1) {
		return false
	}
	if s := a.callback.slow.Load(); s != nil {
		s.began(now)
	}
	return true
}

// Leave ends a reader's membership; it must have given back what it took. It may be called more than once.
func (a *Allowance) Leave() {
	s := a.of
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.left {
		return
	}
	a.left = true
	a.stopWaiting()
	if a.granted {
		a.granted = false
		a.count(-1)
	}
	if a.callback.readers--; a.callback.readers == 0 && s.callbacks[a.key] == a.callback {
		delete(s.callbacks, a.key)
	}
	if a.client.members--; a.client.members == 0 {
		delete(s.clients, a.client.id)
		s.divideGuaranteed()
	}
	s.grantFree()
}

// Take takes a slot. If the reader may have none now, Take returns false and the reader waits: it is woken once it was
// given one, and the next Take takes that.
func (a *Allowance) Take() bool {
	s := a.of
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.take() {
		return true
	}
	if !a.waits && !a.left {
		a.waits = true
		s.waiting.Add(1)
		if len(a.client.waiting) == 0 {
			s.queue = append(s.queue, a.client)
		}
		a.client.waiting = append(a.client.waiting, a)
	}
	return false
}

// TryTake takes a slot if the reader may have one now.
func (a *Allowance) TryTake() bool {
	a.of.mu.Lock()
	defer a.of.mu.Unlock()
	return a.take()
}

// Release gives one slot back.
func (a *Allowance) Release() {
	a.of.mu.Lock()
	defer a.of.mu.Unlock()
	a.count(-1)
	a.of.grantFree()
}

// Decline gives back the slot that the reader was given while it waited, if it has not taken it.
func (a *Allowance) Decline() {
	a.of.mu.Lock()
	defer a.of.mu.Unlock()
	if a.granted {
		a.granted = false
		a.count(-1)
		a.of.grantFree()
	}
}

func (a *Allowance) take() bool {
	if a.granted {
		a.granted = false
		return true
	}
	if a.left || !a.of.allows(a) {
		return false
	}
	a.stopWaiting() // it has what it waited for
	a.count(1)
	return true
}

// allows reports whether the reader may have one more.
func (s *Slots) allows(a *Allowance) bool {
	if a.atOwnLimits() {
		return false
	}
	left := s.available(a.client)
	return left > 0 && (a.taken == 0 || a.client.members == 1 || a.taken < 2*left)
}

// atOwnLimits reports whether the limits of the reader or its callback keep it from having one more.
func (a *Allowance) atOwnLimits() bool {
	cb := a.callback
	return cb.concurrency > 0 && cb.taken >= cb.concurrency || a.most > 0 && a.taken >= a.most
}

// available returns how many more slots a client may take.
func (s *Slots) available(c *clientSlots) int {
	free := s.limit - s.taken
	own := max(s.guaranteed-c.taken, 0)
	above := max(c.taken-s.guaranteed, 0)
	shared := s.limit - s.guaranteed*(len(s.clients)+1) - s.aboveGuaranteed
	return min(own+max((shared-above+1)/2, 0), free)
}

// count counts a slot taken (1) or given back (-1).
func (a *Allowance) count(n int) {
	s := a.of
	s.aboveGuaranteed -= max(a.client.taken-s.guaranteed, 0)
	a.taken += n
	a.callback.taken += n
	a.client.taken += n
	s.taken += n
	s.aboveGuaranteed += max(a.client.taken-s.guaranteed, 0)
}

// divideGuaranteed divides the guaranteed half again: the number of clients has changed.
func (s *Slots) divideGuaranteed() {
	s.guaranteed, s.aboveGuaranteed = s.limit/(2*(len(s.clients)+1)), 0
	for _, c := range s.clients {
		s.aboveGuaranteed += max(c.taken-s.guaranteed, 0)
	}
}

// grantFree gives free slots to readers that wait, as long as one of them may have one.
func (s *Slots) grantFree() {
	for len(s.queue) > 0 && s.taken < s.limit {
		a := s.nextWaiting()
		if a == nil {
			return
		}
		a.stopWaiting()
		a.count(1)
		a.granted = true
		a.wake()
	}
}

// nextWaiting returns the waiting reader that gets the next free slot, nil if none of them may have one.
func (s *Slots) nextWaiting() (best *Allowance) {
	for _, c := range s.queue {
		if best != nil && c.taken >= best.client.taken {
			continue
		}
		var fewest *Allowance
		for _, a := range c.waiting {
			if (fewest == nil || a.taken < fewest.taken) && s.allows(a) {
				fewest = a
			}
		}
		if fewest != nil {
			best = fewest
		}
	}
	return best
}

// stopWaiting takes the reader out of those that wait.
func (a *Allowance) stopWaiting() {
	if !a.waits {
		return
	}
	s, c := a.of, a.client
	a.waits = false
	s.waiting.Add(-1)
	c.waiting = slices.DeleteFunc(c.waiting, func(other *Allowance) bool { return other == a })
	if len(c.waiting) == 0 {
		s.queue = slices.DeleteFunc(s.queue, func(other *clientSlots) bool { return other == c })
	}
}
