package dispatcher_test

import (
	"net/http"
	"sync/atomic"
	"testing"

	"github.com/audatex-relay/relay/internal/delivery"
	"github.com/audatex-relay/relay/internal/relay"
)

// One test of a callback at a time, within its concurrency and its rate: it waits for deliveries, and they for it.
func TestATestGoesByTheCallbacksLimits(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	free := make(chan struct{})
	var held atomic.Int32
	r := newReceiver(t, func(relay.Event, int) int {
		held.Add(1)
		<-free
		return http.StatusOK
	})
	marker := newReceiver(t, nil)
	cb := callback("bms", r.URL)
	cb.Concurrency = 1
	slow := callback("slow", r.URL)
	slow.RatePerSecond, slow.Filter.Sites = 0.01, []string{"nowhere"}
	b.register(cb)
	b.register(slow)
	b.register(callback("marker", marker.URL))
	d := b.start()
	until(t, "all are loaded", func() bool {
		for _, id := range []string{"bms", "slow", "marker"} {
			if _, known := d.Status(id); !known {
				return false
			}
		}
		return true
	})
	if _, known := d.BeginTest("bms", "another generation"); known {
		t.Error("a callback of another generation is tested")
	}
	begin := func(cb relay.Callback, want bool) {
		t.Helper()
		leave, known := d.BeginTest(cb.ID, cb.Generation)
		if !known || leave.Granted != want || !want && (leave.Reason == "" || leave.Again <= 0) {
			t.Errorf("a test of %s: %+v, %t, want %t", cb.ID, leave, known, want)
		}
	}
	begin(cb, true)
	begin(cb, false) // one at a time
	b.publish("leeds", 1)
	until(t, "the event has gone to others", func() bool { return marker.distinct() == 1 })
	if held.Load() != 0 {
		t.Error("a delivery takes the slot that a test has")
	}
	d.EndTest(cb.ID, cb.Generation, false)
	until(t, "the delivery goes once the test has ended", func() bool { return held.Load() == 1 })
	begin(cb, false) // the delivery has the only slot
	close(free)
	until(t, "the delivery has ended", func() bool { return len(b.closings("bms", cb.Generation)) == 1 })
	replay := d.deliverer.Slots.Join(cb.Client, delivery.NewTarget(cb, relay.Client{}).Key, func() {})
	defer replay.Leave()
	until(t, "a replay has the only slot", replay.TryTake)
	begin(cb, false)
	replay.Release()
	begin(cb, true)
	if replay.TryTake() {
		t.Error("a replay takes the slot that a test has")
	}
	d.EndTest(cb.ID, cb.Generation, false)
	if !replay.TryTake() {
		t.Error("the slot of a test is not given back")
	}
	replay.Release()

	begin(slow, true)
	d.EndTest(slow.ID, slow.Generation, false)
	begin(slow, false) // its rate is used up
}
