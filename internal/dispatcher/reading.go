package dispatcher

import (
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
)

const (
	// pageIdle is how long the rest of a page is kept: if the receiver hangs, nobody needs it for a while.
	pageIdle = 2 * time.Second
	// storeRetry is how long a callback waits after the log could not be read, or an attempt found the lease invalid.
	storeRetry = time.Second
)

// read is a callback's request for a page: the events after pos that may be for the target.
type read struct {
	cb       *callback
	pos      uint64
	target   *delivery.Target
	version  uint64 // of the target
	bodySize int    // the average of the page before; 0: there was none
}

// refill is a callback's request for positions of an order that wait and are not listed in its lane.
type refill struct {
	cb     *callback
	target *delivery.Target
	of     cursor.Refill
}

// readOn offers what was read ahead, and requests the next page if there is room for it.
func (c *core) readOn(cb *callback) {
	r := &cb.reading
	if r.source != readsItself || r.fetching || r.blocked || c.halted(cb) || c.now.Before(cb.sending.retryAt) || !cb.cur.Room() {
		return
	}
	if c.offerPage(cb) && cb.cur.Room() {
		c.readRing(cb)
	}
}

// offerPage offers what was read ahead. It returns false if some of that is left.
func (c *core) offerPage(cb *callback) bool {
	r := &cb.reading
	if c.halted(cb) {
		return false
	}
	for len(r.page) > 0 {
		if cb.target.Matches(r.page[0]) && !c.offer(cb, r.page[0]) {
			r.blocked = true
			return false
		}
		r.page[0], r.page = nil, r.page[1:]
	}
	if r.page = nil; r.pageThrough > 0 {
		cb.cur.Advance(r.pageThrough)
		r.pageThrough = 0
	}
	return true
}

// readRing requests what follows the callback's position from the ring of the shared reader.
func (c *core) readRing(cb *callback) {
	r := &cb.reading
	r.fetching = true
	c.out.ring = append(c.out.ring, read{cb, cb.cur.ReadFrom() - 1, cb.target, r.version, r.bodySize})
}

// tookFromRing takes what the ring has after a callback's position. If that is everything, the callback joins the
// shared reader. If the ring does not reach back so far, the log is read: with others if the callback has just come.
func (c *core) tookFromRing(m *ringPage) {
	cb, r := m.read.cb, &m.read.cb.reading
	catchesUp := r.source == readsCatchUp
	r.fetching = false
	switch {
	case cb.phase >= retiring || c.ending.begun:
	case r.version != m.read.version:
		r.source = readsItself
		c.markUnstored(cb)
	case m.Missing && catchesUp && !c.halted(cb) && m.read.pos+1+c.conf.Lookback > m.Last:
		c.out.catchUp = append(c.out.catchUp, m.read)
		return
	case !m.Missing && c.offerRing(cb, m):
		c.joinGroup(&c.shared, cb)
		c.markUnstored(cb) // its document must no longer be marked behind
		c.startAttempts(cb)
		return
	default:
		if r.source = readsItself; catchesUp {
			c.markUnstored(cb)
		}
		if m.Missing && !c.halted(cb) {
			r.fetching = true
			c.taskBegan(cb)
			c.out.pages = append(c.out.pages, m.read)
			return
		}
	}
	if m.All {
		c.unwant(&c.shared, m.read.target.Sites())
	}
	if cb.phase < retiring {
		c.readOn(cb)
		c.startAttempts(cb)
	}
}

// offerRing offers the events of the ring to a callback. It reports whether the callback has got all that the ring has.
func (c *core) offerRing(cb *callback, m *ringPage) bool {
	r := &cb.reading
	if c.halted(cb) {
		if cb.target.Orphaned || !m.All {
			return false
		}
		for _, ev := range m.Events {
			if cb.target.Matches(ev) {
				return false
			}
		}
		return true
	}
	if n := len(m.Events); n > 0 {
		r.page, r.pageThrough, r.pageAt = m.Events, m.Events[n-1].Seq, c.now
	}
	return c.offerPage(cb) && m.All
}

// tookFromLog takes a page of the log.
func (c *core) tookFromLog(m *logPage) {
	cb, r := m.read.cb, &m.read.cb.reading
	r.fetching = false
	defer c.taskEnded(cb)
	if cb.phase >= retiring || c.ending.begun {
		return
	}
	if m.err != nil {
		c.readFailed(cb, m.err, "a page of the log could not be read")
		return
	}
	r.bodySize = m.BodySize
	if m.Through > m.read.pos {
		r.estimate.Passed(m.Through-m.read.pos, uint64(len(m.Events)))
	}
	if m.First > m.read.pos+1 {
		c.expireBelow(cb, m.First)
	}
	if r.version == m.read.version {
		r.page, r.pageThrough, r.pageAt = m.Events, m.Through, c.now
	}
	if c.offerPage(cb) && cb.cur.Room() && !c.now.Before(cb.sending.retryAt) {
		c.readRing(cb)
	}
	c.startAttempts(cb)
}

// readFailed logs that the log could not be read for a callback, and has it wait.
func (c *core) readFailed(cb *callback, err error, what string) {
	cb.log.Log(cb.ctx, levelOf(err, slog.LevelWarn), what, "error", err)
	cb.sending.retryAt = c.now.Add(storeRetry)
	c.startAttempts(cb)
}

// refill requests the positions that wait behind those that lanes list.
func (c *core) refill(cb *callback) {
	if cb.reading.refilling || c.now.Before(cb.sending.retryAt) {
		return
	}
	lanes := cb.cur.Refills()
	if len(lanes) == 0 {
		return
	}
	all := make([]refill, len(lanes))
	for i, of := range lanes {
		all[i] = refill{cb, cb.target, of}
	}
	cb.reading.refilling = true
	c.taskBegan(cb)
	c.out.refills = append(c.out.refills, all)
}

// refilled takes the positions that a refill has found.
func (c *core) refilled(m *refilled) {
	cb := m.refill.cb
	if !m.more {
		cb.reading.refilling = false
		defer c.taskEnded(cb)
	}
	switch {
	case cb.phase >= retiring || c.ending.begun:
	case m.err != nil:
		c.readFailed(cb, m.err, "the waiting events of an order could not be read")
	default:
		cb.cur.Refill(m.refill.of, m.seqs, m.through)
		c.startAttempts(cb)
	}
}

// catchUpBegins has callbacks catch up together: their reader begins at the first of their positions. A callback whose
// target has changed since its request reads by itself.
func (c *core) catchUpBegins(m *catchUpBegins) {
	c.catchingUp.pos = m.from
	for _, read := range m.members {
		cb, r := read.cb, &read.cb.reading
		switch {
		case cb.phase >= retiring:
		case r.version == read.version:
			c.joinGroup(&c.catchingUp, cb)
		default:
			r.source, r.fetching = readsItself, false
			c.markUnstored(cb)
			c.startAttempts(cb)
		}
	}
}

// catchUpEnds has callbacks that caught up together read on by themselves. Mostly they can join the shared reader then.
func (c *core) catchUpEnds() {
	for _, cb := range c.callbacks {
		if cb.reading.source != readsCatchUp || cb.reading.memberTarget == nil { // it is not a member, or not yet
			continue
		}
		cb.cur.Advance(c.catchingUp.pos)
		c.leaveGroup(cb)
		if c.readRing(cb); cb.target.Orphaned {
			c.markUnstored(cb)
		}
	}
}
