package resolver

import (
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics counts what became of notifications, and shows those that wait.
type Metrics struct {
	notifications *prometheus.CounterVec
	resolves      *prometheus.CounterVec
	unresolved    *prometheus.CounterVec
	resolver      atomic.Pointer[Resolver]
}

// shownAfter is how long notifications must have waited until the metrics show them. Nearly all are resolved sooner.
const shownAfter = time.Minute

var (
	waitingDesc = prometheus.NewDesc("audatex_relay_notifications_waiting",
		"Notifications of the connection that were received and are not resolved, as far as they were read from the "+
			"inbox; "+
			"a page that was not read counts as one. Absent while the oldest has waited for less than a minute.",
		[]string{"connection"}, nil)
	oldestWaitingDesc = prometheus.NewDesc("audatex_relay_notifications_oldest_waiting_seconds",
		"Time since the oldest of the connection's notifications that are not resolved was received; absent while it "+
			"is less than a minute.",
		[]string{"connection"}, nil)
)

// NewMetrics registers the metrics of this package with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		notifications: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_notifications_total",
			Help: "Notifications settled, by the vendor's form (newer, older, malformed) and result (published, " +
				"repeated, unresolved).",
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
	if reg != nil {
		reg.MustRegister(m)
	}
	return m
}

// Describe implements prometheus.Collector for the gauges that are read from the runners.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- waitingDesc
	ch <- oldestWaitingDesc
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	if r := m.resolver.Load(); r != nil {
		m.collect(ch, r.cfg.Now(), r.roster.Each)
	}
}

// collect sends the metrics of all connections whose notifications have waited for long. A runner whose lease is not
// valid knows no more than what its successor has taken over.
func (m *Metrics) collect(ch chan<- prometheus.Metric, now time.Time, each func(func(id string, r *runner))) {
	each(func(id string, r *runner) {
		n, since := r.shown.waiting(&r.announced)
		if n == 0 || now.Sub(since) < shownAfter || !r.lease.Valid() {
			return
		}
		ch <- prometheus.MustNewConstMetric(waitingDesc, prometheus.GaugeValue, float64(n), id)
		ch <- prometheus.MustNewConstMetric(oldestWaitingDesc, prometheus.GaugeValue, now.Sub(since).Seconds(), id)
	})
}

func (m *Metrics) settled(it *item, result string) {
	m.notifications.WithLabelValues(it.form(), result).Inc()
}
