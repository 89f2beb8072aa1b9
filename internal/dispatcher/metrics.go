package dispatcher

import (
	"context"
	"time"

	"github.com/audatex-relay/relay/internal/delivery"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/audatex-relay/relay/internal/relay"
)

type metrics struct {
	deliveries map[relay.DeliveryStatus]prometheus.Counter
	latency    prometheus.Histogram
	created    prometheus.Histogram
	received   prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer, d *Dispatcher) *metrics {
	f := promauto.With(reg)
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return f.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: buckets,
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour,
		})
	}
	deliveries := f.NewCounterVec(prometheus.CounterOpts{Name: "audatex_relay_deliveries_total", Help: "Deliveries that ended, by how."}, []string{"status"})
	m := &metrics{
		deliveries: map[relay.DeliveryStatus]prometheus.Counter{},
		latency: histogram("audatex_relay_event_to_delivery_seconds", "Time from an event's arrival in the log until a receiver had taken it.",
			[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 5, 30, 300, 3600, 86400}),
		created: histogram("audatex_relay_created_to_delivery_seconds", "Time from the vendor's CreatedAt of a notification until a receiver had taken its event.",
			[]float64{.1, .5, 1, 5, 30, 60, 150, 300, 600, 1800, 3600, 21600, 86400, 259200}),
		received: histogram("audatex_relay_received_to_delivery_seconds", "Time from a notification's arrival at the relay until a receiver had taken its event.",
			[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 5, 30, 300, 3600, 86400}),
	}
	for _, s := range []relay.DeliveryStatus{relay.DeliveryDelivered, relay.DeliveryFailed, relay.DeliverySkipped, relay.DeliveryExpired} {
		m.deliveries[s] = deliveries.WithLabelValues(string(s))
	}
	if reg != nil {
		reg.MustRegister(gauges{d})
	}
	return m
}

func (m *metrics) delivery(s relay.DeliveryStatus, n int) { m.deliveries[s].Add(float64(n)) }

func (m *metrics) delivered(ev *delivery.Event, now time.Time) {
	m.delivery(relay.DeliveryDelivered, 1)
	m.latency.Observe(max(now.Sub(ev.Time), 0).Seconds())
	if !ev.CreatedAt.IsZero() {
		m.created.Observe(max(now.Sub(ev.CreatedAt), 0).Seconds())
		m.received.Observe(max(now.Sub(ev.ReceivedAt), 0).Seconds())
	}
}

// gauges are the two of each callback, made when they are asked for.
type gauges struct{ d *Dispatcher }

var (
	backlogDesc = prometheus.NewDesc("audatex_relay_callback_backlog",
		"Events that wait for a callback; estimated while it is behind the shared reader.", []string{"callback"}, nil)
	oldestDesc = prometheus.NewDesc("audatex_relay_callback_oldest_waiting_seconds",
		"Age of the oldest event that waits for a callback, 0 if none does.", []string{"callback"}, nil)
)

// Describe implements prometheus.Collector.
func (g gauges) Describe(ch chan<- *prometheus.Desc) { ch <- backlogDesc; ch <- oldestDesc }

// Collect implements prometheus.Collector.
func (g gauges) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second) // of reads of the log: most callbacks need none
	defer cancel()
	for id, s := range g.d.statuses(ctx) {
		ch <- prometheus.MustNewConstMetric(backlogDesc, prometheus.GaugeValue, float64(s.Backlog), id)
		ch <- prometheus.MustNewConstMetric(oldestDesc, prometheus.GaugeValue, s.LagSeconds, id)
	}
}
