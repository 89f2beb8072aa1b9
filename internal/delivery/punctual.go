package delivery

import "time"

// InTime is how long after the relay has received it an event must have been delivered to a receiver that does not fail.
const InTime = time.Minute

// Excuse is until when the events of one callback were received that may be delivered late for a reason that is the
// receiver's or its owner's: an attempt failed, it was paused or disabled, it was registered later. It belongs to the
// goroutine that delivers.
type Excuse struct{ until time.Time }

// Until excuses all events that were received until then.
func (e *Excuse) Until(t time.Time) {
	if t.After(e.until) {
		e.until = t
	}
}

// Punctual counts whether an event that was delivered now was delivered in time, unless there is an excuse for it. While
// a receiver catches up with excused events, those that wait behind them are excused as well.
func (m *Metrics) Punctual(e *Excuse, ev *Event, now time.Time) {
	received := ev.ReceivedAt
	if received.IsZero() { // of an event without a notification
		received = ev.Time
	}
	inTime := now.Sub(received) <= InTime
	switch {
	case received.After(e.until) && inTime:
		m.inTime.Inc()
	case received.After(e.until):
		m.late.Inc()
	case !inTime:
		e.Until(now)
	}
}
