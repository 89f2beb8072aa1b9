package store_test

import (
	"sync"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/relay"
)

// What the vendor asks of several replicas at once is kept together, for those that start later;
// what asks for less changes nothing.
func TestWhatTheVendorAsksIsKept(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir())
	if got, err := s.Throttle(t.Context()); err != nil || !got.Equal(relay.Throttle{}) {
		t.Fatalf("at first %+v, %v", got, err)
	}
	now := time.Now().UTC().Truncate(time.Second)
	longest := relay.Throttle{Until: now.Add(time.Hour), Part: 0.5, At: now}
	lowest := relay.Throttle{Until: now.Add(time.Minute), Part: 0.25, At: now}
	var replicas sync.WaitGroup
	for _, asked := range []relay.Throttle{longest, lowest, {Until: now.Add(time.Second), Part: 0.9, At: now}} {
		replicas.Go(func() {
			if err := s.KeepThrottle(t.Context(), asked); err != nil {
				t.Error(err)
			}
		})
	}
	replicas.Wait()
	got, err := s.Throttle(t.Context())
	if want := (relay.Throttle{Until: longest.Until, Part: lowest.Part, At: now}); err != nil || !got.Equal(want) {
		t.Errorf("kept %+v, %v; want %+v", got, err, want)
	}
}
