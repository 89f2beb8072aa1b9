package main

import (
	"testing"
	"time"
)

// Attempts and token refreshes share one grace: a pod is killed five seconds after it.
func TestRefreshesEndWithTheGrace(t *testing.T) {
	t.Parallel()
	stopped, grace := time.Now(), 25*time.Second
	for _, row := range []struct{ waited, want time.Duration }{
		{0, grace},
		{10 * time.Second, grace},
		{24 * time.Second, 26 * time.Second},
		{grace, 27 * time.Second},
	} {
		if got := refreshesEnd(stopped, stopped.Add(row.waited), grace).Sub(stopped); got != row.want {
			t.Errorf("after waiting %v for the rest: %v, not %v", row.waited, got, row.want)
		}
	}
}
