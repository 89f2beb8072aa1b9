package resolver_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/audatex-relay/relay/internal/audatex"
)

// An event has for how long the vendor has held it back: while it did not respond, and while it took its time.
func TestHeldByTheVendor(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	clk := &clock{}
	c := r.config(r.store)
	c.Now = clk.now
	down := func(is bool) {
		r.vendor.mu.Lock()
		defer r.vendor.mu.Unlock()
		if r.vendor.fail = nil; is {
			r.vendor.fail = func(string, string) error { return vendorError(audatex.Unavailable) }
		}
	}
	held := func(order string) time.Duration {
		t.Helper()
		r.vendor.set(order, "New")
		r.settled("leeds", r.page("leeds", "leeds", created(order)))
		events := r.events("leeds", order)
		if len(events) != 1 {
			t.Fatalf("%d events", len(events))
		}
		return events[0].Stored.Held
	}
	r.run(c)
	if d := held(orderID(1)); d != 0 {
		t.Errorf("an event that came at once was held for %s", d)
	}

	down(true)
	first, second := orderID(2), orderID(3)
	r.vendor.set(first, "New")
	r.vendor.set(second, "New")
	asked := r.vendor.count()
	r.page("leeds", "leeds", created(first))
	eventually(t, "it has failed", func() bool { return r.vendor.count() > asked+1 })
	last := r.page("leeds", "leeds", created(second))
	bothAgain := func() { // whatever was under way before has ended then
		t.Helper()
		r.vendor.mu.Lock()
		from := len(r.vendor.gets)
		r.vendor.mu.Unlock()
		eventually(t, "both are asked for again", func() bool {
			r.vendor.mu.Lock()
			defer r.vendor.mu.Unlock()
			of := func(order string) func(get) bool { return func(g get) bool { return g.order == order } }
			return slices.ContainsFunc(r.vendor.gets[from:], of(first)) &&
				slices.ContainsFunc(r.vendor.gets[from:], of(second))
		})
	}
	bothAgain()
	clk.forward(10 * time.Minute)
	bothAgain()
	down(false)
	r.settled("leeds", last)
	for _, order := range []string{first, second} {
		if events := r.events("leeds", order); len(events) != 1 || events[0].Stored.Held < 9*time.Minute ||
			events[0].Stored.Held > 12*time.Minute {
			t.Errorf("%d events, held for %s", len(events), events[0].Stored.Held)
		}
	}
	if d := held(orderID(4)); d != 0 {
		t.Errorf("once all were caught up, an event was held for %s", d)
	}

	r.vendor.mu.Lock()
	r.vendor.during = func(string, string) { clk.forward(7 * time.Second) }
	r.vendor.mu.Unlock()
	if d := held(orderID(5)); d < 7*time.Second || d > time.Minute {
		t.Errorf("an event whose order was read for seven seconds was held for %s", d)
	}

	r.vendor.mu.Lock()
	r.vendor.during = nil
	r.vendor.turn = func(context.Context) error { clk.forward(10 * time.Minute); return nil }
	r.vendor.mu.Unlock()
	if d := held(orderID(6)); d > time.Minute {
		t.Errorf("an event whose order waited for the relay's own rate was held by the vendor for %s", d)
	}
}
