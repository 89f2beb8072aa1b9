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

// core holds the state of a shard's callbacks and makes every decision about them: step takes a message and returns
// what must be done. It has no channel, clock or store. A loop owns it (loop.go).
type core struct {
	*environment
	now   time.Time // of the present step
	valid bool      // the lease was valid when the present step began

	callbacks  map[string]*callback
	retiring   map[string]*callback // deleted, made again or fenced: they are not loaded
	toLoad     toLoad
	shared     group     // callbacks that read with the replica's shared reader
	catchingUp group     // callbacks that catch up together
	alarm      time.Time // no callback has anything to do before this time; zero: none has anything to do at a certain time
	toStore    toStore
	underWay   int // tasks that the loop has begun for this core: attempts, reads, rounds and others
	ending     ending
	out        effects
}

// toLoad is what must still be loaded.
type toLoad struct {
	missing map[string]bool // registered callbacks that are not loaded yet
	listed  bool            // the whole shard has been loaded once
	loading bool
	again   time.Time // nothing is loaded before
}

// environment is shared by the cores of a replica. It is safe for concurrent use.
type environment struct {
	conf     *Config
	metrics  *delivery.Metrics
	memory   *capacity.Memory
	slots    *capacity.Slots
	pacer    *cursorstore.Pacer
	maxBatch int // bytes that a batch of attempts may have
}

// ending is the state of a shard that is given up.
type ending struct {
	begun  bool
	rounds int  // of storing, since nothing else is under way
	marked bool // the last watermark is stored, or need not be
}

// message is something that has happened. The messages are, in the order of a delivery's life:
type message any

type (
	// newEvents are events that one of the two readers has read for this shard. It has read everything up to through.
	newEvents struct {
		of      *group
		events  []*delivery.Event
		through uint64
	}
	// ringPage is what the ring of the shared reader has after the position of a callback that reads by itself. If that
	// is everything, the callback may join the shared reader: the events that follow will come as newEvents.
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
	// refilled has positions of an order that wait and are not listed in its lane.
	refilled struct {
		refill  refill
		seqs    []uint64
		through uint64
		err     error
		more    bool // other lanes of the same callback follow
	}
	slotGranted  struct{ cb *callback } // it has waited for a slot, and was given one
	attemptEnded struct{ job *job }
	roundEnded   struct{ round *round } // of storing
	logBegins    struct{ first uint64 } // the log's first position
	tick         struct{}               // time has passed
	// configured has a callback's present configuration.
	configured struct {
		id     string
		target *delivery.Target // nil: it is not registered
	}
	// adopted has callbacks that were loaded, and written under this owner's epoch. First is the log's first position.
	adopted struct {
		callbacks []*callback
		mark      cursorstore.Watermark
		first     uint64
	}
	// loadEnded reports that a load has ended. Unless it failed, its callbacks are adopted, or no longer registered.
	loadEnded struct {
		*loadRequest
		failed bool
	}
	// catchUpBegins and catchUpEnds come before and after the newEvents for the callbacks that catch up together.
	catchUpBegins struct {
		members []read
		from    uint64
		feed    *logreader.Shared // from which the loop takes the events
	}
	catchUpEnds struct{}
	laterOwner  struct{ epoch uint64 } // a document was found that an owner with this higher epoch has written
	// question is a question about callbacks, or a command of an operator. Answer is called once.
	question struct{ answer func(*core) }
	// done reports that something else that the core had asked for has ended: one of these, or a disablement.
	done struct {
		retired   *callback
		published *operationalEvent
	}
	giveUp struct{} // the shard must be given up
)

// effects are what must be done after a step. They are valid until the next step.
type effects struct {
	begin      []*job               // attempts to make, each by a new worker
	next       []*job               // attempts to make by the worker whose attempt has ended
	idle       []*job               // workers that must end
	ring       []read               // pages to read from the ring of the shared reader
	pages      []read               // pages to read from the log
	refills    [][]refill           // lanes to refill, of one callback each
	catchUp    []read               // callbacks to catch up together
	interest   []logreader.Interest // changes of what the shard wants from the shared reader
	round      *round               // to store
	publish    []*operationalEvent
	disables   []disablement
	load       *loadRequest
	cancel     []*callback // callbacks whose attempts and reads must be cancelled
	retired    []*callback // callbacks of which nothing is under way any more: to erase or release
	recheck    []string    // callbacks that must be configured, as their settings may have changed meanwhile
	laterEpoch uint64      // the epoch of a later owner; 0: none was found
}

func newCore(e *environment) *core {
	return &core{
		environment: e, callbacks: map[string]*callback{}, retiring: map[string]*callback{},
		toLoad: toLoad{missing: map[string]bool{}},
		shared: newGroup(readsShared), catchingUp: newGroup(readsCatchUp),
		toStore: toStore{unstored: map[*callback]struct{}{}, urgent: map[*callback]struct{}{}},
	}
}

// step handles a message. What it returns must be done.
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
	case slotGranted:
		if m.cb.sending.awaitsSlot = false; m.cb.phase < retiring {
			c.startAttempts(m.cb)
		}
		m.cb.sending.allowance.Decline() // if it was not used, the next one that waits gets it
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

// wake returns when the next tick is needed, zero if none is.
func (c *core) wake() time.Time {
	if c.ending.begun {
		return time.Time{}
	}
	at := backoff.Earlier(backoff.Earlier(c.alarm, c.toStore.sweepAt), c.toLoad.again)
	if !c.toStore.storing {
		at = backoff.Earlier(at, c.toStore.flushAt)
	}
	return at
}

// startAttempts starts every attempt of a callback that may be made now, and then does what followUp does.
func (c *core) startAttempts(cb *callback) {
	for {
		j := c.nextJob(cb, nil, false)
		if j == nil {
			break
		}
		c.out.begin = append(c.out.begin, j)
	}
	c.followUp(cb)
}

// followUp does what a change of a callback requires beside attempts: storing it, reading on, and setting wakeAt.
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

// tick does what is due: for callbacks, and once a second for the watermark.
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
				cb.sending.test.End(cb.sending.allowance)
			}
			c.startAttempts(cb)
		}
	}
	if !c.toStore.sweepAt.After(c.now) {
		c.toStore.sweepAt = c.now.Add(sweepEvery)
		c.sweep()
	}
}

// configured takes the present configuration of a callback. The next attempt is made by it.
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
		delete(c.toLoad.missing, m.id)
	case c.retiring[m.id] == nil:
		c.toLoad.missing[m.id] = true
	}
}

func (c *core) retarget(cb *callback, t *delivery.Target) {
	r := &cb.reading
	rejoins := r.source == readsShared && !t.Orphaned // an orphaned one reads by itself, once its client is known
	c.advance(cb)
	if r.memberTarget != nil {
		c.leaveGroup(cb)
		c.markUnstored(cb)
	}
	if c.setTarget(cb, t); rejoins { // by way of the ring: it has events that the shard did not want before
		c.readRing(cb)
	}
	c.startAttempts(cb)
}

// retire ends a callback that is not registered any more. Its cursor is erased once nothing of it is under way.
func (c *core) retire(cb *callback) {
	c.remove(cb, retiring)
	c.retiring[cb.id] = cb
	c.out.cancel = append(c.out.cancel, cb)
	c.settleRetired(cb)
}

// remove takes a callback out of everything by which something of it would be started or stored.
func (c *core) remove(cb *callback, why phase) {
	cb.phase = why
	delete(c.callbacks, cb.id)
	if cb.reading.source != readsItself {
		c.leaveGroup(cb)
	}
	cb.reading.page = nil
	cb.reading.atHand.DropAll()
	c.wakeAt(cb, time.Time{})
	delete(c.toStore.unstored, cb)
	delete(c.toStore.urgent, cb)
}

// settleRetired hands a retired callback to the loop once nothing of it is under way.
func (c *core) settleRetired(cb *callback) {
	if cb.outstanding == 0 && cb.phase >= retiring {
		cb.reading.atHand.DropAll()
		c.underWay++
		c.out.retired = append(c.out.retired, cb)
	}
}

// taskBegan and taskEnded count the attempts, reads and rounds that are under way for a callback.
func (c *core) taskBegan(cb *callback) {
	cb.outstanding++
	c.underWay++
}

func (c *core) taskEnded(cb *callback) {
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
	if ev := m.published; ev != nil {
		c.note(ev.cb, func(n *notice.Notices) { n.End(ev.notice, ev.stored, c.now) })
		c.markChanged(ev.cb)
	}
}

// loadNext begins to load what is missing, unless a load is under way.
func (c *core) loadNext() {
	a := &c.toLoad
	if a.loading || c.ending.begun || c.now.Before(a.again) {
		return
	}
	if a.again = (time.Time{}); a.listed && len(a.missing) == 0 {
		return
	}
	a.loading = true
	c.underWay++
	what := &loadRequest{whole: !a.listed, ids: slices.Collect(maps.Keys(a.missing)), mark: c.toStore.mark}
	if what.whole { // a part may be loaded already
		what.except = make(map[string]bool, len(c.callbacks)+len(c.retiring))
		for _, of := range []map[string]*callback{c.callbacks, c.retiring} {
			for id := range of {
				what.except[id] = true
			}
		}
	}
	c.out.load = what
}

// adopted begins to deliver to callbacks that were loaded. A callback reads with the shared reader if the ring has all
// that it has not read; else it catches up with others, or reads by itself if it is far behind.
func (c *core) adopted(m *adopted) {
	if !c.toStore.mark.Adopted {
		c.toStore.mark = m.mark
	}
	for _, cb := range m.callbacks {
		delete(c.toLoad.missing, cb.id)
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
		c.startAttempts(cb)
	}
}

func (c *core) loadEnded(m loadEnded) {
	a := &c.toLoad
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
	for _, id := range m.ids { // those that are still missing were not registered
		delete(a.missing, id)
	}
	c.out.recheck = append(c.out.recheck, m.ids...)
}

// giveUp begins to give the shard up. Nothing new is started from now on.
func (c *core) giveUp() {
	c.ending.begun = true
	for _, cb := range c.callbacks {
		if r := &cb.reading; r.source == readsShared {
			cb.cur.Advance(c.shared.pos) // it has been offered everything up to there
			if len(cb.storing.records) == 0 && !cb.cur.Dirty() {
				cb.storing.storedThrough = max(cb.storing.storedThrough, cb.cur.Position())
			}
		}
		cb.reading.page = nil
		cb.reading.atHand.DropAll()
		c.wakeAt(cb, time.Time{})
	}
}

// reset empties the effects, and keeps their memory for the next step.
func (e *effects) reset() {
	clear(e.begin)
	clear(e.next)
	clear(e.idle)
	clear(e.ring)
	clear(e.pages)
	clear(e.publish)
	*e = effects{
		begin: e.begin[:0], next: e.next[:0], idle: e.idle[:0], ring: e.ring[:0], pages: e.pages[:0],
		refills: e.refills[:0], catchUp: slices.Delete(e.catchUp, 0, len(e.catchUp)), interest: e.interest[:0],
		publish: e.publish[:0], disables: e.disables[:0], cancel: e.cancel[:0], retired: e.retired[:0], recheck: e.recheck[:0],
	}
}

// common reports whether all effects are of the kinds that every delivery has.
func (e *effects) common() bool {
	lists := len(e.pages) + len(e.refills) + len(e.catchUp) + len(e.publish) + len(e.disables) + len(e.cancel) + len(e.retired)
	return lists == 0 && e.load == nil && e.laterEpoch == 0
}
