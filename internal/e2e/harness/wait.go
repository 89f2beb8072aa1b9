package harness

import (
	"testing"
	"time"
)

// Patience is how long a condition may take to come true on a machine that is busy with other
// things. It decides only how long a failing test takes.
const Patience = 90 * time.Second

// Eventually waits until ok returns "", and fails with what it returned last if it does not.
func Eventually(t testing.TB, what string, ok func() string) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.NewTimer(Patience)
	defer deadline.Stop()
	for {
		missing := ok()
		if missing == "" {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("%s: not within %s: %s", what, Patience, missing)
		}
	}
}
