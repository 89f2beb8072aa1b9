package dispatcher

import (
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/notice"
	"github.com/audatex-relay/relay/internal/relay"
)

// expireBelow settles what a callback cannot get any more, as the log begins at first now.
func (c *core) expireBelow(cb *callback, first uint64) {
	ex := cb.cur.ExpireBelow(first)
	for _, e := range ex.Entries {
		c.expire(cb, e)
		cb.reading.atHand.Drop(e.Seq)
	}
	events := cb.reading.estimate.Gone(ex.Stretches)
	if c.metrics.ExpiredUnread(events); events > 0 {
		cb.log.Warn("events left the log before they were read", "events", events, "from", ex.Stretches[0].From, "before", first)
	}
	for _, s := range ex.Stretches {
		c.note(cb, func(n *notice.Notices) { n.ExpireUnread(events, s.From, s.To, c.now) })
		events = 0 // all of them are counted with the first stretch
	}
}

// logBegins settles what has left the log, also for callbacks that are halted.
func (c *core) logBegins(first uint64) {
	for _, cb := range c.callbacks {
		c.advance(cb)
		oldest, waits := cb.cur.Oldest()
		if c.ending.begun || cb.cur.Position()+1 >= first && (!waits || oldest >= first) {
			continue
		}
		c.expireBelow(cb, first)
		cb.reading.blocked = false
		c.startAttempts(cb)
	}
}

// expire records that a delivery has ended because its event left the log.
func (c *core) expire(cb *callback, e cursor.Entry) {
	record := relay.AttemptRecord{
		Seq: e.Seq, Order: e.Order, At: c.now.UTC(), Closing: relay.DeliveryExpired,
		Reason: "the event left the log before it could be delivered",
	}
	if ev := cb.reading.atHand.Get(e.Seq); ev != nil { // of other events nothing but the position is known
		record = ev.Recorded(record)
	}
	c.record(cb, record)
	c.metrics.Ended(relay.DeliveryExpired, 1)
	c.note(cb, func(n *notice.Notices) { n.Expire(record.Event, e.Seq, c.now) })
}
