package dispatcher

import (
	"github.com/audatex-relay/relay/internal/backoff"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/notice"
	"github.com/audatex-relay/relay/internal/relay"
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
	of := &cb.target.Callback
	c.note(cb, func(n *notice.Notices) {
		for kind, g, due := n.Begin(c.now); due; kind, g, due = n.Begin(c.now) {
			details := kind.Details(g, n.Down, cb.cur.Unsettled())
			details["callback"], details["client"], details["clientGeneration"] = cb.id, of.Client, of.ClientGeneration
			c.out.publish = append(c.out.publish, &operationalEvent{
				cb: cb, kind: kind.Event(), message: kind.Message(cb.id, g, n.Down), details: details, notice: kind,
			})
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
