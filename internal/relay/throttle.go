package relay

import "time"

// Throttle is what the vendor's refusals (429) ask of the relay: silence until a time, and after that fewer requests for a
// while. The replicas tell it one another.
type Throttle struct {
	// Until is when requests may be sent again; zero or past: now.
	Until time.Time `json:"until,omitzero"`
	// Part is which part of the allowed rate was used from At on; 0 stands for all of it. It recovers by itself, see PartAt.
	Part float64   `json:"part,omitzero"`
	At   time.Time `json:"at,omitzero"`
}

const (
	// leastPart of the allowed rate is always used.
	leastPart = 0.1
	// partRecovers is how much of the allowed rate comes back in a minute: from half of it all is back after ten.
	partRecovers = 0.05
)

// PartAt returns which part of the allowed rate is used at a time.
func (t Throttle) PartAt(now time.Time) float64 {
	if t.Part <= 0 || t.Part >= 1 {
		return 1
	}
	return min(1, max(t.Part, leastPart)+partRecovers*max(0, now.Sub(t.At).Minutes()))
}

// Halved returns t with half the part of the rate that is used now.
func (t Throttle) Halved(now time.Time) Throttle {
	t.Part, t.At = max(leastPart, t.PartAt(now)/2), now
	return t
}

// With returns what two refusals together ask for: the longer silence, and the lower rate.
func (t Throttle) With(other Throttle, now time.Time) Throttle {
	if other.Until.After(t.Until) {
		t.Until = other.Until
	}
	if other.PartAt(now) < t.PartAt(now) {
		t.Part, t.At = other.Part, other.At
	}
	return t
}

// Equal reports whether two ask for the same.
func (t Throttle) Equal(other Throttle) bool {
	return t.Until.Equal(other.Until) && t.Part == other.Part && t.At.Equal(other.At)
}
