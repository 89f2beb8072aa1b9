package dispatcher

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/relay"
)

// leaseAgain is how long nothing is started or stored when a lease is found invalid, before it is looked at again: a renewal may be unclear.
const leaseAgain = 500 * time.Millisecond

// maxHeldBytes bounds the bodies that one callback keeps at hand; one event is always let in.
const maxHeldBytes = 8 << 20

// callback is one callback that this replica delivers to. Everything in it is guarded by mu but what is set once.
type callback struct {
	d      *Dispatcher
	t      *tenure
	id     string
	gen    string
	log    *slog.Logger
	ctx    context.Context // of its attempts and reads: ends with the tenure's grace, or when the callback is deleted
	cancel context.CancelFunc
	under  sync.WaitGroup // its goroutines
	once   sync.Once      // guards what is done when it has ended
	place  *place         // its part of the attempts that may be under way

	mu      sync.Mutex
	target  *target
	limiter *rate.Limiter // nil: no limit
	cur     *cursor.Cursor

	// attached says that the shared reader offers it events; changed only with feed.mu held as well. indexed is the
	// target under which it stands in the feed's index.
	attached bool
	indexed  *target
	// Since attachedAt the shared reader has offered matched events: how dense its own are in the log.
	attachedAt, matched uint64

	held      map[uint64]*event // events the cursor has accepted and that no lane has swallowed
	heldBytes int

	page        []*event // read ahead, not offered yet
	pageThrough uint64   // once the page is offered, everything up to here has been
	pageAt      time.Time
	reads       uint64 // changes of target: a page read under an older one is thrown away
	filling     bool
	riding      bool // the ride of the shards it came with reads for it: it is about to join the shared reader
	blocked     bool // the next event was refused: there is no use in reading on before something has ended
	refilling   bool
	density     float64   // share of the log's entries that are its own, as seen in its pages, or counted
	counted     time.Time // when what waits unread was last counted
	unlisted    int       // events behind what lanes list, as counted at unlistedAt
	unlistedAt  time.Time
	lastRead    time.Time // log time of the last event offered
	oldest      datedSeq  // cache for Status

	adopting  bool // its document is being written under the tenure's epoch: nothing may be started before
	stopped   bool // deleted, given up, or fenced off by a successor
	left      bool // given up while it followed the shared reader
	fenced    bool // given up, or a successor has written its document: nothing may be stored any more
	ending    bool // its end has been decided (410, failing too long) and is being stored
	endedAt   int  // target.callback.Resumed when it was
	tripped   bool // the circuit was open when last looked at
	retryAt   time.Time
	testUntil time.Time // a test has a place of the concurrency until then
	timer     *time.Timer
	timerAt   time.Time
	expired   expiry
	announced time.Time
	warned    time.Time // when retries were last logged

	// What the flusher stores, and what it knows of the store.
	listed   bool // in the flusher's list
	records  []relay.AttemptRecord
	previous uint64 // position of the last batch of attempts
	known    bool   // previous is known
	revision uint64
	laneRevs map[string]uint64
	durable  uint64 // everything up to here is settled or laned, and stored as such
	holds    bool   // the stored document may say that the watermark speaks for this callback
	lagging  bool   // its oldest entry holds the watermark up for too long: its document is to say behind
}

type datedSeq struct {
	seq uint64
	at  time.Time
}

// halted says that nothing may be taken or read: paused, disabled, or about to be, or without its client. mu is held.
func (c *callback) halted() bool {
	return c.stopped || c.adopting || c.ending || c.target.orphaned || c.target.callback.Paused || c.target.callback.Disabled != nil || c.t.ending.Load()
}

// window is how many events wait at hand: enough to keep every attempt slot busy while the next ones are read.
func window(cb relay.Callback) int { return 4*max(cb.Concurrency, 1) + 32 }

// policyOf answers the rules of a callback's cursor.
func (d *Dispatcher) policyOf(cb relay.Callback) cursor.Policy {
	return cursor.Policy{
		Concurrency: concurrencyOf(cb), Window: window(cb), Schedule: d.conf.Schedule, Jitter: d.conf.Jitter,
		CircuitFailures: d.conf.CircuitFailures, ProbeSchedule: d.conf.ProbeSchedule, MaxLanes: d.conf.MaxLanes,
	}
}

// setTarget takes a changed configuration. mu is held.
func (c *callback) setTarget(t *target) {
	resumed := c.target != nil && t.callback.Resumed > c.target.callback.Resumed
	c.target = t
	c.cur.SetPolicy(c.d.policyOf(t.callback))
	switch r := t.callback.RatePerSecond; {
	case r <= 0:
		c.limiter = nil
	case c.limiter == nil || c.limiter.Limit() != rate.Limit(r):
		c.limiter = rate.NewLimiter(rate.Limit(r), max(1, int(r/20))) // bursts of 50 ms: fewer wake-ups at high rates
	}
	// What was read ahead was chosen by the filter before.
	c.reads++
	c.page, c.pageThrough, c.blocked = nil, 0, false
	if c.ending && t.callback.Resumed > c.endedAt {
		c.ending = false
	}
	if resumed {
		c.cur.ResumeAll(time.Now())
		c.retryAt, c.tripped = time.Time{}, false
	}
	if c.halted() {
		c.dropHeld(func(*event) bool { return true }) // their turn may come in days; they are read again then
	}
}

// push is the shared reader's offer. feed.mu is held.
func (c *callback) push(ev *event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fenced && c.attached {
		c.detach()
	}
	if !c.attached || c.stopped || !c.target.matches(ev) {
		return
	}
	c.matched++
	if c.halted() || !c.offer(ev) {
		// Behind: what comes from here on it reads by itself.
		c.cur.Advance(ev.Seq - 1)
		c.detach()
		c.d.flush.mark(c)
		return
	}
	c.pump(time.Now())
}

// detach leaves the shared reader. feed.mu and mu are held.
func (c *callback) detach() {
	if passed := c.d.feed.pos.Load() - min(c.d.feed.pos.Load(), c.attachedAt); passed > 0 && c.matched > 0 {
		c.density = min(float64(c.matched)/float64(passed), 1)
	}
	c.attached = false
	c.d.feed.leave(c, c.indexed)
}

// attach joins the shared reader. feed.mu and mu are held.
func (c *callback) attach() {
	c.attached, c.indexed = true, c.target
	c.attachedAt, c.matched = c.d.feed.pos.Load(), 0
	c.d.feed.enter(c, c.indexed)
}

// offer hands an event to the cursor; false says that there is no room for it now. mu is held.
func (c *callback) offer(ev *event) bool {
	if len(c.held) > 0 && (c.heldBytes+len(ev.Body) > maxHeldBytes || !c.d.memory.admits(c.heldBytes, len(ev.Body))) {
		return false
	}
	switch c.cur.Offer(cursor.Entry{Seq: ev.Seq, Order: ev.Order}) {
	case cursor.Full:
		return false
	case cursor.Accepted:
		c.hold(ev)
	case cursor.Laned, cursor.Ignored:
	}
	c.lastRead = ev.Time
	return true
}

// dropHeld forgets bodies; who needs one reads it from the log. mu is held.
func (c *callback) dropHeld(which func(*event) bool) {
	for _, ev := range c.held {
		if which(ev) {
			c.drop(ev)
		}
	}
}

func (c *callback) dropSeq(seq uint64) {
	if ev := c.held[seq]; ev != nil {
		c.drop(ev)
	}
}

// pump starts every attempt that may be made now and sees to what follows. mu is held.
func (c *callback) pump(now time.Time) {
	for {
		j, ok := c.take(now)
		if !ok {
			break
		}
		c.under.Go(func() { c.run(j) })
	}
	c.look(now)
}

// take answers the next attempt, if there is one to be made now. mu is held.
func (c *callback) take(now time.Time) (job, bool) {
	if c.halted() || now.Before(c.retryAt) || len(c.records) >= 2*window(c.target.callback) || !c.t.lease.Valid() {
		return job{}, false
	}
	if c.limiter != nil && c.limiter.TokensAt(now) < 1 || c.inTestsWay(now) {
		return job{}, false
	}
	most := 1
	if c.target.callback.Mode == relay.ModeLatest {
		most = cursor.LaneEntries
	}
	if !c.place.take() { // with something to send it waits for one
		if at, ok := c.cur.NextDue(now); !ok || at.After(now) || !c.place.wait() {
			return job{}, false
		}
	}
	b, ok := c.cur.Take(now, most)
	if !ok {
		c.place.release()
		return job{}, false
	}
	if c.limiter != nil {
		c.limiter.AllowN(now, 1)
	}
	j := job{batch: b, target: c.target, events: make([]*event, len(b.Seqs))}
	for i, seq := range b.Seqs {
		j.events[i] = c.held[seq]
	}
	return j, true
}

// look sees to everything but attempts after something has changed: storing it, reading on, and when to wake. mu is held.
func (c *callback) look(now time.Time) {
	if n := len(c.records); n > 0 || c.cur.Dirty() {
		c.d.flush.mark(c)
		if n >= window(c.target.callback) {
			c.d.flush.hurry(c)
		}
	}
	if c.halted() {
		return
	}
	if !c.attached && !c.filling && !c.blocked && !now.Before(c.retryAt) && c.cur.Room() && len(c.held) <= window(c.target.callback)/2 {
		c.filling = true
		c.under.Go(c.fill)
	}
	if !c.refilling && len(c.cur.Refills()) > 0 && !now.Before(c.retryAt) {
		c.refilling = true
		c.under.Go(c.refill)
	}
	at, ok := c.cur.NextDue(now)
	if len(c.records) >= 2*window(c.target.callback) || c.place.waits.Load() {
		ok = false // the flusher wakes it, or whoever gives a place back
	}
	if ok && c.limiter != nil {
		if tokens := c.limiter.TokensAt(now); tokens < 1 {
			at = later(at, now.Add(time.Duration((1-tokens)/float64(c.limiter.Limit())*float64(time.Second))+time.Millisecond))
		}
	}
	if ok && c.inTestsWay(now) { // EndTest wakes it, as a rule
		at = later(at, c.testUntil)
	}
	if now.Before(c.retryAt) {
		at, ok = later(at, c.retryAt), true
	}
	if ok && !c.t.lease.Valid() {
		at = later(at, now.Add(leaseAgain))
	}
	if ok {
		c.wakeAt(at, now)
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// wakeAt sets the callback's only timer, unless it is to ring earlier already. mu is held.
func (c *callback) wakeAt(at, now time.Time) {
	if !c.timerAt.IsZero() && !c.timerAt.After(at) && c.timerAt.After(now) {
		return
	}
	c.timerAt = at
	// At least a millisecond: a clock that stands still must not make this spin.
	if d := max(at.Sub(now), time.Millisecond); c.timer == nil {
		c.timer = time.AfterFunc(d, c.wake)
	} else {
		c.timer.Reset(d)
	}
}

func (c *callback) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.timerAt = time.Time{}
	if !c.halted() {
		c.pump(time.Now())
	}
}

// placed is called when a place was handed over. One that cannot be used now goes on to the next.
func (c *callback) placed() {
	c.wake()
	c.place.decline()
}

// stop ends the callback here: nothing is started any more, attempts under way are broken off if at once is set. It waits for
// its goroutines.
func (c *callback) stop(atOnce bool) {
	c.d.feed.mu.Lock()
	c.mu.Lock()
	c.stopped = true
	if c.attached {
		c.cur.Advance(c.d.feed.pos.Load()) // it was offered everything up to here
		if len(c.records) == 0 && !c.cur.Dirty() {
			c.durable = max(c.durable, c.cur.Position())
		}
		c.left = true
		c.detach()
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.page = nil
	c.mu.Unlock()
	c.d.feed.mu.Unlock()
	if atOnce {
		c.cancel()
	}
	c.under.Wait()
	c.cancel()
	c.place.leave()
	c.mu.Lock()
	c.dropHeld(func(*event) bool { return true })
	c.mu.Unlock()
	c.once.Do(func() { c.d.memory.callbacks.Add(-1) })
}
