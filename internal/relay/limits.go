package relay

import "cmp"

// Limits are how much a client may have, and do at a time. In a client's document 0 stands for the
// default.
type Limits struct {
	Callbacks       int `json:"callbacks,omitempty"`
	Keys            int `json:"keys,omitempty"`
	Replays         int `json:"replays,omitempty"`         // under way
	TestsPerMinute  int `json:"testsPerMinute,omitempty"`  // of callbacks, at each replica
	WaitingRequests int `json:"waitingRequests,omitempty"` // long polls and other requests that wait, at each replica
}

// DefaultLimits are those of a client whose document has none.
var DefaultLimits = Limits{Callbacks: 1000, Keys: 100, WaitingRequests: 100, TestsPerMinute: 60, Replays: 20}

// Allowed returns the limits of a client.
func (c Client) Allowed() Limits {
	own, usual := c.Limits, DefaultLimits
	return Limits{
		Callbacks: cmp.Or(own.Callbacks, usual.Callbacks), Keys: cmp.Or(own.Keys, usual.Keys),
		WaitingRequests: cmp.Or(own.WaitingRequests, usual.WaitingRequests),
		TestsPerMinute:  cmp.Or(own.TestsPerMinute, usual.TestsPerMinute), Replays: cmp.Or(own.Replays, usual.Replays),
	}
}
