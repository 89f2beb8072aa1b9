package resolver

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics counts what became of notifications.
type Metrics struct {
	notifications *prometheus.CounterVec
	resolves      *prometheus.CounterVec
	unresolved    *prometheus.CounterVec
}

// NewMetrics registers the metrics of this package with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	return &Metrics{
		notifications: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_notifications_total",
			Help: "Notifications settled, by the vendor's form (newer, older, malformed) and result (published, repeated, unresolved).",
		}, []string{"form", "result"}),
		resolves: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_resolves_total",
			Help: "Readings of orders from the vendor by outcome.",
		}, []string{"outcome"}),
		unresolved: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_unresolved_total",
			Help: "Notifications set aside because their order could not be read, by reason.",
		}, []string{"reason"}),
	}
}

func (m *Metrics) settled(it *item, result string) {
	m.notifications.WithLabelValues(it.form(), result).Inc()
}
