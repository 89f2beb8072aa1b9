package poller

import (
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// A connection that fails once is tried again soon, however long its interval, and one that fails for long ever more
// seldom.
func TestPauseAfterFailures(t *testing.T) {
	t.Parallel()
	for _, interval := range []time.Duration{100 * time.Millisecond, 5 * time.Minute, 24 * time.Hour} {
		r := &runner{connection: relay.Connection{PollIntervalSeconds: interval.Seconds()}}
		first := min(2*time.Minute, 2*interval)
		for failures, want := range map[int]time.Duration{1: first, 2: 2 * first, 40: 8 * interval} {
			if got := r.pause(failures); got < want*89/100 || got > want*111/100 {
				t.Errorf("%d failures at an interval of %s: %s, want about %s", failures, interval, got, want)
			}
		}
	}
}
