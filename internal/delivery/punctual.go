package delivery

import (
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/trouble"
)

// InTime is how long after the relay has received it an event must have been delivered to a receiver that does not
// fail.
const InTime = time.Minute

// Punctual counts for the objective whether an event that was delivered now, as a part of b, was delivered in time. It
// is late if the relay itself has delayed it for longer than InTime. Events that others have delayed are left out: the
// vendor until the event was in the log, and then the receiver or the callback's owner, at the times in troubles.
func (m *Metrics) Punctual(ev *Event, b *cursor.Batch, troubles *trouble.Times, now time.Time) {
	received := ev.ReceivedAt
	if received.IsZero() { // of an event without a notification
		received = ev.Time
	}
	took, held := now.Sub(received), heldBack(ev.Time, b, troubles, now)
	switch {
	case took-ev.Held-held > InTime:
		m.late.Inc()
	case held > 0:
		m.leftOut[byReceiver].Inc()
	case took > InTime:
		m.leftOut[byVendor].Inc()
	default:
		m.inTime.Inc()
	}
}

// heldBack returns for how long the receiver or the callback's owner has held back an event that came to the log at
// came: together with all events, or with those of its order.
func heldBack(came time.Time, b *cursor.Batch, troubles *trouble.Times, now time.Time) time.Duration {
	var held time.Duration
	if !troubles.None() {
		held = troubles.Within(came, now)
	}
	if since := b.FailingSince; !since.IsZero() {
		if came.After(since) {
			since = came
		}
		held = max(held, now.Sub(since))
	} else if !b.Healed.IsZero() {
		held = max(held, b.Healed.Sub(came))
	}
	return held
}
