package poller

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
)

const (
	// A poll that failed is tried again after failedLeast, or the interval if that is shorter, and then ever more seldom, at most maxBackoff
	// intervals apart. A connection that is polled once a day does not wait for days because the vendor was away for a moment.
	failedLeast = time.Minute
	maxBackoff  = 8
	// maxJitter bounds how long a connection whose interval is long waits before it is taken over.
	maxJitter = 30 * time.Second
	// While the store does not answer, the waits between tries grow from storeLeast to storeMost.
	storeLeast = 200 * time.Millisecond
	storeMost  = 5 * time.Second
)

// runner polls one connection under one lease. One goroutine owns everything in it but what mu guards.
type runner struct {
	p          *Poller
	lease      *shard.Lease
	generation string
	now        chan struct{} // a poll is wanted at once
	log        *slog.Logger

	doc           relay.Poll // as stored, at revision
	revision      uint64
	adopted       bool // the document carries our epoch, or there is none; no intent of another stands in it
	lost          bool // an owner of a higher epoch writes the document
	unsaved       bool // the document could not be stored when last tried
	storeFailures int  // in a row

	mu         sync.Mutex
	connection relay.Connection
	seen       seen
}

// seen is what the metrics and the API tell of a connection.
type seen struct {
	state       State
	polledAt    time.Time
	refreshedAt time.Time
	unstored    string // why a page that was read is not in the inbox yet; "" if none is waited for
}

func (p *Poller) newRunner(lease *shard.Lease, c relay.Connection, fresh bool) *runner {
	r := &runner{
		p: p, lease: lease, generation: c.Generation, now: make(chan struct{}, 1), connection: c, seen: seen{state: StateNew},
		log: p.Log.With("connection", c.ID, "shard", lease.Shard()),
	}
	if fresh {
		r.wake()
	}
	return r
}

// Change takes a new configuration of the same connection.
func (r *runner) Change(c relay.Connection) {
	r.mu.Lock()
	r.connection = c
	r.mu.Unlock()
	r.wake()
}

func (r *runner) wake() {
	select {
	case r.now <- struct{}{}:
	default: // one is wanted already
	}
}

func (r *runner) config() relay.Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connection
}

// Run polls until ctx ends or another owner is found to have taken over.
func (r *runner) Run(ctx context.Context) {
	// What was read from the vendor outlives ctx by the grace time.
	storing, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(r.p.Grace, giveUp) })()

	// Neither a start nor a shard that is taken over must send every connection's poll at once: after a moment's jitter the
	// connection is taken over, and then polled when the owner before would have.
	next := time.NewTimer(rand.N(min(r.interval()/10, maxJitter) + 1))
	defer next.Stop()
	for first := true; ; first = false {
		wanted := false
		select {
		case <-ctx.Done():
			return
		case <-r.now:
			wanted = true
		case <-next.C:
		}
		if !r.lease.Await(ctx) || !r.adopted && !r.adopt(ctx) {
			return
		}
		if left := r.left(); first && !wanted && left > 0 {
			r.set(func(s *seen) { s.state, s.polledAt = StateActive, r.doc.Outcome.At })
			next.Reset(left)
			continue
		}
		if r.config().Paused {
			r.set(func(s *seen) { s.state = StatePaused })
			continue // until it is changed
		}
		wait := r.poll(ctx, storing)
		if r.lost {
			return
		}
		next.Reset(wait)
	}
}

// left is how long a connection that was just taken over can wait for its next poll: as long as the last one, which ended well and left
// nothing behind, says; never longer than the interval, as clocks jump.
func (r *runner) left() time.Duration {
	o := r.doc.Outcome
	if o == nil || o.Result != audatex.Done.String() || o.Full || r.doc.SubscriptionID == "" || r.unsaved {
		return 0
	}
	return min(time.Until(o.At.Add(r.pause(0))), r.interval())
}

func (r *runner) interval() time.Duration {
	if s := r.config().PollIntervalSeconds; s > 0 {
		return time.Duration(s * float64(time.Second))
	}
	return r.p.Interval
}

// pause is the jittered time to the next poll after this many failures in a row.
func (r *runner) pause(failures int) time.Duration {
	d, most := r.interval(), maxBackoff*r.interval()
	if failures > 0 {
		d = min(d, failedLeast)
	}
	for ; failures > 0 && d < most; failures-- {
		d *= 2
	}
	d = min(d, most)
	return d*9/10 + rand.N(d/5+1)
}

// storeWait is the time to the next try of a store that does not answer. It is all jitter: when the store is back, ten thousand
// connections must not be.
func (r *runner) storeWait() time.Duration {
	r.storeFailures++
	return storeWait(r.storeFailures)
}

// storeWait is the same after the n-th failure in a row.
func storeWait(n int) time.Duration {
	d := min(storeLeast<<min(n-1, 10), storeMost)
	return d/4 + rand.N(d*3/4)
}

func (r *runner) set(f func(*seen)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.seen)
}

// siteOf answers the site an operational event about a connection belongs to.
func siteOf(c relay.Connection) string {
	if sites := c.SiteNames(); len(sites) == 1 {
		return sites[0]
	}
	return relay.NoSite
}

// sleep waits; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}
