package dispatcher_test

import (
	"context"
	"encoding/json"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/relay"
	"github.com/audatex-relay/relay/internal/store"
)

// punctuality returns what the relay counts of deliveries: in time, late, and left out for the receiver and the vendor.
func punctuality(t *testing.T, reg *prometheus.Registry) (counts [4]float64) {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	at := map[string]int{"in_time=true": 0, "in_time=false": 1, "by=receiver": 2, "by=vendor": 3}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			for _, l := range m.GetLabel() {
				if i, ok := at[l.GetName()+"="+l.GetValue()]; ok {
					counts[i] = m.GetCounter().GetValue()
				}
			}
		}
	}
	return counts
}

// What a receiver, its owner or the vendor delays is not the relay's delay; what the relay delays is, also of a
// receiver that fails.
func TestPunctual(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	r := newReceiver(t, func(ev relay.Event, attempt int) int {
		return map[bool]int{true: 503, false: 200}[ev.Site == "york" && attempt == 1]
	})
	for _, site := range []string{"leeds", "york", "hull", "bath"} {
		cb := callback(site, r.URL)
		cb.Filter.Sites = []string{site}
		cb.Paused = site == "hull"
		if site == "bath" {
			cb.RatePerSecond = 10
		}
		b.register(cb)
	}
	reg := prometheus.NewRegistry()
	b.start(func(c *dispatcher.Config) { c.Metrics = reg })
	publish := func(site string, order int, ago, held time.Duration) {
		id := "00000000-0000-4000-8000-00000000000" + string(rune('0'+order))
		now := time.Now()
		ev, err := relay.NewOrderEvent("", site, id, relay.TypeOrderCreated, uint64(now.UnixMicro()), now,
			relay.OrderData{Order: json.RawMessage(`{}`), Revision: 1})
		if err != nil {
			t.Fatal(err)
		}
		ev.CreatedAt, ev.ReceivedAt, ev.Held = now.Add(-ago), now.Add(-ago), held
		if _, err := b.store.Events.Publish(context.Background(), ev, store.InboxRef{}, 0); err != nil {
			t.Fatal(err)
		}
	}
	want := func(what string, counts [4]float64) {
		t.Helper()
		until(t, what, func() bool { return punctuality(t, reg) == counts })
	}
	publish("leeds", 1, 0, 0)
	want("in time", [4]float64{1, 0, 0, 0})
	publish("leeds", 2, time.Hour, 0)
	want("late", [4]float64{1, 1, 0, 0})
	publish("leeds", 3, time.Hour, time.Hour)
	want("held by the vendor", [4]float64{1, 1, 0, 1})
	publish("york", 4, 0, 0)
	want("its attempt failed", [4]float64{1, 1, 1, 1})
	publish("york", 5, time.Hour, 0)
	want("its attempt failed, when it was late", [4]float64{1, 2, 1, 1})
	publish("leeds", 6, 0, 0)
	want("in time at another", [4]float64{2, 2, 1, 1})

	publish("hull", 7, 0, 0)
	b.change("hull", func(cb *relay.Callback) { cb.Paused = false })
	want("paused until now", [4]float64{2, 2, 2, 1})
	publish("hull", 8, time.Hour, 0)
	want("late once it is not paused", [4]float64{2, 3, 2, 1})

	for order := range 3 { // at once, and then one each tenth of a second
		publish("bath", order, 0, 0)
	}
	until(t, "held back by its own rate", func() bool {
		c := punctuality(t, reg)
		return c[0]+c[2] == 7 && c[2] >= 3
	})
}
