package dispatcher

import (
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/logreader"
)

// group is those callbacks of a shard that read with one reader of the log, by the sites whose events they may want.
type group struct {
	source source
	pos    uint64                            // everything at or below has been offered to its members
	bySite map[string]map[*callback]struct{} // under delivery.EverySite: those that may want any
}

func newGroup(s source) group {
	return group{source: s, bySite: map[string]map[*callback]struct{}{}}
}

// offerAll offers what a reader has read to the callbacks that read with it.
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

// push offers one event to a member of a group. One that has no room for it leaves: from here on it reads by itself.
func (c *core) push(cb *callback, ev *delivery.Event) {
	if ev.Seq < cb.cur.ReadFrom() || !cb.target.Matches(ev) { // it had the first when it joined
		return
	}
	cb.reading.matched++
	if c.halted(cb) || !c.offer(cb, ev) {
		cb.cur.Advance(ev.Seq - 1)
		c.leave(cb)
		c.markUnstored(cb)
		c.followUp(cb)
		return
	}
	c.pump(cb)
}

// offer hands an event to a callback's cursor; false means that there is no room for it now.
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

// enter makes a callback a member of a group. All that the group's reader has read was offered to it, or is not for it.
func (c *core) enter(g *group, cb *callback) {
	r := &cb.reading
	r.source, r.indexed, r.fetching = g.source, cb.target, false
	r.joinedAt, r.matched = g.pos, 0
	for _, s := range cb.target.Sites() {
		if g.bySite[s] == nil {
			g.bySite[s] = map[*callback]struct{}{}
			c.want(g, logreader.Interest{Site: s, Wanted: true})
		}
		g.bySite[s][cb] = struct{}{}
	}
}

// advance has a callback pass what its group's reader has read: what came and was not offered is not for it.
func (c *core) advance(cb *callback) {
	switch r := &cb.reading; {
	case r.source == readsShared:
		cb.cur.Advance(c.shared.pos)
	case r.source == readsCatchUp && r.indexed != nil:
		cb.cur.Advance(c.catchUpGroup.pos)
	}
}

// leave makes a callback read by itself.
func (c *core) leave(cb *callback) {
	r, g := &cb.reading, &c.shared
	if r.source == readsCatchUp {
		g = &c.catchUpGroup
	}
	if passed := g.pos - min(g.pos, r.joinedAt); passed > 0 && r.matched > 0 {
		r.estimate.Passed(passed, r.matched)
	}
	r.source = readsItself
	if r.indexed == nil { // it was about to catch up with others
		return
	}
	sites := r.indexed.Sites()
	r.indexed = nil
	for _, s := range sites {
		if delete(g.bySite[s], cb); len(g.bySite[s]) == 0 {
			delete(g.bySite, s)
		}
	}
	c.unwant(g, sites)
}

// unwant ends the interest in those of the sites that no member of the group wants.
func (c *core) unwant(g *group, sites []string) {
	for _, s := range sites {
		if g.bySite[s] == nil {
			c.want(g, logreader.Interest{Site: s})
		}
	}
}

func (c *core) want(g *group, i logreader.Interest) {
	if g.source == readsShared { // those that catch up together name their sites once, when they begin
		c.out.interest = append(c.out.interest, i)
	}
}
