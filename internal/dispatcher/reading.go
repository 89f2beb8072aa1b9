package dispatcher

import (
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
)

const (
	// pageIdle is how long a page that is not used up is kept: a receiver that hangs must not hold what nobody needs.
	pageIdle = 2 * time.Second
	// storeRetry is how long a callback waits after the log could not be read.
	storeRetry = time.Second
)

// read is a page of the log that a callback asks for: what follows pos, as far as it may be for the target.
type read struct {
	cb      *callback
	pos     uint64
	target  *delivery.Target
	version uint64 // of the target
	size    int    // how many events of the log; 0: not known yet
}

// refill is what a lane has waiting beyond what it lists.
type refill struct {
	cb     *callback
	target *delivery.Target
	of     cursor.Refill
}

// readOn offers what was read ahead and asks for the next page, if there is room for one.
func (c *core) readOn(cb *callback) {
	r := &cb.reading
	if r.source != readsItself || r.fetching || r.blocked || c.halted(cb) || c.now.Before(cb.sending.retryAt) || !cb.cur.Room() {
		return
	}
	if c.drain(cb) && cb.cur.Room() {
		c.readRing(cb)
	}
}

// drain offers what was read ahead; false means that something is left.
func (c *core) drain(cb *callback) bool {
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

// readRing asks for what follows the callback's position: the ring of the shared reader is looked into first.
func (c *core) readRing(cb *callback) {
	r := &cb.reading
	r.fetching = true
	c.out.ring = append(c.out.ring, read{cb, cb.cur.ReadFrom() - 1, cb.target, r.version, r.pageSize})
}

// tookFromRing takes what the ring has. If that is all, the callback joins the shared reader for what follows.
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
	case m.Missing:
		if r.source = readsItself; catchesUp {
			c.markUnstored(cb)
		}
		if !c.halted(cb) {
			r.fetching = true
			c.began(cb)
			c.out.pages = append(c.out.pages, m.read)
			return
		}
	case c.takes(cb, m):
		c.enter(&c.shared, cb)
		c.markUnstored(cb) // the document must say so
		c.pump(cb)
		return
	default:
		if r.source = readsItself; catchesUp {
			c.markUnstored(cb)
		}
	}
	if m.All {
		c.unwant(&c.shared, m.read.target.Sites())
	}
	if cb.phase < retiring {
		c.readOn(cb)
		c.pump(cb)
	}
}

// takes offers the events of the ring to a callback, and reports whether nothing is left that it has to read by itself.
func (c *core) takes(cb *callback, m *ringPage) bool {
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
	return c.drain(cb) && m.All
}

// tookFromLog takes a page of the log.
func (c *core) tookFromLog(m *logPage) {
	cb, r := m.read.cb, &m.read.cb.reading
	r.fetching = false
	defer c.over(cb)
	if cb.phase >= retiring || c.ending.begun {
		return
	}
	if m.err != nil {
		c.unread(cb, m.err, "a page of the log could not be read")
		return
	}
	r.pageSize = m.Size
	if m.Through > m.read.pos {
		r.estimate.Passed(m.Through-m.read.pos, uint64(len(m.Events)))
	}
	if m.First > m.read.pos+1 {
		c.expireBelow(cb, m.First)
	}
	if r.version == m.read.version {
		r.page, r.pageThrough, r.pageAt = m.Events, m.Through, c.now
	}
	if c.drain(cb) && cb.cur.Room() && !c.now.Before(cb.sending.retryAt) {
		c.readRing(cb)
	}
	c.pump(cb)
}

// unread notes that the log could not be read for a callback.
func (c *core) unread(cb *callback, err error, what string) {
	cb.log.Log(cb.ctx, levelOf(err, slog.LevelWarn), what, "error", err)
	cb.sending.retryAt = c.now.Add(storeRetry)
	c.pump(cb)
}

// refill asks for what lanes have waiting beyond what they list.
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
	c.began(cb)
	c.out.refills = append(c.out.refills, all)
}

func (c *core) refilled(m *refilled) {
	cb := m.refill.cb
	if !m.more {
		cb.reading.refilling = false
		defer c.over(cb)
	}
	switch {
	case cb.phase >= retiring || c.ending.begun:
	case m.err != nil:
		c.unread(cb, m.err, "the waiting events of an order could not be read")
	default:
		cb.cur.Refill(m.refill.of, m.seqs, m.through)
		c.pump(cb)
	}
}

// catchUpBegins means that a reader has begun to read for callbacks that catch up together, at or before each one's
// position. One whose target has changed since it asked reads by itself.
func (c *core) catchUpBegins(m *catchUpBegins) {
	c.catchUpGroup.pos = m.from
	for _, read := range m.members {
		cb, r := read.cb, &read.cb.reading
		switch {
		case cb.phase >= retiring:
		case r.version == read.version:
			c.enter(&c.catchUpGroup, cb)
		default:
			r.source, r.fetching = readsItself, false
			c.markUnstored(cb)
			c.pump(cb)
		}
	}
}

// catchUpEnds means that the reader has come to the ring of the shared reader, or cannot go on: each reads on by itself,
// which in the first case is joining.
func (c *core) catchUpEnds() {
	for _, cb := range c.callbacks {
		if cb.reading.source != readsCatchUp || cb.reading.indexed == nil { // it is no member, or not yet
			continue
		}
		cb.cur.Advance(c.catchUpGroup.pos)
		c.leave(cb)
		if c.readRing(cb); cb.target.Orphaned {
			c.markUnstored(cb)
		}
	}
}
