package cluster

import (
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/e2e/harness"
	"github.com/audatex-relay/relay/internal/sandbox"
)

// A relay is stopped in the middle of a poll for longer than a call may last. The response lies in
// its sockets when it wakes, and nowhere else: it is read, stored and delivered, and nothing is
// suspected.
func TestASuspendedRelayReadsTheAnswerThatCameMeanwhile(t *testing.T) {
	t.Parallel()
	w := newWorld(t, options{
		replicas: 1, sites: 2, vendor: sandbox.Config{Seed: 5},
		faults: []sandbox.Faults{
			{ShareLatency: 1, Latency: 500 * time.Millisecond, Operations: []sandbox.Operation{sandbox.OpPoll}}},
	})
	w.newReceivers()
	w.start()
	for range 2 {
		if _, err := w.vendor.CreateOrder(vendorSite(w.sites[0]), sandbox.OrderOptions{}); err != nil {
			t.Fatal(err)
		}
		created := time.Now()
		under := func() (polling, ended bool) {
			for _, c := range w.vendor.all() {
				if c.what == pollCall && c.began.After(created) {
					return true, !c.ended.IsZero()
				}
			}
			return false, false
		}
		harness.Eventually(t, "a poll", func() string {
			if polling, _ := under(); !polling {
				return "none has begun"
			}
			return ""
		})
		end := w.begin(suspendRelay, 0)
		w.change(w.replicas[0].suspend)
		harness.Eventually(t, "the vendor's answer", func() string {
			if _, ended := under(); !ended {
				return "it is under way"
			}
			return ""
		})
		pass(3 * time.Second) // a call may last for two
		w.change(w.replicas[0].resume)
		end()
	}
	var f findings
	a := w.rest(&f, restPatience)
	if told := a.said(t, "gap-suspected", "since"); len(told) > 0 {
		t.Errorf("gaps are suspected: %v", told)
	}
	if len(a.events) != 2 {
		t.Errorf("%d events of 2 notifications", len(a.events))
	}
	w.finish(w.operator())
}
