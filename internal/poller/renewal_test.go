package poller

import (
	"fmt"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// Connections that were paused, and whose tokens were refreshed, at the same moment are due spread over half a day,
// each about a day later.
func TestTokensOfPausedConnectionsAreDueSpreadOverTheDay(t *testing.T) {
	t.Parallel()
	p := &Poller{Config: Config{Renewal: DefaultRenewal}}
	last := time.Date(2026, 1, 15, 12, 0, 0, 0, time.UTC)
	perHour := map[int]int{}
	const many = 12_000
	for i := range many {
		r := &runner{p: p}
		due := r.renewalOf(relay.Connection{ID: fmt.Sprintf("site-%d", i)},
			relay.TokenRecord{RefreshedAt: last}).Sub(last)
		if due < 18*time.Hour || due >= 30*time.Hour {
			t.Fatalf("due after %s", due)
		}
		perHour[int(due/time.Hour)]++
	}
	for hour, n := range perHour {
		if n > 2*many/12 {
			t.Errorf("%d of %d are due in hour %d", n, many, hour)
		}
	}
}
