package dispatcher_test

import (
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/audatex-relay/relay/internal/dispatcher"
	"github.com/audatex-relay/relay/internal/relay"
)

// Deliveries and attempts are counted by how they ended, what waits is shown per callback, and the names keep
// Prometheus' rules.
func TestMetrics(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	release := make(chan struct{})
	r := newReceiver(t, func(ev relay.Event, attempt int) int {
		if ev.Site == "york" {
			<-release
		}
		return map[bool]int{true: 500, false: 200}[attempt == 1]
	})
	b.register(callback("bms", r.URL))
	reg := prometheus.NewRegistry()
	b.start(func(c *dispatcher.Config) { c.Metrics = reg })
	b.publish("leeds", 1)
	until(t, "the first arrives", func() bool { return r.distinct() == 1 })
	b.publish("york", 2)
	value := func(name, label string) float64 { return gathered(t, reg, name, label) }
	until(t, "one waits", func() bool {
		return value("audatex_relay_callback_backlog", "bms") == 1 &&
			value("audatex_relay_callback_oldest_waiting_seconds", "bms") > 0
	})
	close(release)
	until(t, "nothing waits", func() bool {
		return value("audatex_relay_callback_backlog", "bms") == 0 &&
			value("audatex_relay_callback_oldest_waiting_seconds", "bms") == 0
	})
	for what, want := range map[[2]string]float64{
		{"audatex_relay_attempts_total", "success"}:     2,
		{"audatex_relay_attempts_total", "refused"}:     2,
		{"audatex_relay_deliveries_total", "delivered"}: 2,
		{"audatex_relay_deliveries_total", "failed"}:    0,
		{"audatex_relay_attempt_duration_seconds", ""}:  4,
		{"audatex_relay_event_to_delivery_seconds", ""}: 2,
	} {
		if got := value(what[0], what[1]); got != want {
			t.Errorf("%s{%s} is %v and not %v", what[0], what[1], got, want)
		}
	}
	problems, err := testutil.GatherAndLint(reg)
	if err != nil || len(problems) > 0 {
		t.Errorf("lint: %v, %v", problems, err)
	}
}

// gathered returns the value of a metric with a first label, -1 if there is none.
func gathered(t testing.TB, reg *prometheus.Registry, name, label string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || len(m.GetLabel()) > 0 && m.GetLabel()[0].GetValue() == label) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
			}
		}
	}
	return -1
}

// Orders in retry are shown while there are any and may be tried: not of a callback that is paused.
func TestOrdersInRetryAreShown(t *testing.T) {
	t.Parallel()
	const shown = "audatex_relay_callback_retrying_orders"
	b := newBench(t)
	var well atomic.Bool
	r := newReceiver(t, func(ev relay.Event, _ int) int {
		return map[bool]int{true: 200, false: 500}[well.Load() || ev.Site == "york"]
	})
	b.register(callback("bms", r.URL))
	reg := prometheus.NewRegistry()
	b.start(func(c *dispatcher.Config) { // no wait is long, however many attempts are made before the circuit opens
		c.Metrics, c.Schedule = reg, slices.Repeat([]time.Duration{100 * time.Millisecond}, 1000)
	})
	b.publish("leeds", 1)
	b.publish("leeds", 2)
	b.publish("york", 3)
	until(t, "two orders are in retry", func() bool { return gathered(t, reg, shown, "bms") == 2 })
	b.change("bms", func(cb *relay.Callback) { cb.Paused = true })
	until(t, "those of a paused callback are not", func() bool { return gathered(t, reg, shown, "bms") == -1 })
	well.Store(true)
	b.change("bms", func(cb *relay.Callback) { cb.Paused = false })
	until(t, "none is", func() bool { return r.distinct() == 3 && gathered(t, reg, shown, "bms") == -1 })
}
