package replay

import (
	"context"
	"runtime"
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

// perCPU is how many attempts of replays a replica begins in a second for each of its CPUs. They take about a twentieth
// of it then, so that new events which happen beside them are delivered about as soon as alone. A hundredth of a second's
// attempts may begin at once.
const perCPU = 250

// newPace returns the pace of all replays of a replica.
func newPace(cpus int) *rate.Limiter {
	return rate.NewLimiter(rate.Limit(perCPU*cpus), max(perCPU*cpus/100, 1))
}

// shares has what the replays of each callback may do together, beside its deliveries.
type shares struct {
	slots *capacity.Slots
	pace  *rate.Limiter // of all of them

	mu  sync.Mutex
	all map[string]*share // by delivery.Target.Key
}

// share is what the replays of one callback may do together. They take turns.
type share struct {
	of      *shares
	key     string
	members int // of: guarded by shares.mu

	turn      chan struct{} // has room for the one attempt that may begin next
	since     time.Time     // from when on it waits as long as the rate demands; of whoever has the turn
	allowance *capacity.Allowance

	mu      sync.Mutex
	rate    float64         // the callback's own; 0: none
	waiting []chan struct{} // attempts that wait for a slot, the first one first; closed when it has one
}

func newShares(slots *capacity.Slots) *shares {
	return &shares{slots: slots, pace: newPace(runtime.GOMAXPROCS(0)), all: map[string]*share{}}
}

// join adds a replay of a callback.
func (s *shares) join(of *delivery.Target) *share {
	s.mu.Lock()
	defer s.mu.Unlock()
	sh := s.all[of.Key]
	if sh == nil {
		sh = &share{of: s, key: of.Key, turn: make(chan struct{}, 1)}
		sh.allowance = s.slots.Join(of.Callback.Client, of.Key, func() { go sh.handOver() })
		s.all[of.Key] = sh
	}
	sh.members++
	sh.configure(of)
	return sh
}

// leave ends what join has begun; the replay has no attempt under way.
func (sh *share) leave() {
	sh.of.mu.Lock()
	defer sh.of.mu.Unlock()
	if sh.members--; sh.members == 0 {
		delete(sh.of.all, sh.key)
		sh.allowance.Leave()
	}
}

// configure takes the present configuration of the callback.
func (sh *share) configure(of *delivery.Target) {
	cb := &of.Callback
	sh.allowance.SetLimits(delivery.Concurrency(*cb), shareOf(*cb), cb.RatePerSecond)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	sh.rate = cb.RatePerSecond
}

// perSecond returns how many attempts may begin in a second: a quarter of what the callback's rate and its receiver
// allow; 0: any number.
func (sh *share) perSecond(now time.Time) float64 {
	sh.mu.Lock()
	rate := sh.rate
	sh.mu.Unlock()
	if s := sh.allowance.Slowed(now); s != nil && s.PerSecond > 0 && (rate == 0 || s.PerSecond < rate) {
		rate = s.PerSecond
	}
	return rate / 4
}

// take waits until an attempt may begin. One of a callback waits at a time, so that its deliveries have one rival for
// what the rate allows, however many replays there are, and each callback has its turn in the pace of all. Release must
// be called when the attempt has ended.
func (sh *share) take(ctx context.Context) error {
	select {
	case sh.turn <- struct{}{}:
		defer func() { <-sh.turn }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := sh.of.pace.Wait(ctx); err != nil {
		return err
	}
	for {
		for wait := sh.untilDue(); wait > 0 && ctx.Err() == nil; wait = sh.untilDue() {
			backoff.Sleep(ctx, min(wait, longestWait))
		}
		if err := sh.wait(ctx); err != nil {
			return err
		}
		now := time.Now()
		wait := sh.allowance.Wait(now)
		if wait <= 0 && sh.allowance.UseRate(now) {
			sh.began(now)
			return nil
		}
		sh.release() // deliveries have used the rate up, or the receiver has asked for less
		backoff.Sleep(ctx, min(wait, longestWait))
	}
}

// untilDue returns how long the next attempt waits by the present rate.
func (sh *share) untilDue() time.Duration {
	now := time.Now()
	return sh.due(now).Sub(now)
}

// due returns when the next attempt may begin by the present rate.
func (sh *share) due(now time.Time) time.Time {
	each := sh.perSecond(now)
	if each <= 0 {
		return now
	}
	return sh.since.Add(time.Duration(float64(time.Second) / each))
}

// began notes that an attempt begins.
func (sh *share) began(now time.Time) {
	sh.since = sh.due(now)
	if earliest := now.Add(-behind); sh.since.Before(earliest) {
		sh.since = earliest
	}
}

// behind is how far attempts may be behind their rate: at high rates they need not each be waited for.
const behind = 50 * time.Millisecond

// longestWait is how long an attempt waits at most before it looks again whether it may begin: an
// operator may have ended the wait.
const longestWait = time.Second

// wait waits for a slot.
func (sh *share) wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	sh.mu.Lock()
	if len(sh.waiting) == 0 && sh.allowance.Take() {
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

// release gives a slot back.
func (sh *share) release() {
	sh.allowance.Release()
	sh.handOver()
}

// handOver gives slots to the attempts that wait, as long as there are any.
func (sh *share) handOver() {
	sh.mu.Lock()
	defer sh.mu.Unlock()
	for len(sh.waiting) > 0 {
		if !sh.allowance.Take() {
			return // it is called again when there is one
		}
		close(sh.waiting[0])
		sh.waiting = sh.waiting[1:]
	}
	sh.allowance.Decline()
}
