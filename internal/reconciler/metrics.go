package reconciler

import (
	"maps"
	"slices"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"

	"github.com/audatex-relay/relay/internal/relay"
)

// Metrics counts reconciliations.
type Metrics struct {
	runs       *prometheus.CounterVec
	read       *prometheus.CounterVec
	running    *prometheus.Desc
	left       *prometheus.Desc
	reconciler atomic.Pointer[Reconciler]
}

// NewMetrics registers the metrics of this package with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		runs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_reconciliations_total",
			Help: "Times that a connection's open orders were all read again, by cause (gap, subscription, asked, nightly).",
		}, []string{"cause"}),
		read: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_reconciled_orders_total",
			Help: "Orders looked at in reconciliations, by result (unchanged, changed, unreadable, skipped).",
		}, []string{"result"}),
		running: prometheus.NewDesc("audatex_relay_connections_reconciling",
			"Connections whose open orders are being read again.", nil, nil),
		left: prometheus.NewDesc("audatex_relay_reconciliation_orders_left",
			"Orders that are still to be read again in the reconciliations under way.", nil, nil),
	}
	for _, cause := range []relay.ReconcileCause{relay.CauseGap, relay.CauseSubscription, relay.CauseAsked,
		relay.CauseNightly} {
		m.runs.WithLabelValues(string(cause))
	}
	for _, name := range outcomeNames {
		m.read.WithLabelValues(name)
	}
	if reg != nil {
		reg.MustRegister(m)
	}
	return m
}

// Describe implements prometheus.Collector for the gauges.
func (m *Metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- m.running
	ch <- m.left
}

// Collect implements prometheus.Collector.
func (m *Metrics) Collect(ch chan<- prometheus.Metric) {
	running, left := 0, 0
	if r := m.reconciler.Load(); r != nil {
		running, left = r.underWay()
	}
	ch <- prometheus.MustNewConstMetric(m.running, prometheus.GaugeValue, float64(running))
	ch <- prometheus.MustNewConstMetric(m.left, prometheus.GaugeValue, float64(left))
}

func (m *Metrics) orders(results map[outcome]int) {
	for of, n := range results {
		m.read.WithLabelValues(outcomeNames[of]).Add(float64(n))
	}
}

func (m *Metrics) run(causes []relay.ReconcileCause) {
	for _, c := range causes {
		m.runs.WithLabelValues(string(c)).Inc()
	}
}

// underWay returns how many runs are under way in this replica's shards, and how many orders they
// have left.
func (r *Reconciler) underWay() (running, left int) {
	r.mu.Lock()
	shards := slices.Collect(maps.Values(r.shards))
	r.mu.Unlock()
	for _, s := range shards {
		s.mu.Lock()
		busy := slices.Collect(maps.Keys(s.working))
		s.mu.Unlock()
		for _, l := range busy {
			if run := l.read().Run; run != nil {
				running++
				left += max(0, run.Total-run.Done)
			}
		}
	}
	return running, left
}
