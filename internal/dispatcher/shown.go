package dispatcher

import (
	"github.com/audatex-relay/relay/internal/backlog"
	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/sender"
	"github.com/audatex-relay/relay/internal/trouble"
)

// shown is what is remembered of a callback for the metrics alone.
type shown struct {
	failure  sender.Outcome // of the last attempt that failed; 0: none has here
	troubles trouble.Times  // in which the relay is not to blame for what is late
}

// noteTrouble notes whether what waits for a callback is delayed by its receiver or its owner. A rate, or a wait that the
// receiver asks for, is noted where it is met (nextJob).
func (c *core) noteTrouble(cb *callback) {
	since := cb.cur.Health().FailingSince
	if since.IsZero() && (c.halted(cb) || cb.cur.Congested()) {
		since = c.now
	}
	cb.sending.shown.troubles.Note(since, c.now, cb.reading.source == readsShared && cb.cur.Unsettled() == 0)
}

// condition returns what the metrics show of a callback.
func (c *core) condition(cb *callback, s Status) backlog.Condition {
	of := &cb.target.Callback
	v := backlog.Condition{
		Callback: cb.id, Client: of.Client, Events: s.Backlog, OldestSeconds: s.LagSeconds, Paused: of.Paused, Disabled: of.Disabled,
	}
	v.CertificateEnds, _ = c.conf.Deliverer.CertificateEnds(cb.target)
	if !c.halted(cb) { // nothing is sent otherwise
		h := cb.cur.Health()
		v.FailingSince, v.Failure = h.FailingSince, cb.sending.shown.failure
		v.Open, v.Retrying, v.Congested = h.Open && !h.FailingSince.IsZero(), cb.cur.Lanes(), s.Health == cursor.Congested.String()
	}
	return v
}
