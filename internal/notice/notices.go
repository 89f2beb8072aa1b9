package notice

import "time"

// Kind is what is gathered.
type Kind int

// The kinds.
const (
	DeliveryFailed Kind = iota // a delivery failed for good
	Failing                    // attempts of an outage
	Recovered                  // the end of an outage that was published
	Expired                    // a delivery whose event left the log
	Disabled                   // the callback was disabled
)

// kinds is how many there are.
const kinds = int(Disabled) + 1

// Notices are those of one callback. They are stored in the cursor's document, so they survive crashes and moves; at
// worst one is published twice. Nothing here has a clock or a store. The zero value is that of a callback that is well.
type Notices struct {
	Failed    notice `json:"failed,omitzero"`
	Failing   notice `json:"failing,omitzero"`
	Recovered notice `json:"recovered,omitzero"`
	Expired   notice `json:"expired,omitzero"`
	Disabled  notice `json:"disabled,omitzero"`
	// DisabledAt is when the callback was disabled last, of what is in Disabled or was published.
	DisabledAt time.Time `json:"disabledAt,omitzero"`
	// Down: the receiver is in an outage. Owed: one has begun that has not been published.
	Down bool `json:"down,omitempty"`
	Owed bool `json:"owed,omitempty"`
	// EverExpired counts the deliveries that have expired, of what was never read by estimate.
	EverExpired int `json:"everExpired,omitempty"`

	// While the outage is being published: whether it went on when that began, whether another has begun since, and the
	// success that ended it.
	saidDown, again bool
	answered        Gathered
}

func (n *Notices) of(k Kind) *notice {
	return [kinds]*notice{DeliveryFailed: &n.Failed, Failing: &n.Failing, Recovered: &n.Recovered,
		Expired: &n.Expired, Disabled: &n.Disabled}[k]
}

// one is that something has happened to one event.
func one(event string, seq uint64, now time.Time) Gathered {
	return Gathered{Count: 1, First: event, Last: event, Since: now.Round(0).UTC(), From: seq, Through: seq}
}

// FailedForGood adds a delivery that failed for good.
func (n *Notices) FailedForGood(event string, seq uint64, now time.Time) {
	n.Failed.add(one(event, seq, now))
}

// AttemptFailed adds a failed attempt. Down is whether the receiver has failed so often, or for so long, that this is
// an outage. It reports whether one has begun.
func (n *Notices) AttemptFailed(event string, seq uint64, down bool, now time.Time) (began bool) {
	if !n.Down || n.Owed {
		n.Failing.add(one(event, seq, now))
	}
	if down && !n.Down {
		n.Down, n.Owed, n.again, began = true, true, n.Failing.sending, true
	}
	return began
}

// Answered notes that an attempt was successful, and reports whether an outage has ended. Its end is published if its
// beginning was.
func (n *Notices) Answered(event string, seq uint64, now time.Time) (ended bool) {
	if ended = n.Down; ended && !n.Owed {
		n.Recovered.add(one(event, seq, now))
	} else if ended && n.answered.empty() {
		n.answered = one(event, seq, now)
	}
	if n.Down = false; !n.Owed {
		n.Failing.Gathered, n.Failing.rest = Gathered{}, Gathered{}
	}
	return ended
}

// Troubled reports whether a success changes something.
func (n *Notices) Troubled() bool { return n.Down || !n.Owed && !n.Failing.empty() }

// Expire adds a delivery whose event left the log, with its id, if that is known.
func (n *Notices) Expire(event string, seq uint64, now time.Time) {
	n.EverExpired++
	n.Expired.add(one(event, seq, now))
}

// ExpireUnread adds a stretch of the log that left it unread, with so many events of the callback by estimate.
func (n *Notices) ExpireUnread(events int, from, through uint64, now time.Time) {
	g := one("", from, now)
	g.Count, g.Through, g.Unread = events, through, through-from+1
	n.EverExpired += events
	n.Expired.add(g)
}

// Disable adds that the callback was disabled at a time, and since when its receiver has failed. What is known already,
// by its time, is not added again.
func (n *Notices) Disable(at time.Time, reason string, since time.Time) {
	if at.Equal(n.DisabledAt) {
		return
	}
	if since.IsZero() {
		since = at
	}
	n.DisabledAt = at.Round(0).UTC()
	n.Disabled.add(Gathered{Count: 1, Reason: reason, Since: since.Round(0).UTC()})
}

// At returns when the next of them must be published, zero if there is none.
func (n *Notices) At(now time.Time) (at time.Time) {
	for k := range Kind(kinds) {
		if due := n.due(k, now); at.IsZero() || !due.IsZero() && due.Before(at) {
			at = due
		}
	}
	return at
}

func (n *Notices) due(k Kind, now time.Time) time.Time {
	switch {
	case k == Recovered || k == Disabled: // as rare as the outages that are published, or as somebody resumes it
		return n.of(k).at(0, 0, now)
	case k == Failing && n.Owed:
		return n.Failing.at(0, every, now)
	case k == Failing:
		return time.Time{}
	}
	return n.of(k).at(settle, every, now)
}

// Begin begins to publish one that is due; false if none is. End must follow.
func (n *Notices) Begin(now time.Time) (Kind, Gathered, bool) {
	for k := range Kind(kinds) {
		if at := n.due(k, now); !at.IsZero() && !at.After(now) {
			n.of(k).sending = true
			if k == Failing {
				n.saidDown, n.again, n.answered = n.Down, false, Gathered{}
			}
			return k, n.of(k).Gathered, true
		}
	}
	return 0, Gathered{}, false
}

// End ends what Begin began. What was not published is published later.
func (n *Notices) End(k Kind, published bool, now time.Time) {
	of := n.of(k)
	of.sending = false
	if published {
		of.Gathered, of.Published = of.rest, now.Round(0).UTC()
	}
	of.rest = Gathered{}
	if k != Failing || !published {
		return
	}
	if n.saidDown && !n.answered.empty() { // it ended meanwhile
		n.Recovered.add(n.answered)
	}
	n.answered = Gathered{}
	if n.Owed = n.again; !n.Owed {
		n.Failing.Gathered = Gathered{}
	}
}
