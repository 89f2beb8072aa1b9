package relay

import "time"

// ReplayState is whether a replay is under way, or how it has ended.
type ReplayState string

// The states of a replay.
const (
	ReplayRunning   ReplayState = "running"
	ReplayDone      ReplayState = "done"      // every event that it matched has ended
	ReplayCancelled ReplayState = "cancelled" // by a caller, or because the receiver failed for too long
)

// ReplayFilter selects the events of a replay: every list that is not empty must match, and the
// callback must still be entitled to the event.
type ReplayFilter struct {
	Filter

	Events []string `json:"events,omitempty"`
	// Statuses are how the deliveries to the callback ended last, as recorded up to
	// Replay.AttemptsThrough. Empty: whether there was a delivery or not.
	Statuses []DeliveryStatus `json:"statuses,omitempty"`
	Since    time.Time        `json:"since,omitzero"`
}

// Replay delivers events of the log to a callback again. What it selects is fixed when it is made:
// From, Through, AttemptsThrough and Positions never change.
//
// The API makes and cancels it, and the owner of the callback's shard does the rest: both write by
// compare-and-set.
type Replay struct {
	ID                 string `json:"id"`
	Callback           string `json:"callback"`
	CallbackGeneration string `json:"callbackGeneration"`
	Client             string `json:"client"`

	Filter          ReplayFilter `json:"filter"`
	From            uint64       `json:"from"`                      // first position of the log of events
	Through         uint64       `json:"through"`                   // last position
	AttemptsThrough uint64       `json:"attemptsThrough,omitempty"` // last position of the log of attempts
	Positions       []uint64     `json:"positions,omitempty"`       // of Filter.Events, ascending

	State     ReplayState `json:"state"`
	Reason    string      `json:"reason,omitempty"` // why it was cancelled
	Matched   *int        `json:"matched,omitempty"`
	Progress  Progress    `json:"progress"`
	CreatedAt time.Time   `json:"createdAt"`
	EndedAt   time.Time   `json:"endedAt,omitzero"`
	Epoch     uint64      `json:"epoch,omitempty"` // of the owner who wrote it last
}

// Progress counts the events of a replay by how they ended in it.
type Progress struct {
	Delivered int `json:"delivered,omitempty"`
	Failed    int `json:"failed,omitempty"`
	Skipped   int `json:"skipped,omitempty"` // left the log, or no longer for the callback
}

// Ended returns how many events have ended.
func (p Progress) Ended() int { return p.Delivered + p.Failed + p.Skipped }

// Add counts an event that has ended.
func (p *Progress) Add(how DeliveryStatus) {
	switch how {
	case DeliveryDelivered:
		p.Delivered++
	case DeliveryFailed:
		p.Failed++
	case DeliverySkipped, DeliveryExpired, DeliveryPending, DeliveryRetrying:
		p.Skipped++
	}
}

// OwnerEpoch is the epoch of the owner who wrote it last.
func (r Replay) OwnerEpoch() uint64 { return r.Epoch }

// Running reports whether the replay goes on.
func (r Replay) Running() bool { return r.State == ReplayRunning }

// End ends a running replay.
func (r *Replay) End(how ReplayState, reason string, now time.Time) {
	if r.Running() {
		r.State, r.Reason, r.EndedAt = how, reason, now.UTC()
	}
}
