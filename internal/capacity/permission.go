package capacity

import "time"

// testSlack is how long a test may take besides its attempt before its slot is given to others.
const testSlack = 10 * time.Second

// TestPermission is whether a callback may be tested now, and why not. Replicas send it to one another.
type TestPermission struct {
	Granted bool          `json:"granted"`
	Reason  string        `json:"reason,omitempty"` // why not, in a sentence
	Again   time.Duration `json:"again,omitempty"`  // when to ask again
}

// Test is the test of a callback that is under way: one attempt that counts against the callback's concurrency and rate
// and is no delivery. There is one at a time. Test belongs to the goroutine that delivers.
type Test struct {
	Until time.Time // the latest end of the test, when its slot is free again; zero: there is no test
}

// Begin permits a test whose attempt takes at most so long, and takes a slot for it. Slow-downs do not count: whoever
// has mended an overloaded receiver wants to see whether it works.
func (t *Test) Begin(now time.Time, a *Allowance, atMost time.Duration) TestPermission {
	if now.Before(t.Until) {
		return TestPermission{Reason: "A test of this callback is under way.", Again: time.Second}
	}
	t.End(a)
	if !a.TryTake() {
		return TestPermission{Reason: "As many attempts are under way as the callback may have.", Again: time.Second}
	}
	if !a.UseRate(now) {
		a.Release()
		wait := max(a.RateWait(now), time.Millisecond)
		return TestPermission{Reason: "The callback's rate allows no request now.", Again: wait}
	}
	t.Until = now.Add(atMost + testSlack)
	return TestPermission{Granted: true}
}

// End gives the slot of the test back, if there is a test.
func (t *Test) End(a *Allowance) {
	if !t.Until.IsZero() {
		t.Until = time.Time{}
		a.Release()
	}
}
