package dispatcher

import (
	"maps"
	"slices"
	"time"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/capacity"
	"github.com/audatex-relay/relay/internal/cursorstore"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/logreader"
	"github.com/audatex-relay/relay/internal/notice"
)

// core is what a shard's callbacks have come to, and every decision about them: step takes a message and returns what
// must be done. It has no channel, no clock and no store; a loop owns it (loop.go).
type core struct {
	*environment
	now   time.Time // of the present step
	valid bool      // whether the lease was, at its beginning

	callbacks    map[string]*callback
	retiring     map[string]*callback // deleted, made again or fenced: they are not loaded
	arriving     arriving
	shared       group     // callbacks that read with the replica's shared reader
	catchUpGroup group     // callbacks that catch up together
	alarm        time.Time // the earliest time at which a callback must be looked at, or before it; zero if there is none
	toStore      toStore
	underWay     int // attempts, reads, rounds and whatever else the loop has begun for this core and not answered
	ending       ending
	out          effects
}

// arriving is what is still to be loaded.
type arriving struct {
	missing map[string]bool // registered callbacks that are not loaded yet
	listed  bool            // the shard has been loaded once
	loading bool
	again   time.Time // nothing is loaded before
}

// environment is what the cores of a replica share. It is safe for concurrent use.
type environment struct {
	conf    *Config
	metrics *delivery.Metrics
	memory  *capacity.Memory
	places  *capacity.Places
	pacer   *cursorstore.Pacer
	batch   int // bytes that a batch of attempts may have
}

// ending is how far a shard that is given up has come.
type ending struct {
	begun  bool
	rounds int  // of storing, since nothing has been under way
	marked bool // the last watermark has been stored, or does not have to be
}

// message is something that has happened. The messages are, in the order of a delivery's life:
type message any

type (
	// newEvents are events that one of the two readers has read for this shard; everything up to through has been.
	newEvents struct {
		of      *group
		events  []*delivery.Event
		through uint64
	}
	// ringPage is what the ring of the shared reader has for a callback that reads by itself. If it has all of it the
	// callback may join: the events that follow will be among newEvents.
	ringPage struct {
		read read
		logreader.RingPage
	}
	// logPage is a page of the log for a callback that reads by itself.
	logPage struct {
		read read
		logreader.Page
		err error
	}
	// refilled is what waits behind a lane's entries.
	refilled struct {
		refill  refill
		seqs    []uint64
		through uint64
		err     error
		more    bool // others of the same callback follow
	}
	// placed reports that a place was handed to a callback that waited for one.
	placed struct{ cb *callback }
	// attemptEnded is an attempt that has ended.
	attemptEnded struct{ job *job }
	// roundEnded is a round of storing that has ended.
	roundEnded struct{ round *round }
	// logBegins reports the log's first position.
	logBegins struct{ first uint64 }
	// tick reports that time has passed.
	tick struct{}
	// configured is a callback's present configuration; nil if it is not registered.
	configured struct {
		id     string
		target *delivery.Target
	}
	// adopted are callbacks that were loaded and are this owner's; first is the log's first position.
	adopted struct {
		callbacks []*callback
		mark      cursorstore.Watermark
		first     uint64
	}
	// loadEnded reports that a load has ended: all of it is adopted or not registered any more, or it failed.
	loadEnded struct {
		*load
		failed bool
	}
	// catchUpBegins and catchUpEnds enclose the newEvents for those that catch up together.
	catchUpBegins struct {
		members []read
		from    uint64
		feed    *logreader.Shared // the loop's, to take them from
	}
	catchUpEnds struct{}
	// laterOwner reports that a document of a higher epoch was found.
	laterOwner struct{ epoch uint64 }
	// question is somebody's question or an operator's word; answer is called once.
	question struct{ answer func(*core) }
	// done reports that something else has ended that the core had asked for.
	done struct {
		retired   *callback
		published *fact
	}
	// giveUp means that the shard must be given up.
	giveUp struct{}
)

// effects are what must be done after a step. They are valid until the next one.
type effects struct {
	begin      []*job     // attempts to be made, each by a worker of its own
	next       []*job     // attempts to be made by the worker that has just ended one
	idle       []*job     // workers that have no more to do
	ring       []read     // to be looked for in the ring
	pages      []read     // to be read from the log
	refills    [][]refill // of one callback each
	catchUp    []read     // to be caught up together
	interest   []logreader.Interest
	round      *round
	facts      []*fact
	disables   []disablement
	load       *load
	cancel     []*callback // what is under way of it is broken off
	retired    []*callback // nothing of it is under way any more
	recheck    []string    // callbacks whose settings may have changed meanwhile: each must be configured
	laterEpoch uint64      // 0, or a later owner's epoch
}

func newCore(e *environment) *core {
	return &core{
		environment: e, callbacks: map[string]*callback{}, retiring: map[string]*callback{}, arriving: arriving{missing: map[string]bool{}},
		shared: newGroup(readsShared), catchUpGroup: newGroup(readsCatchUp),
		toStore: toStore{unstored: map[*callback]struct{}{}, urgent: map[*callback]struct{}{}},
	}
}

// step does what a message means for the shard.
func (c *core) step(m message, now time.Time, leaseValid bool) *effects {
	c.now, c.valid = now, leaseValid
	c.out.reset()
	switch m := m.(type) {
	case *newEvents:
		c.offerAll(m)
	case *ringPage:
		c.tookFromRing(m)
	case *logPage:
		c.tookFromLog(m)
	case *refilled:
		c.refilled(m)
	case placed:
		if m.cb.sending.waiting = false; m.cb.phase < retiring {
			c.pump(m.cb)
		}
		m.cb.sending.place.Decline() // one that cannot be used now goes on to the next
	case attemptEnded:
		c.attemptEnded(m.job)
	case roundEnded:
		c.roundEnded(m.round)
	case logBegins:
		c.logBegins(m.first)
	case tick:
		c.tick()
	case configured:
		c.configured(m)
	case *adopted:
		c.adopted(m)
	case loadEnded:
		c.loadEnded(m)
	case *catchUpBegins:
		c.catchUpBegins(m)
	case catchUpEnds:
		c.catchUpEnds()
	case laterOwner:
		c.laterOwner(m.epoch)
	case question:
		m.answer(c)
	case done:
		c.done(m)
	case giveUp:
		c.giveUp()
	}
	c.loadNext()
	c.storeNext()
	return &c.out
}

// finished reports whether the shard has been given up and nothing is under way.
func (c *core) finished() bool { return c.ending.marked && c.underWay == 0 }

// wake is when the next tick is needed, zero if none is.
func (c *core) wake() time.Time {
	if c.ending.begun {
		return time.Time{}
	}
	at := backoff.Earlier(backoff.Earlier(c.alarm, c.toStore.sweepAt), c.arriving.again)
	if !c.toStore.storing {
		at = backoff.Earlier(at, c.toStore.flushAt)
	}
	return at
}

// pump starts every attempt of a callback that may be made now and sees to what follows.
func (c *core) pump(cb *callback) {
	for {
		j := c.nextJob(cb, nil, false)
		if j == nil {
			break
		}
		c.out.begin = append(c.out.begin, j)
	}
	c.followUp(cb)
}

// followUp sees to everything but attempts after something has changed: storing it, reading on, and when to look again.
func (c *core) followUp(cb *callback) {
	c.markChanged(cb)
	var at time.Time
	if !c.halted(cb) {
		if r := &cb.reading; r.source == readsItself && !r.fetching && r.atHand.Len() <= window(cb.target.Callback)/2 {
			c.readOn(cb)
		}
		c.refill(cb)
		at = c.nextAttempt(cb)
	}
	c.wakeAt(cb, backoff.Earlier(backoff.Earlier(at, cb.noticeAt), cb.sending.test.Until))
}

// tick does what is due: callbacks, the watermark, and forgetting pages that nobody uses.
func (c *core) tick() {
	if !c.alarm.IsZero() && !c.alarm.After(c.now) {
		c.alarm = time.Time{}
		for _, cb := range c.callbacks {
			if cb.wakeAt.IsZero() || cb.wakeAt.After(c.now) {
				c.wakeAt(cb, cb.wakeAt)
				continue
			}
			if at := cb.noticeAt; !at.IsZero() && !at.After(c.now) {
				c.publishNotices(cb)
			}
			if !c.now.Before(cb.sending.test.Until) {
				cb.sending.test.End(cb.sending.place)
			}
			c.pump(cb)
		}
	}
	if !c.toStore.sweepAt.After(c.now) {
		c.toStore.sweepAt = c.now.Add(sweepEvery)
		c.sweep()
	}
}

// configured takes the present configuration of a callback: it takes effect with the next attempt.
func (c *core) configured(m configured) {
	cb := c.callbacks[m.id]
	switch {
	case c.ending.begun:
	case cb != nil && m.target != nil && m.target.SameAs(cb.target):
	case cb != nil && m.target != nil && m.target.Callback.Generation == cb.gen:
		c.retarget(cb, m.target)
	case cb != nil: // deleted, or made again under the same id
		c.retire(cb)
	case m.target == nil:
		delete(c.arriving.missing, m.id)
	case c.retiring[m.id] == nil:
		c.arriving.missing[m.id] = true
	}
}

func (c *core) retarget(cb *callback, t *delivery.Target) {
	r := &cb.reading
	joins := r.source == readsShared && !t.Orphaned // an orphaned one has to read what comes once its client is known
	c.advance(cb)
	if r.indexed != nil {
		c.leave(cb)
		c.markUnstored(cb)
	}
	if c.setTarget(cb, t); joins { // what it wants now may have been read, and not been for this shard: the ring has it
		c.readRing(cb)
	}
	c.pump(cb)
}

// retire ends a callback that is registered no more. Once nothing of it is under way its cursor is erased.
func (c *core) retire(cb *callback) {
	c.remove(cb, retiring)
	c.retiring[cb.id] = cb
	c.out.cancel = append(c.out.cancel, cb)
	c.settleRetired(cb)
}

// remove takes a callback out of everything that would start or store something of it.
func (c *core) remove(cb *callback, why phase) {
	cb.phase = why
	delete(c.callbacks, cb.id)
	if cb.reading.source != readsItself {
		c.leave(cb)
	}
	cb.reading.page = nil
	cb.reading.atHand.DropAll()
	c.wakeAt(cb, time.Time{})
	delete(c.toStore.unstored, cb)
	delete(c.toStore.urgent, cb)
}

// settleRetired hands a callback over whose last attempt, read or round has ended.
func (c *core) settleRetired(cb *callback) {
	if cb.outstanding == 0 && cb.phase >= retiring {
		cb.reading.atHand.DropAll()
		c.underWay++
		c.out.retired = append(c.out.retired, cb)
	}
}

// began and over count what is under way for a callback.
func (c *core) began(cb *callback) {
	cb.outstanding++
	c.underWay++
}

func (c *core) over(cb *callback) {
	cb.outstanding--
	c.underWay--
	c.settleRetired(cb)
}

func (c *core) done(m done) {
	c.underWay--
	if cb := m.retired; cb != nil && cb.phase == retiring {
		delete(c.retiring, cb.id)
		c.out.recheck = append(c.out.recheck, cb.id)
	}
	if f := m.published; f != nil {
		c.note(f.cb, func(n *notice.Notices) { n.End(f.notice, f.stored, c.now) })
		c.markChanged(f.cb)
	}
}

// loadNext has what is missing loaded, one load at a time.
func (c *core) loadNext() {
	a := &c.arriving
	if a.loading || c.ending.begun || c.now.Before(a.again) {
		return
	}
	if a.again = (time.Time{}); a.listed && len(a.missing) == 0 {
		return
	}
	a.loading = true
	c.underWay++
	what := &load{whole: !a.listed, ids: slices.Collect(maps.Keys(a.missing)), mark: c.toStore.mark}
	if what.whole { // it may have been loaded in part
		what.except = make(map[string]bool, len(c.callbacks)+len(c.retiring))
		for _, of := range []map[string]*callback{c.callbacks, c.retiring} {
			for id := range of {
				what.except[id] = true
			}
		}
	}
	c.out.load = what
}

// adopted lets loaded callbacks work: with the shared reader, if its ring has what follows, else together with others
// that come a little behind, or each by itself.
func (c *core) adopted(m *adopted) {
	if !c.toStore.mark.Adopted {
		c.toStore.mark = m.mark
	}
	for _, cb := range m.callbacks {
		delete(c.arriving.missing, cb.id)
		c.callbacks[cb.id] = cb
		c.out.recheck = append(c.out.recheck, cb.id)
		cb.reading.atHand.Join(c.memory)
		c.setTarget(cb, cb.target)
		c.note(cb, func(*notice.Notices) {})
		c.expireBelow(cb, m.first)
		if !cb.cur.Carried().Behind && !cb.target.Orphaned && !c.ending.begun {
			cb.reading.source = readsCatchUp
			c.readRing(cb)
		} else {
			c.markUnstored(cb)
		}
		c.pump(cb)
	}
}

func (c *core) loadEnded(m loadEnded) {
	a := &c.arriving
	a.loading = false
	c.underWay--
	if m.failed {
		a.again = c.now.Add(loadAgain)
		return
	}
	if !c.toStore.mark.Adopted {
		c.toStore.mark = m.mark
	}
	a.listed = a.listed || m.whole
	for _, id := range m.ids { // those that were not adopted were not registered
		delete(a.missing, id)
	}
	c.out.recheck = append(c.out.recheck, m.ids...)
}

// giveUp begins to give the shard up: nothing new is started.
func (c *core) giveUp() {
	c.ending.begun = true
	for _, cb := range c.callbacks {
		if r := &cb.reading; r.source == readsShared {
			cb.cur.Advance(c.shared.pos) // it was offered everything up to here
			if len(cb.storing.records) == 0 && !cb.cur.Dirty() {
				cb.storing.durable = max(cb.storing.durable, cb.cur.Position())
			}
		}
		cb.reading.page = nil
		cb.reading.atHand.DropAll()
		c.wakeAt(cb, time.Time{})
	}
}

// reset empties the effects and keeps their room.
func (e *effects) reset() {
	clear(e.begin)
	clear(e.next)
	clear(e.idle)
	clear(e.ring)
	clear(e.pages)
	clear(e.facts)
	*e = effects{
		begin: e.begin[:0], next: e.next[:0], idle: e.idle[:0], ring: e.ring[:0], pages: e.pages[:0],
		refills: e.refills[:0], catchUp: slices.Delete(e.catchUp, 0, len(e.catchUp)), interest: e.interest[:0], facts: e.facts[:0],
		disables: e.disables[:0], cancel: e.cancel[:0], retired: e.retired[:0], recheck: e.recheck[:0],
	}
}

// common reports whether the effects are those of a delivery alone.
func (e *effects) common() bool {
	return len(e.pages)+len(e.refills)+len(e.catchUp)+len(e.facts)+len(e.disables)+len(e.cancel)+len(e.retired) == 0 && e.load == nil && e.laterEpoch == 0
}
