package backlog

import (
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
)

// A callback for which a sample of the log had nothing is sampled seldom: at every scrape each would read as much
// again.
func TestASampleWithoutEventsIsNotTakenAgainSoon(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		filter relay.Filter
		found  uint64
		again  time.Duration // 0: never
	}{
		"every event":        {relay.Filter{}, 0, countEvery},
		"a status":           {relay.Filter{OrderStatuses: []string{"Closed"}}, 0, sampleEvery},
		"changes":            {relay.Filter{ChangedOnly: true}, 0, sampleEvery},
		"changes, and found": {relay.Filter{ChangedOnly: true}, 1, 0},
	} {
		s := State{Target: &delivery.Target{Callback: relay.Callback{Filter: tc.filter}},
			Cursor: cursor.New(cursor.Policy{Concurrency: 1, Window: 1}), Log: 100, Behind: true, Idle: true}
		now := time.Now()
		var e Estimate
		_, q := e.Waiting(s, now)
		if q.Empty() {
			t.Fatalf("%s: the log is not asked", name)
		}
		q.counted, q.waiting = true, tc.found
		e.Learn(&q, now)
		for _, after := range []time.Duration{countEvery - 1, countEvery, sampleEvery - 1, sampleEvery} {
			asks := e // each as if nobody had asked meanwhile
			_, q := asks.Waiting(s, now.Add(after))
			if want := tc.again > 0 && after >= tc.again; q.Empty() == want {
				t.Errorf("%s: after %s the log is asked: %t", name, after, !q.Empty())
			}
		}
	}
}
