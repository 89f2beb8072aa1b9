package dispatcher

import (
	"log/slog"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/store"
)

// Bounds of one page that a callback reads by itself.
const (
	pageEvents = 512
	pageBytes  = 1 << 20
	// pageIdle is how long a page that is not used up is kept: a receiver that hangs must not hold what nobody needs.
	pageIdle = 2 * time.Second
)

// fill reads on for a callback that is behind until there is no room, or it has joined the shared reader. It is the callback's
// only goroutine that does so; look starts it anew when there is room.
func (c *callback) fill() {
	// It grows with what the events turn out to weigh, and is small from the start where bodies have been large of late.
	size := c.d.bodies.fit(pageBytes, 32)
	for {
		c.mu.Lock()
		if !c.drain() {
			c.filling = false
			c.pump(time.Now()) // what was settled meanwhile saw that this was still running
			c.mu.Unlock()
			return
		}
		c.pump(time.Now())
		pos := c.cur.ReadFrom() - 1
		t, reads := c.target, c.reads
		c.mu.Unlock()

		if done, found := c.fromRing(pos, reads); done {
			return
		} else if found {
			continue
		}
		if err := c.fromLog(pos, t, reads, &size); err != nil {
			c.mu.Lock()
			c.filling = false
			if c.ctx.Err() == nil {
				c.log.Log(c.ctx, store.Level(err, slog.LevelWarn), "a page of the log could not be read", "error", err)
				c.retryAt = time.Now().Add(storeRetry)
				c.wakeAt(c.retryAt, time.Now())
			}
			c.mu.Unlock()
			return
		}
	}
}

// drain offers what was read ahead. False says that nothing more is to be read now. mu is held.
func (c *callback) drain() bool {
	if c.halted() || c.attached || time.Now().Before(c.retryAt) {
		return false
	}
	for len(c.page) > 0 {
		if c.target.matches(c.page[0]) && !c.offer(c.page[0]) {
			c.blocked = true
			return false
		}
		c.page[0], c.page = nil, c.page[1:]
	}
	if c.page = nil; c.pageThrough > 0 {
		c.cur.Advance(c.pageThrough)
		c.pageThrough = 0
	}
	return c.cur.Room()
}

// fromRing takes the next page from the ring if it still holds everything above pos, and joins the shared reader if there is
// little left in it. Joining happens with the feed's mutex held: between two events.
func (c *callback) fromRing(pos, reads uint64) (joined, found bool) {
	f := c.d.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	events, all, ok := f.after(pos, pageEvents)
	if !ok {
		return false, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reads != reads || c.halted() {
		return false, true // look again
	}
	if !all {
		c.page = append([]*event(nil), events...) // the ring moves on
		c.pageThrough, c.pageAt = events[len(events)-1].Seq, time.Now()
		return false, true
	}
	for i, ev := range events {
		if c.target.matches(ev) && !c.offer(ev) {
			c.page = append([]*event(nil), events[i:]...)
			c.pageThrough, c.pageAt = events[len(events)-1].Seq, time.Now()
			return false, true
		}
	}
	c.filling = false
	c.attach()
	c.d.flush.mark(c) // the document is to say so
	c.pump(time.Now())
	return true, true
}

// fromLog reads the next page of what may match from the log.
func (c *callback) fromLog(pos uint64, t *target, reads uint64, size *int) error {
	first, last, err := c.d.conf.Store.Events.Bounds(c.ctx)
	if err != nil {
		return err
	}
	var page []*event
	through := max(last, pos)
	if filters, none := t.subjects(""); !none && last > pos {
		events, more, err := c.d.conf.Store.Events.Scan(c.ctx, pos+1, filters, *size)
		if err != nil {
			return err
		}
		bytes := 0
		for _, s := range events {
			page = append(page, newEvent(s))
			bytes += len(s.Body)
			c.d.bodies.saw(len(s.Body))
		}
		if n := len(page); n == 0 && more {
			through = pos // all that was counted has aged out meanwhile: look again
		} else if n > 0 {
			*size = min(max(min(pageBytes, c.d.memory.part())/max(bytes/n, 1), 1), pageEvents)
			if through = max(through, page[n-1].Seq); more {
				through = page[n-1].Seq
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if through > pos {
		c.density = float64(len(page)) / float64(through-pos)
	}
	if first > pos+1 {
		c.expireBelow(first, time.Now())
	}
	if c.reads == reads && !c.stopped {
		c.page, c.pageThrough, c.pageAt = page, through, time.Now()
	}
	return nil
}

// refill reads from the log what lanes have waiting beyond what they list.
func (c *callback) refill() {
	c.mu.Lock()
	refills, t := c.cur.Refills(), c.target
	c.mu.Unlock()
	var failed error
	for _, r := range refills {
		seqs, through, err := c.seqsOf(r, t)
		if err != nil {
			failed = err
			break
		}
		c.mu.Lock()
		c.cur.Refill(r, seqs, through)
		c.pump(time.Now())
		c.mu.Unlock()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refilling = false
	if failed != nil && c.ctx.Err() == nil {
		c.log.Log(c.ctx, store.Level(failed, slog.LevelWarn), "the waiting events of an order could not be read", "error", failed)
		c.retryAt = time.Now().Add(storeRetry)
	}
	c.pump(time.Now())
}

// seqsOf answers the positions of an order's events that wait behind a lane, and how far it has looked.
func (c *callback) seqsOf(r cursor.Refill, t *target) (seqs []uint64, through uint64, err error) {
	filters, none := t.subjects(r.Order)
	if none {
		return nil, r.Through, nil
	}
	events, more, err := c.d.conf.Store.Events.Scan(c.ctx, r.From, filters, c.d.bodies.fit(8*pageBytes, cursor.LaneEntries+1))
	if err != nil {
		return nil, 0, err
	}
	for _, s := range events {
		if s.Seq <= r.Through && t.matches(&event{Stored: s}) {
			seqs = append(seqs, s.Seq)
		}
	}
	if through = r.Through; more && len(events) > 0 {
		through = min(through, events[len(events)-1].Seq)
	}
	return seqs, through, nil
}
