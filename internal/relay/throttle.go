package relay

import "time"

// Throttle is what the vendor's 429 responses require: no requests until a time, and fewer requests
// for a while after it. The replicas share it.
type Throttle struct {
	// Until is when requests may be sent again; zero or past: now.
	Until time.Time `json:"until,omitzero"`
	// Part is the part of the allowed rate that was used from At on; 0 means all of it. It recovers
	// by itself, see PartAt.
	Part float64   `json:"part,omitzero"`
	At   time.Time `json:"at,omitzero"`
}

const (
	// leastPart is the part of the allowed rate that is always used.
	leastPart = 0.1
	// partRecovers is the part of the allowed rate that is regained each minute: after ten minutes
	// half becomes all.
	partRecovers = 0.05
)

// PartAt returns the part of the allowed rate that is used at a time.
func (t Throttle) PartAt(now time.Time) float64 {
	if t.Part <= 0 || t.Part >= 1 {
		return 1
	}
	return min(1, max(t.Part, leastPart)+partRecovers*max(0, now.Sub(t.At).Minutes()))
}

// Halved returns t with the present part of the rate halved.
func (t Throttle) Halved(now time.Time) Throttle {
	t.Part, t.At = max(leastPart, t.PartAt(now)/2), now
	return t
}

// With combines two throttles: the longer silence, and the lower rate.
func (t Throttle) With(other Throttle, now time.Time) Throttle {
	if other.Until.After(t.Until) {
		t.Until = other.Until
	}
	if other.PartAt(now) < t.PartAt(now) {
		t.Part, t.At = other.Part, other.At
	}
	return t
}

// Equal reports whether two throttles require the same.
func (t Throttle) Equal(other Throttle) bool {
	return t.Until.Equal(other.Until) && t.Part == other.Part && t.At.Equal(other.At)
}
