package dispatcher

import (
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/logreader"
)

// group is the callbacks of a shard that get their events from the same reader of the log.
type group struct {
	source source
	pos    uint64                            // everything up to here has been offered to its members
	bySite map[string]map[*callback]struct{} // by the sites whose events they may want, delivery.EverySite for any
}

func newGroup(s source) group {
	return group{source: s, bySite: map[string]map[*callback]struct{}{}}
}

// offerAll offers events to the members of the group whose reader has read them.
func (c *core) offerAll(m *newEvents) {
	for _, ev := range m.events {
		for cb := range m.of.bySite[ev.Site] {
			c.push(cb, ev)
		}
		for cb := range m.of.bySite[delivery.EverySite] {
			c.push(cb, ev)
		}
	}
	m.of.pos = max(m.of.pos, m.through)
}

// push offers one event to a member of a group. If there is no room for it, the callback reads by itself from there on.
func (c *core) push(cb *callback, ev *delivery.Event) {
	if ev.Seq < cb.cur.ReadFrom() || !cb.target.Matches(ev) { // it may have got this event from the ring when it joined
		return
	}
	cb.reading.matched++
	if c.halted(cb) || !c.offer(cb, ev) {
		cb.cur.Advance(ev.Seq - 1)
		c.leaveGroup(cb)
		c.markUnstored(cb)
		c.followUp(cb)
		return
	}
	c.startAttempts(cb)
}

// offer offers an event to a callback's cursor. It returns false if there is no room for it now.
func (c *core) offer(cb *callback, ev *delivery.Event) bool {
	r := &cb.reading
	if !r.atHand.Admits(ev) {
		return false
	}
	switch cb.cur.Offer(cursor.Entry{Seq: ev.Seq, Order: ev.Order}) {
	case cursor.Full:
		return false
	case cursor.Accepted:
		r.atHand.Hold(ev)
	case cursor.Laned, cursor.Ignored:
	}
	r.estimate.Read(ev.Time)
	return true
}

// joinGroup makes a callback a member of a group. It must have been offered all that the group's reader has for it.
func (c *core) joinGroup(g *group, cb *callback) {
	r := &cb.reading
	r.source, r.memberTarget, r.fetching = g.source, cb.target, false
	r.joinedAt, r.matched = max(g.pos, cb.cur.ReadFrom()-1), 0
	for _, s := range cb.target.Sites() {
		if g.bySite[s] == nil {
			g.bySite[s] = map[*callback]struct{}{}
			c.want(g, logreader.Interest{Site: s, Wanted: true})
		}
		g.bySite[s][cb] = struct{}{}
	}
}

// advance moves a callback's cursor to where its group is: the events between that were not offered are not for it.
func (c *core) advance(cb *callback) {
	switch r := &cb.reading; {
	case r.source == readsShared:
		cb.cur.Advance(c.shared.pos)
	case r.source == readsCatchUp && r.memberTarget != nil:
		cb.cur.Advance(c.catchingUp.pos)
	}
}

// leaveGroup takes a callback out of its group. It reads by itself from now on.
func (c *core) leaveGroup(cb *callback) {
	r, g := &cb.reading, &c.shared
	if r.source == readsCatchUp {
		g = &c.catchingUp
	}
	if passed := g.pos - min(g.pos, r.joinedAt); passed > 0 && r.matched > 0 {
		r.estimate.Passed(passed, r.matched)
	}
	r.source = readsItself
	if r.memberTarget == nil { // it was only about to catch up with others
		return
	}
	sites := r.memberTarget.Sites()
	r.memberTarget = nil
	for _, s := range sites {
		if delete(g.bySite[s], cb); len(g.bySite[s]) == 0 {
			delete(g.bySite, s)
		}
	}
	c.unwant(g, sites)
}

// unwant ends the shard's interest in those sites that no member of the group wants any more.
func (c *core) unwant(g *group, sites []string) {
	for _, s := range sites {
		if g.bySite[s] == nil {
			c.want(g, logreader.Interest{Site: s})
		}
	}
}

func (c *core) want(g *group, i logreader.Interest) {
	if g.source == readsShared { // the reader for those that catch up together knows their sites from the beginning
		c.out.interest = append(c.out.interest, i)
	}
}
