package sender

import (
	"context"
	"time"
)

// Reached is how far a connection to a receiver gets.
type Reached struct {
	Outcome      Outcome // Success: a request could be sent now; Cancelled: nobody knows
	Reason       string  // in our own words, "" with Success
	Certificates []Certificate
}

// Reach connects to the receiver of a URL as an attempt does: under the same rules for addresses, through the proxy,
// and by TLS. It sends no request and closes the connection.
func (s *Sender) Reach(ctx context.Context, raw string) Reached {
	a, seen := Attempt{At: time.Now()}, Inspection{}
	target, err := parseTarget(raw)
	if err != nil {
		return Reached{Outcome: Invalid, Reason: err.Error()}
	}
	if s.closed.Load() {
		return Reached{Outcome: Cancelled, Reason: "the relay is stopping"}
	}
	c, err := s.connect(ctx, target, key{url: raw}, a.At.Add(DefaultTimeout), &a.Phases)
	if err != nil {
		seen.refused(err)
		s.classify(ctx, connecting, err, DefaultTimeout, &a)
		return Reached{Outcome: a.Outcome, Reason: a.Error, Certificates: seen.Certificates}
	}
	seen.connected(c)
	c.close()
	s.pool.release()
	if s.dialer.proxy != nil && target.Scheme == "http" { // it connects to the receiver when a request comes
		return Reached{Outcome: Cancelled,
			Reason: "the proxy was, and it connects to a receiver without TLS for a request only"}
	}
	return Reached{Outcome: Success, Certificates: seen.Certificates}
}
