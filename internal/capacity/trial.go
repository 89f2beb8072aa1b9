package capacity

import "time"

// trialSlack is how long a test may take besides its attempt before its place is given to others.
const trialSlack = 10 * time.Second

// Trial is leave to test a callback, or why there is none now. It crosses the wire between replicas.
type Trial struct {
	Granted bool          `json:"granted"`
	Reason  string        `json:"reason,omitempty"` // why not, in a sentence
	Again   time.Duration `json:"again,omitempty"`  // when to ask again
}

// Test is the test of a callback that is under way: one attempt of its concurrency and one of its rate that are no
// delivery's. There is one at a time. It belongs to the goroutine that delivers.
type Test struct {
	Until time.Time // it has its place until then at most; zero: there is none
}

// Begin gives leave for a test whose attempt may take so long, and takes its place. That the receiver is overloaded does
// not count: one who mends it wants to see whether it works.
func (t *Test) Begin(now time.Time, pl *Place, takes time.Duration) Trial {
	if now.Before(t.Until) {
		return Trial{Reason: "A test of this callback is under way.", Again: time.Second}
	}
	t.End(pl)
	if !pl.TryTake() {
		return Trial{Reason: "As many attempts are under way as the callback may have.", Again: time.Second}
	}
	if !pl.UseRate(now) {
		pl.Release()
		return Trial{Reason: "The callback's rate allows no request now.", Again: max(pl.RateWait(now), time.Millisecond)}
	}
	t.Until = now.Add(takes + trialSlack)
	return Trial{Granted: true}
}

// End gives the place of the test back, if there is one.
func (t *Test) End(pl *Place) {
	if !t.Until.IsZero() {
		t.Until = time.Time{}
		pl.Release()
	}
}
