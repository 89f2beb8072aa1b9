package poller

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/shard"
)

const (
	// A poll that failed is tried again after failedLeast, or the interval if that is shorter, and
	// then ever more seldom, at most maxBackoff intervals apart. A connection that is polled once a
	// day does not wait for days because the vendor was away for a moment.
	failedLeast = time.Minute
	maxBackoff  = 8
	// maxJitter bounds how long a connection whose interval is long waits before it is taken over.
	// takeOverEach is how long each of many has, however short their intervals are.
	maxJitter    = 30 * time.Second
	takeOverEach = time.Millisecond
	// While the store does not respond, the waits between tries grow from storeLeast to storeMost.
	storeLeast = 200 * time.Millisecond
	storeMost  = 5 * time.Second
)

// runner polls one connection under one lease. Its turns own everything in it but what mu guards.
type runner struct {
	p          *Poller
	lease      *shard.Lease
	generation string
	wake       func()
	now        atomic.Bool // a poll is wanted at once
	changed    atomic.Bool // the connection's document has changed: a poll is wanted soon
	log        *slog.Logger

	plan            schedule
	last            attempt // what became of the poll that was due last
	awaitsFirstPoll bool    // the next poll that succeeds is the first, or the first after a consent
	weight          float64 // ordinary polls a second, as the pace knows of them

	doc           relay.Poll // as stored, at revision
	revision      uint64
	begun         bool      // it has had its first turn
	resumed       bool      // the schedule continues from where the document left it
	adopted       bool      // the document carries our epoch, or there is none; no intent of another stands in it
	lost          bool      // an owner of a higher epoch writes the document
	unsaved       bool      // the document could not be stored when last tried
	storeFailures int       // in a row
	renewal       time.Time // when the token of a paused connection must be refreshed; zero: it is not known yet
	topicLogged   bool      // that the subscription's topic is not the setting's
	reportedGaps  uint64    // of doc's Gaps, how many the reconciler knows of

	mu         sync.Mutex
	connection relay.Connection
	consented  bool // since follow looked last
	seen       seen
}

// seen is what the metrics and the API show of a connection.
type seen struct {
	state State
	// known: the connection's document has been read, so that polledAt is what it seems to be.
	known    bool
	polledAt time.Time // when a poll last succeeded; zero: none has yet
	// consentSince is since when a user must consent again; zero: none must.
	consentSince time.Time
	noToken      bool   // nobody has consented yet
	unstored     string // why a page that was read is not in the inbox yet; "" if none is waited for
}

func (p *Poller) newRunner(lease *shard.Lease, c relay.Connection, fresh bool, wake func()) *runner {
	r := &runner{
		p: p, lease: lease, generation: c.Generation, wake: wake, connection: c,
		seen: seen{state: StateNew}, log: p.Log.With("connection", c.ID, "shard", lease.Shard()),
		plan: schedule{phase: phaseOf(c.ID)},
	}
	r.changed.Store(fresh)
	p.Session(c).TokenReplaced()
	return r
}

// Change takes a new configuration of the same connection.
func (r *runner) Change(c relay.Connection) {
	r.mu.Lock()
	if c.Consent != nil && (r.connection.Consent == nil || r.connection.Consent.ID != c.Consent.ID) {
		r.consented = true
	}
	r.connection = c
	r.mu.Unlock()
	r.p.Session(c).TokenReplaced() // whoever writes tokens writes the connection afterwards
	r.changed.Store(true)
	r.wake()
}

// pollNow has a poll made at once.
func (r *runner) pollNow() {
	r.now.Store(true)
	r.wake()
}

func (r *runner) config() relay.Connection {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.connection
}

// Turn does what is due, and returns when there is something to decide next; false if that is
// nothing any more.
func (r *runner) Turn(ctx context.Context) (time.Duration, bool) {
	if ctx.Err() == nil {
		if wait, goesOn := r.turn(ctx); goesOn {
			return wait, true
		}
	}
	r.updatePace(0)
	c := r.config()
	r.p.Session(c).Forget()
	if _, there := r.p.Connection(c.ID); !there {
		r.p.unsentPolls.Delete(c.ID)
	}
	return 0, false
}

func (r *runner) turn(ctx context.Context) (time.Duration, bool) {
	r.applySettings()
	wanted, begun := r.now.Swap(false), r.begun
	r.begun = true
	if r.changed.Swap(false) {
		r.plan.hurry(time.Now())
	} else if !begun && !wanted {
		return rand.N(takenOverWithin(r.plan.interval, r.p.known()) + 1), true
	}
	return r.act(ctx, wanted)
}

// takenOverWithin is how long the taking over of connections is spread over: neither a start nor a
// shard that comes must have every document read and written at once.
func takenOverWithin(interval time.Duration, connections int) time.Duration {
	return max(min(interval/10, maxJitter), time.Duration(connections)*takeOverEach)
}

// act is a turn that may poll.
func (r *runner) act(ctx context.Context, wanted bool) (time.Duration, bool) {
	if !r.lease.Await(ctx) || !r.adopted && !r.adopt(ctx) {
		return 0, false
	}
	if !r.resumed {
		r.resumed = true
		r.resume()
	}
	r.publishUnpublishedGaps(ctx)
	if r.config().Paused {
		r.set(func(s *seen) { s.state = StatePaused })
		return r.keepToken(ctx), true
	}
	now := time.Now()
	switch {
	case wanted || r.plan.may(now, &r.p.pace, r.p.short):
		r.last = pollMade
		wait := r.pollOnce(ctx)
		if r.lost {
			return 0, false
		}
		now = time.Now()
		r.plan.tried(now, wait, r.last)
	case r.plan.blockedByStore:
		r.plan.tried(now, r.storeWait(), pollBlocked)
	}
	return r.plan.next(now).Sub(now.Round(0)), true
}

// pollOnce is poll. What was read from the vendor outlives ctx by the grace time.
func (r *runner) pollOnce(ctx context.Context) time.Duration {
	storing, giveUp := context.WithCancel(context.WithoutCancel(ctx))
	defer giveUp()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(r.p.Grace, giveUp) })()
	return r.poll(ctx, storing)
}

// applySettings keeps the schedule as the connection's document has it.
func (r *runner) applySettings() {
	r.plan.interval = r.interval()
	r.plan.sooner = min(r.p.Sooner, r.plan.interval)
	r.mu.Lock()
	paused, consented := r.connection.Paused, r.consented
	r.consented = false
	r.mu.Unlock()
	r.awaitsFirstPoll = r.awaitsFirstPoll || consented
	if paused {
		r.updatePace(0)
		return
	}
	r.updatePace(1 / r.plan.interval.Seconds())
}

func (r *runner) updatePace(perSecond float64) {
	if perSecond != r.weight {
		r.p.pace.add(perSecond - r.weight)
		r.weight = perSecond
	}
}

// resume continues the schedule of whoever polled the connection before, as far as its last poll
// has ended well and left nothing behind.
func (r *runner) resume() {
	now := time.Now()
	o := r.doc.Outcome
	r.set(func(s *seen) {
		s.known, s.polledAt = true, r.doc.PolledAt
		if since := r.doc.ConsentPublishedFor; since != nil {
			s.consentSince = *since
		}
	})
	r.awaitsFirstPoll = r.awaitsFirstPoll || o == nil
	if o == nil || o.Result != audatex.Done.String() || o.Full || r.doc.SubscriptionID == "" || r.unsaved {
		r.plan.hurry(now)
		return
	}
	hurried := r.plan.late // by a change
	r.plan.resume(now, o.At)
	r.plan.late = r.plan.late || hurried
	if r.doc.SoonerUntil != nil {
		r.plan.until = *r.doc.SoonerUntil
	}
	r.set(func(s *seen) { s.state = StateActive })
}

// polledSooner has a connection polled sooner for a while.
func (r *runner) polledSooner() {
	if r.p.SoonerFor > 0 && r.plan.sooner < r.plan.interval {
		until := time.Now().Add(r.p.SoonerFor).UTC().Truncate(time.Second)
		r.plan.until, r.doc.SoonerUntil = until, &until
	}
}

func (r *runner) interval() time.Duration { return r.p.intervalOf(r.config()) }

func (p *Poller) intervalOf(c relay.Connection) time.Duration {
	if s := c.PollIntervalSeconds; s > 0 {
		return time.Duration(s * float64(time.Second))
	}
	return p.Interval
}

// pause is the time to the next poll after this many failures in a row: with jitter, but to the
// connection's own place in the interval if there are none.
func (r *runner) pause(failures int) time.Duration {
	if failures == 0 {
		now := time.Now()
		return r.plan.ordinary(now).Sub(now.Round(0))
	}
	d, most := min(r.interval(), failedLeast), maxBackoff*r.interval()
	for ; failures > 0 && d < most; failures-- {
		d *= 2
	}
	d = min(d, most)
	return d*9/10 + rand.N(d/5+1)
}

// storeWait is the time to the next try of a store that does not respond. It is all jitter: when the
// store is back, ten thousand connections must not be.
func (r *runner) storeWait() time.Duration {
	r.storeFailures++
	return storeWait(r.storeFailures)
}

// storeWait is the same after the n-th failure in a row.
func storeWait(n int) time.Duration {
	d := min(storeLeast<<min(n-1, 10), storeMost)
	return d/4 + rand.N(d*3/4)
}

// blocked notes that the store does not allow a poll, and returns the time to the next try.
func (r *runner) blocked() time.Duration {
	r.last = pollBlocked
	return r.storeWait()
}

func (r *runner) set(f func(*seen)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.seen)
}
