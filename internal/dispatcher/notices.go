package dispatcher

import (
	"context"
	"log/slog"

	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/notice"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// operationalEvent is an operational event about a callback, to be published.
type operationalEvent struct {
	cb      *callback
	kind    relay.Kind
	message string
	details map[string]any
	notice  notice.Kind // the kind of notice that it publishes
	stored  bool        // it has been published
}

func (c *core) operationalEvent(cb *callback, kind relay.Kind, message string, details map[string]any) operationalEvent {
	of := &cb.target.Callback
	details["callback"], details["client"], details["clientGeneration"] = cb.id, of.Client, of.ClientGeneration
	return operationalEvent{cb: cb, kind: kind, message: message, details: details}
}

// note changes a callback's notices: what happens again and again is gathered there, stored with the cursor, and
// published at most once an hour (internal/notice).
func (c *core) note(cb *callback, change func(n *notice.Notices)) {
	carried := cb.cur.Carried()
	change(&carried.Notices)
	cb.cur.SetCarried(carried)
	cb.troubled = carried.Notices.Troubled()
	if cb.noticeAt = carried.Notices.At(c.now); !cb.noticeAt.IsZero() && cb.phase < retiring {
		c.wakeAt(cb, backoff.Earlier(cb.wakeAt, cb.noticeAt))
	}
}

// publishNotices begins to publish the notices that are due. An owner without a valid lease leaves them to the next.
func (c *core) publishNotices(cb *callback) {
	if !c.valid {
		cb.noticeAt = c.now.Add(leaseAgain)
		return
	}
	c.note(cb, func(n *notice.Notices) {
		for kind, g, due := n.Begin(c.now); due; kind, g, due = n.Begin(c.now) {
			ev := c.operationalEvent(cb, kind.Event(), kind.Message(cb.id, g, n.Down), kind.Details(g, n.Down, cb.cur.Unsettled()))
			ev.notice = kind
			c.out.publish = append(c.out.publish, &ev)
			c.underWay++
		}
	})
}

// noteFailure adds a failed attempt to the notices. It is an outage if the circuit is open, or all fail for a while.
func (c *core) noteFailure(j *job, ev *delivery.Event, h cursor.Health) {
	cb, began := j.cb, false
	c.note(cb, func(n *notice.Notices) {
		began = n.AttemptFailed(ev.ID, ev.Seq, h.Open || notice.Long(h.FailingSince, c.now), c.now)
	})
	if began {
		what := "every attempt has failed for a while; what waits is tried again"
		if h.Open {
			what = "the receiver fails for several orders; it is probed until it answers"
		}
		cb.log.Warn(what, "failing_since", h.FailingSince.UTC(), "failures", h.Failures, "reason", j.Reason(), "waiting", cb.cur.Unsettled())
	}
}

// answersAgain adds a success after failures to the notices.
func (c *core) answersAgain(cb *callback, ev *delivery.Event) {
	c.note(cb, func(n *notice.Notices) {
		if n.Answered(ev.ID, ev.Seq, c.now) {
			cb.log.Info("the receiver answers again", "waiting", cb.cur.Unsettled())
		}
	})
}

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

// publish publishes an operational event, and reports whether it is stored.
func (d *Dispatcher) publish(ctx context.Context, ev *operationalEvent) bool {
	if err := d.conf.Operational.Operational(ctx, relay.NoSite, ev.kind, ev.cb.id, ev.message, ev.details); err != nil {
		ev.cb.log.Log(ctx, store.Level(err, slog.LevelWarn), "an operational event could not be published", "kind", ev.kind, "error", err)
		return false
	}
	ev.stored = true
	return true
}
