package publisher_test

import (
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/natstest"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/topology"
)

// Events about one connection that several stages publish at the same time enter the log in the
// order of their sequences.
func TestOperationalEventsOfOneThingRiseInTheLog(t *testing.T) {
	t.Parallel()
	s := open(t, natstest.Start(t), store.Gate{})
	p := newPublisher(s)
	const stages, each = 8, 25
	var wg sync.WaitGroup
	for stage := range stages {
		wg.Go(func() {
			for n := range each {
				kind, text := relay.Kind(fmt.Sprint("kind-", stage)), fmt.Sprint(stage, " ", n)
				at := []string{site, relay.NoSite}[n%2] // a receiver compares what has the same subject
				var err error
				if n%5 == 0 {
					err = p.Once(t.Context(), at, kind, "c", text, map[string]any{"n": n},
						time.Now().Add(-time.Hour), "n")
				} else {
					err = p.Operational(t.Context(), at, kind, "c", text, nil)
				}
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	stored, _, err := s.Events.Scan(t.Context(), 0, []string{topology.OperationalSubject("*", "*", "c")}, 10_000)
	if err != nil || len(stored) != stages*each {
		t.Fatalf("%d events, %v", len(stored), err)
	}
	last := ""
	for _, e := range stored {
		var ev struct {
			Sequence string `json:"sequence"`
		}
		if err := json.Unmarshal(e.Body, &ev); err != nil || ev.Sequence <= last { // sixteen digits each
			t.Fatalf("%s after %s, %v", ev.Sequence, last, err)
		}
		last = ev.Sequence
	}
}
