package delivery

// Waiting is where a delivery stood that an operator wanted to be retried or skipped.
type Waiting int

// The places.
const (
	Due     Waiting = iota // it is due now, or under way
	Earlier                // it waits for an earlier event of its order
	Unread                 // the callback has not reached it yet
	Skipped                // it was skipped by this
	Ended                  // it does not wait: it has ended, or was not for the callback
)
