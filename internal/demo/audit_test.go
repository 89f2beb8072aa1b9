package demo

import (
	"fmt"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/ledger"
	"github.com/audatex-relay/relay/internal/sandbox"
)

func TestAuditCountsRepeats(t *testing.T) {
	t.Parallel()
	a := newReceivedEvents()
	for i := range 3 {
		e := ledger.Event{ID: fmt.Sprint("event-", i%2), Type: "audatex.relay.test"}
		if first := a.arrived(e, time.Now()); first != (i < 2) {
			t.Errorf("delivery %d is the first of its event: %t", i, first)
		}
	}
	if v := a.judge(sandbox.Ledger{}); v.events != 2 || v.deliveries != 3 || v.repeats != 1 || v.broken() {
		t.Errorf("judged %+v", v)
	}
}

// What the vendor still has was not fetched in time; what it dropped nobody could fetch.
func TestWhatIsStillAtTheVendorsIsLost(t *testing.T) {
	t.Parallel()
	notes := []sandbox.NotificationRecord{{ID: "waits"}, {ID: "dropped", Dropped: true}}
	l := sandbox.Ledger{Orders: []sandbox.OrderRecord{{ID: "o", Notifications: notes}}}
	if v := newReceivedEvents().judge(l); v.Lost != 1 || !v.broken() {
		t.Errorf("judged %+v", v)
	}
}

func TestAnUnverifiedDeliveryIsAFault(t *testing.T) {
	t.Parallel()
	a := newReceivedEvents()
	a.refused()
	if v := a.judge(sandbox.Ledger{}); v.unverified != 1 || !v.broken() {
		t.Errorf("judged %+v", v)
	}
}

func TestSpread(t *testing.T) {
	t.Parallel()
	var d []time.Duration
	for i := 100; i > 0; i-- {
		d = append(d, time.Duration(i))
	}
	if s := newSpread(d); s != (spread{50, 99}) {
		t.Errorf("spread of 1 to 100: %+v", s)
	}
	if s := newSpread([]time.Duration{7}); s != (spread{7, 7}) {
		t.Errorf("spread of one: %+v", s)
	}
}
