package resolver_test

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/audatex"
	"github.com/audatex-relay/relay/internal/resolver"
)

// Orders that the vendor does not give show after a minute, with the time of their receipt: at the owner, also one that
// has just taken the connection over, until they are read.
func TestWhatWaitsIsShownByItsOwner(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.connect("leeds", "leeds")
	r.connect("york", "york")
	var down atomic.Bool
	down.Store(true)
	r.vendor.fail = func(connection, _ string) error {
		if connection == "leeds" && down.Load() {
			return &audatex.Error{Operation: audatex.OpOrder, Outcome: audatex.Unavailable}
		}
		return nil
	}
	var ahead atomic.Int64
	begin := func(epoch uint64) (shows func(connection string) (waiting, oldest float64), stop func()) {
		registry := prometheus.NewRegistry()
		c := r.config(r.store)
		c.Metrics = resolver.NewMetrics(registry)
		c.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
		return func(connection string) (waiting, oldest float64) {
			t.Helper()
			families, err := registry.Gather()
			if err != nil {
				t.Fatal(err)
			}
			for _, family := range families {
				for _, m := range family.GetMetric() {
					if len(m.GetLabel()) == 0 || m.GetLabel()[0].GetValue() != connection {
						continue
					}
					switch family.GetName() {
					case "audatex_relay_notifications_waiting":
						waiting = m.GetGauge().GetValue()
					case "audatex_relay_notifications_oldest_waiting_seconds":
						oldest = m.GetGauge().GetValue()
					}
				}
			}
			return waiting, oldest
		}, r.work(resolver.New(c), epoch)
	}
	for n := range 3 {
		r.vendor.set(orderID(n), "New")
	}
	shows, stop := begin(1)
	last := r.page("leeds", "leeds", updated(orderID(1)), updated(orderID(2)))
	r.settled("york", r.page("york", "york", updated(orderID(0))))
	eventually(t, "the vendor was asked", func() bool { return r.vendor.count() > 5 })
	if n, _ := shows("leeds"); n != 0 {
		t.Errorf("%v notifications are shown that wait for a moment", n)
	}
	ahead.Store(int64(10 * time.Minute))
	if n, oldest := shows("leeds"); n != 2 || oldest < 600 || oldest > 900 {
		t.Errorf("%v notifications wait for %v seconds, want 2 for ten minutes", n, oldest)
	}
	stop()
	if n, _ := shows("leeds"); n != 0 {
		t.Error("one who does not own the connection shows what waits")
	}
	ahead.Store(int64(20 * time.Minute))
	shows, _ = begin(2)
	eventually(t, "the next owner shows since when the notifications wait", func() bool {
		n, oldest := shows("leeds")
		return n == 2 && oldest >= 1200 && oldest < 1500
	})
	if n, _ := shows("york"); n != 0 {
		t.Errorf("%v notifications are shown of a connection that has none", n)
	}
	down.Store(false)
	r.settled("leeds", last)
	eventually(t, "nothing is shown any more", func() bool { n, _ := shows("leeds"); return n == 0 })
}
