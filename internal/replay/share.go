package replay

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
)

// shareOf returns how many attempts of a callback's replays may be under way: at most a quarter of
// its concurrency, and at least one.
func shareOf(cb relay.Callback) int { return max(cb.Concurrency/4, 1) }

// shares has what the replays of each callback may do together, beside its deliveries.
type shares struct {
	places *capacity.Places

	mu  sync.Mutex
	all map[string]*share // by delivery.Target.Key
}

// share is what the replays of one callback may do together. They take turns.
type share struct {
	of      *shares
	key     string
	members int // of: guarded by shares.mu

	pace *rate.Limiter // a quarter of the callback's rate

	mu      sync.Mutex
	place   *capacity.Place
	waiting []chan struct{} // attempts that wait for a place, the first one first; closed when it has one
}

func newShares(places *capacity.Places) *shares {
	return &shares{places: places, all: map[string]*share{}}
}

// join adds a replay of a callback.
func (s *shares) join(of *delivery.Target) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.all[of.Key]
	if sh == nil {
		sh = &share{of: s, key: of.Key, pace: rate.NewLimiter(rate.Inf, 1)}
		sh.place = s.places.Join(of.Callback.Client, of.Key, func() { go sh.handOver() })
		s.all[of.Key] = sh
	}
	sh.members++
	sh.bound(of)
	return sh
}

// leave ends what join has begun; the replay has no attempt under way.
func (sh *share) leave() {
	sh.of.mu.Lock()
	defer sh.of.mu.Unlock()
	if sh.members--; sh.members == 0 {
		delete(sh.of.all, sh.key)
		sh.place.Leave()
	}
}

// bound takes the present configuration of the callback.
func (sh *share) bound(of *delivery.Target) {
	cb := &of.Callback
	sh.place.Bound(delivery.Concurrency(*cb), shareOf(*cb), cb.RatePerSecond)
	limit := rate.Inf
	if cb.RatePerSecond > 0 {
		limit = rate.Limit(cb.RatePerSecond / 4)
	}
	if sh.pace.Limit() != limit {
		sh.pace.SetLimit(limit)
	}
}

// take waits until an attempt may begin. Release must be called when it has ended.
func (sh *share) take(ctx context.Context) error {
	if err := sh.pace.Wait(ctx); err != nil {
		return err
	}
	for {
		if err := sh.wait(ctx); err != nil {
			return err
		}
		now := time.Now()
		wait := sh.place.Wait(now)
		if wait <= 0 && sh.place.UseRate(now) {
			return nil
		}
		sh.release() // deliveries have used the rate up, or the receiver has asked for less
		backoff.Sleep(ctx, min(wait, longestWait))
	}
}

// longestWait is how long an attempt waits at most before it looks again whether it may begin: an
// operator may have ended the wait.
const longestWait = time.Second

// wait waits for a place.
func (sh *share) wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	sh.mu.Lock()
	if len(sh.waiting) == 0 && sh.place.Take() {
		sh.mu.Unlock()
		return nil
	}
	mine := make(chan struct{})
	sh.waiting = append(sh.waiting, mine)
	sh.mu.Unlock()
	select {
	case <-mine:
		return nil
	case <-ctx.Done():
	}
	sh.mu.Lock()
	for i, other := range sh.waiting {
		if other == mine {
			sh.waiting = append(sh.waiting[:i], sh.waiting[i+1:]...)
			sh.mu.Unlock()
			return ctx.Err()
		}
	}
	sh.mu.Unlock()
	sh.release() // it was handed over in this moment
	return ctx.Err()
}

// release gives a place back.
func (sh *share) release() {
	sh.place.Release()
	sh.handOver()
}

// handOver gives places to those who wait, as far as there are some.
func (sh *share) handOver() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for len(sh.waiting) > 0 {
		if !sh.place.Take() {
			return // it is called again when there is one
		}
		close(sh.waiting[0])
		sh.waiting = sh.waiting[1:]
	}
	sh.place.Decline()
}
