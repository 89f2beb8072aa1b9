package delivery

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/store"
)

// Late deliveries count, but for those whose receiver failed after they came, and those that waited behind these.
func TestPunctual(t *testing.T) {
	t.Parallel()
	m := NewMetrics(nil)
	now := time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)
	var e Excuse
	deliver := func(received, at time.Duration) {
		m.Punctual(&e, &Event{Stored: store.Stored{ReceivedAt: now.Add(received)}}, now.Add(at))
	}
	want := func(what string, inTime, late float64) {
		t.Helper()
		if a, b := testutil.ToFloat64(m.inTime), testutil.ToFloat64(m.late); a != inTime || b != late {
			t.Errorf("%s: %v in time and %v late, want %v and %v", what, a, b, inTime, late)
		}
	}
	deliver(0, time.Second)
	want("at once", 1, 0)
	deliver(0, 2*time.Minute)
	want("late", 1, 1)
	e.Until(now.Add(10 * time.Minute)) // an attempt fails
	deliver(3*time.Minute, 11*time.Minute)
	deliver(10*time.Minute, 10*time.Minute+30*time.Second)
	want("received before the failure", 1, 1)
	deliver(10*time.Minute+30*time.Second, 12*time.Minute) // received while it still caught up
	want("behind those", 1, 1)
	deliver(13*time.Minute, 13*time.Minute+time.Second)
	deliver(14*time.Minute, 16*time.Minute)
	want("once it has caught up", 2, 2)
	m.Punctual(&e, &Event{Stored: store.Stored{Time: now.Add(20 * time.Minute)}}, now.Add(21*time.Minute))
	want("an event without a notification", 3, 2)
}
