package delivery

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/cursor"
	"github.com/audatex-relay/relay/internal/store"
	"github.com/audatex-relay/relay/internal/trouble"
)

var nine = time.Date(2026, 1, 15, 9, 0, 0, 0, time.UTC)

// Late is what the relay itself has delayed for more than a minute; what others have delayed is left out.
func TestPunctual(t *testing.T) {
	t.Parallel()
	minutes := func(m float64) time.Duration { return time.Duration(m * float64(time.Minute)) }
	at := func(m float64) time.Time { return nine.Add(minutes(m)) }
	var failed, paused trouble.Times
	failed.Began(at(0))
	failed.Ended(at(5))
	paused.Began(trouble.Ever)
	for _, c := range []struct {
		what                string
		received, came, now float64
		held                float64
		batch               cursor.Batch
		troubles            trouble.Times
		late, receiver      bool
		vendor              bool
	}{
		{what: "at once", now: 0.1},
		{what: "slowly published", came: 2, now: 2.1, late: true},
		{what: "slowly delivered", came: 0.1, now: 2.1, late: true},
		{what: "held by the vendor", came: 60, now: 60.5, held: 59.9, vendor: true},
		{what: "held by the vendor, and then by the relay", came: 61, now: 62, held: 60, late: true},
		{what: "held by the vendor for a moment", came: 0.5, now: 0.6, held: 0.4},
		{what: "the receiver failed", came: 0.1, now: 5.5, troubles: failed, receiver: true},
		{what: "the receiver failed, and it was in time", received: 4.5, came: 4.5, now: 5.1,
			troubles: failed, receiver: true},
		{what: "while it caught up", received: 6, came: 6, now: 9, troubles: failed, receiver: true},
		{what: "the receiver failed before, and the relay was slow then", received: 6, came: 6, now: 11.5,
			troubles: failed, late: true},
		{what: "long after the receiver failed", received: 20, came: 20, now: 20.1, troubles: failed},
		{what: "paused", came: 0.1, now: 300, troubles: paused, receiver: true},
		{what: "its own attempts failed", came: 0.1, now: 10,
			batch: cursor.Batch{FailingSince: at(0.5)}, receiver: true},
		{what: "its first attempt came late, and failed", came: 0.1, now: 2,
			batch: cursor.Batch{FailingSince: at(1.5)}, late: true},
		{what: "its order had failed long before it came", received: 8, came: 8, now: 10,
			batch: cursor.Batch{FailingSince: at(0)}, receiver: true},
		{what: "behind an event that failed", came: 0.1, now: 10, batch: cursor.Batch{Healed: at(9.9)}, receiver: true},
		{what: "behind an event that failed, and then late", came: 0.1, now: 10,
			batch: cursor.Batch{Healed: at(8)}, late: true},
		{what: "of an order that failed once", received: 20, came: 20, now: 20.1, batch: cursor.Batch{Healed: at(9)}},
	} {
		m := NewMetrics(nil)
		ev := &Event{Stored: store.Stored{ReceivedAt: at(c.received), Time: at(c.came), Held: minutes(c.held)}}
		m.Punctual(ev, &c.batch, &c.troubles, at(c.now))
		got := [...]bool{counted(m.late), counted(m.leftOut[byReceiver]),
			counted(m.leftOut[byVendor]), counted(m.inTime)}
		if want := [...]bool{c.late, c.receiver, c.vendor, !c.late && !c.receiver && !c.vendor}; got != want {
			t.Errorf("%s: late, the receiver's, the vendor's, in time: %v, want %v", c.what, got, want)
		}
	}
	m := NewMetrics(nil)
	m.Punctual(&Event{Stored: store.Stored{Time: at(20)}}, &cursor.Batch{}, &trouble.Times{}, at(20.5))
	if !counted(m.inTime) {
		t.Error("an event without a notification is not in time")
	}
}

func counted(c prometheus.Counter) bool { return testutil.ToFloat64(c) > 0 }

// A relay that is a minute and a half late with everything is seen to be, also by the deliveries to a receiver that
// fails for two seconds of every minute.
func TestPunctualOfASlowRelay(t *testing.T) {
	t.Parallel()
	m := NewMetrics(nil)
	var troubles trouble.Times
	for second := range 3600 {
		now := nine.Add(time.Duration(second) * time.Second)
		switch second % 60 {
		case 10:
			troubles.Began(now)
		case 12:
			troubles.Ended(now)
		}
		came := now.Add(-90 * time.Second)
		m.Punctual(&Event{Stored: store.Stored{ReceivedAt: came, Time: came}}, &cursor.Batch{}, &troubles, now)
	}
	if late := testutil.ToFloat64(m.late); late != 3600 {
		t.Errorf("%v of 3600 are late, %v are left out", late, testutil.ToFloat64(m.leftOut[byReceiver]))
	}
}
