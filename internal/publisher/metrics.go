package publisher

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/audatex-relay/relay/internal/relay"
)

// Metrics counts what was put into the log. A nil *Metrics counts nothing.
type Metrics struct {
	events   *prometheus.CounterVec
	created  prometheus.Histogram
	received prometheus.Histogram
}

// NewMetrics registers the metrics of this package with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	histogram := func(name, help string, buckets []float64) prometheus.Histogram {
		return f.NewHistogram(prometheus.HistogramOpts{
			Name: name, Help: help, Buckets: buckets,
			NativeHistogramBucketFactor: 1.1, NativeHistogramMaxBucketNumber: 100,
			NativeHistogramMinResetDuration: time.Hour,
		})
	}
	return &Metrics{
		events: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_events_published_total",
			Help: "Events put into the public log by type and origin (notification, reconciliation or relay).",
		}, []string{"type", "origin"}),
		created: histogram("audatex_relay_created_to_event_seconds",
			"Time from the vendor's CreatedAt of a notification until its event was in the log.",
			[]float64{1, 5, 15, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400}),
		received: histogram("audatex_relay_received_to_event_seconds",
			"Time from the receipt of a notification until its event was in the log.",
			[]float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 15, 60, 300, 3600}),
	}
}

// published counts an event of an order. At is the event's time, which for a notification is the
// vendor's CreatedAt.
func (m *Metrics) published(typ string, data relay.OrderData, at, now time.Time) {
	if m == nil {
		return
	}
	m.events.WithLabelValues(typ, string(data.Origin)).Inc()
	if n := data.Notification; n != nil {
		m.received.Observe(max(now.Sub(n.ReceivedAt), 0).Seconds())
		if !at.Equal(n.ReceivedAt) { // without a readable CreatedAt, the event has the time of receipt
			m.created.Observe(max(now.Sub(at), 0).Seconds())
		}
	}
}

func (m *Metrics) operational(typ string) {
	if m == nil {
		return
	}
	m.events.WithLabelValues(typ, "relay").Inc()
}
