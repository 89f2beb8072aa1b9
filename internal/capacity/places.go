// Package capacity divides what all callbacks of a replica share, so that receivers that hang take nothing that others
// need: attempts under way (Places), bodies that attempts have read for themselves (Bodies), and bodies that callbacks
// keep at hand (Memory); and how much a receiver gets that asks for less (Place.Wait, slowdown.go). Nothing here waits:
// who gets nothing now is told so, and whoever waits for a place is woken. Begin reading at Places.
package capacity

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// Places bounds the attempts that may be under way at once, and divides them:
//
//   - Half of all places are guaranteed, in equal parts to the clients that have callbacks here and to one that may come.
//     Nobody else gets those.
//   - Of the other half a client takes no more than it leaves free. However many clients take all they can, the next one
//     still finds some.
//   - A reader of a callback takes at most twice what it leaves free of what its client may have. Each gets a first place
//     if there is one.
//   - All readers of a callback together take no more than its concurrency, and each no more than its own bound.
//   - Who was refused waits. When a place becomes free it is given to the waiting client with the fewest attempts under
//     way, and of its waiting readers to the one with the fewest. Whoever gives a place back does not get it again while
//     others with fewer wait.
//
// An attempt is bounded in time, so places always become free again, and everybody who waits gets one. Places is safe
// for concurrent use.
type Places struct {
	limit int

	mu        sync.Mutex // nothing but wake functions is called while it is locked
	taken     int
	each      int // guaranteed to each client
	beyond    int // taken beyond the guaranteed parts
	clients   map[string]*clientPlaces
	callbacks map[string]*callbackPlaces
	queue     []*clientPlaces // those with readers that wait
	waiting   atomic.Int64    // readers that wait
}

// clientPlaces is what the callbacks of one client have.
type clientPlaces struct {
	id      string
	members int
	taken   int
	waiting []*Place // in the order in which they were refused
}

// callbackPlaces is what the readers of one callback have together.
type callbackPlaces struct {
	readers, taken, concurrency int
	limiter                     atomic.Pointer[rate.Limiter] // nil: no limit
	slow                        atomic.Pointer[slowdown]     // nil: the receiver is not overloaded
	accepted                    atomic.Int64                 // when the receiver accepted an attempt last, in nanoseconds
}

// Place is what one reader of a callback has: its deliveries, a replay.
type Place struct {
	of       *Places
	client   *clientPlaces
	key      string
	callback *callbackPlaces
	wake     func()
	most     int  // 0: as many as the callback may have
	taken    int  // those given to it while it waited included
	granted  bool // a place was given to it and has not been used yet
	waits    bool
	left     bool
}

// NewPlaces returns so many places.
func NewPlaces(limit int) *Places {
	return &Places{limit: max(limit, 1), clients: map[string]*clientPlaces{}, callbacks: map[string]*callbackPlaces{}}
}

// Join adds a reader of a callback. The key names the callback, and all its readers give the same; an empty one is a
// callback of its own. Wake is called when a place was given to the reader after it was refused one: it must return at
// once, and must not call Places.
func (p *Places) Join(client, key string, wake func()) *Place {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.clients[client]
	if c == nil {
		c = &clientPlaces{id: client}
		p.clients[client] = c
		p.divide()
		p.giveFree() // the parts may have become so small that more is left to share
	}
	c.members++
	cb := p.callbacks[key]
	if cb == nil {
		cb = &callbackPlaces{}
		if key != "" {
			p.callbacks[key] = cb
		}
	}
	cb.readers++
	return &Place{of: p, client: c, key: key, callback: cb, wake: wake}
}

// Taken returns how many places are taken.
func (p *Places) Taken() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken
}

// Waiting returns how many readers wait for a place. Who gives one back while others wait must not keep it instead.
func (p *Places) Waiting() int { return int(p.waiting.Load()) }

// Short returns how many readers wait for a place that their own bounds would let them have.
func (p *Places) Short() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.queue {
		for _, pl := range c.waiting {
			if !pl.full() {
				n++
			}
		}
	}
	return n
}

// Bound sets how many places all readers of the callback may have together, how many this one (0: as many), and how many
// attempts they may begin in a second (0: any number). Without it there is no bound but those of the client.
func (pl *Place) Bound(concurrency, most int, perSecond float64) {
	p, cb := pl.of, pl.callback
	p.mu.Lock()
	defer p.mu.Unlock()
	switch limiter := cb.limiter.Load(); {
	case perSecond <= 0:
		cb.limiter.Store(nil)
	case limiter == nil || limiter.Limit() != rate.Limit(perSecond):
		cb.limiter.Store(rate.NewLimiter(rate.Limit(perSecond), max(1, int(perSecond/20)))) // bursts of 50 ms: fewer wake-ups at high rates
	}
	cb.concurrency, pl.most = concurrency, most
	p.giveFree()
}

// RateWait returns how long the callback's rate asks to wait before the next attempt begins.
func (pl *Place) RateWait(now time.Time) time.Duration {
	limiter := pl.callback.limiter.Load()
	if limiter == nil {
		return 0
	}
	tokens := limiter.TokensAt(now)
	if tokens >= 1 {
		return 0
	}
	return time.Duration((1-tokens)/float64(limiter.Limit())*float64(time.Second)) + time.Millisecond
}

// UseRate notes that an attempt begins. False means that it must not: another reader of the callback was faster.
func (pl *Place) UseRate(now time.Time) bool {
	if limiter := pl.callback.limiter.Load(); limiter != nil && !limiter.AllowN(now, 1) {
		return false
	}
	if s := pl.callback.slow.Load(); s != nil {
		s.began(now)
	}
	return true
}

// Leave ends a reader's membership; it must have given back what it took. It may be called more than once.
func (pl *Place) Leave() {
	p := pl.of
	p.mu.Lock()
	defer p.mu.Unlock()
	if pl.left {
		return
	}
	pl.left = true
	pl.stopWaiting()
	if pl.granted {
		pl.granted = false
		pl.count(-1)
	}
	if pl.callback.readers--; pl.callback.readers == 0 && p.callbacks[pl.key] == pl.callback {
		delete(p.callbacks, pl.key)
	}
	if pl.client.members--; pl.client.members == 0 {
		delete(p.clients, pl.client.id)
		p.divide()
	}
	p.giveFree()
}

// Take takes a place. If the reader may have none now it waits, and is woken once a place was given to it, which the
// next Take takes.
func (pl *Place) Take() bool {
	p := pl.of
	p.mu.Lock()
	defer p.mu.Unlock()
	if pl.take() {
		return true
	}
	if !pl.waits && !pl.left {
		pl.waits = true
		p.waiting.Add(1)
		if len(pl.client.waiting) == 0 {
			p.queue = append(p.queue, pl.client)
		}
		pl.client.waiting = append(pl.client.waiting, pl)
	}
	return false
}

// TryTake takes a place if the reader may have one now.
func (pl *Place) TryTake() bool {
	pl.of.mu.Lock()
	defer pl.of.mu.Unlock()
	return pl.take()
}

// Release gives one place back.
func (pl *Place) Release() {
	pl.of.mu.Lock()
	defer pl.of.mu.Unlock()
	pl.count(-1)
	pl.of.giveFree()
}

// Decline gives back a place that was given after waiting, if it has not been taken.
func (pl *Place) Decline() {
	pl.of.mu.Lock()
	defer pl.of.mu.Unlock()
	if pl.granted {
		pl.granted = false
		pl.count(-1)
		pl.of.giveFree()
	}
}

func (pl *Place) take() bool {
	if pl.granted {
		pl.granted = false
		return true
	}
	if pl.left || !pl.of.allows(pl) {
		return false
	}
	pl.stopWaiting() // it has what it waited for
	pl.count(1)
	return true
}

// allows reports whether the reader may have one more.
func (p *Places) allows(pl *Place) bool {
	if pl.full() {
		return false
	}
	room := p.room(pl.client)
	return room > 0 && (pl.taken == 0 || pl.client.members == 1 || pl.taken < 2*room)
}

// full reports whether the reader's own bounds keep it from having one more.
func (pl *Place) full() bool {
	cb := pl.callback
	return cb.concurrency > 0 && cb.taken >= cb.concurrency || pl.most > 0 && pl.taken >= pl.most
}

// room returns how many more places a client may take.
func (p *Places) room(c *clientPlaces) int {
	free := p.limit - p.taken
	own := max(p.each-c.taken, 0)
	beyond := max(c.taken-p.each, 0)
	shared := p.limit - p.each*(len(p.clients)+1) - p.beyond
	return min(own+max((shared-beyond+1)/2, 0), free)
}

// count counts a place taken (1) or given back (-1).
func (pl *Place) count(n int) {
	p := pl.of
	p.beyond -= max(pl.client.taken-p.each, 0)
	pl.taken += n
	pl.callback.taken += n
	pl.client.taken += n
	p.taken += n
	p.beyond += max(pl.client.taken-p.each, 0)
}

// divide works the guaranteed parts out again: the number of clients has changed.
func (p *Places) divide() {
	p.each, p.beyond = p.limit/(2*(len(p.clients)+1)), 0
	for _, c := range p.clients {
		p.beyond += max(c.taken-p.each, 0)
	}
}

// giveFree gives free places to those who wait, as long as one of them may have one.
func (p *Places) giveFree() {
	for len(p.queue) > 0 && p.taken < p.limit {
		pl := p.next()
		if pl == nil {
			return
		}
		pl.stopWaiting()
		pl.count(1)
		pl.granted = true
		pl.wake()
	}
}

// next returns whose turn it is, nil if nobody who waits may have a place.
func (p *Places) next() (best *Place) {
	for _, c := range p.queue {
		if best != nil && c.taken >= best.client.taken {
			continue
		}
		var fewest *Place
		for _, pl := range c.waiting {
			if (fewest == nil || pl.taken < fewest.taken) && p.allows(pl) {
				fewest = pl
			}
		}
		if fewest != nil {
			best = fewest
		}
	}
	return best
}

// stopWaiting takes the reader out of those who wait.
func (pl *Place) stopWaiting() {
	if !pl.waits {
		return
	}
	p, c := pl.of, pl.client
	pl.waits = false
	p.waiting.Add(-1)
	c.waiting = slices.DeleteFunc(c.waiting, func(other *Place) bool { return other == pl })
	if len(c.waiting) == 0 {
		p.queue = slices.DeleteFunc(p.queue, func(other *clientPlaces) bool { return other == c })
	}
}
