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
	reconciler atomic.Pointer[Reconciler]
}

// NewMetrics registers the metrics of this package with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		runs: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_reconciliations_total",
			Help: "Times that a connection's open orders were all read again, by cause (gap, subscription, asked, " +
				"nightly).",
		}, []string{"cause"}),
		read: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_reconciled_orders_total",
			Help: "Orders looked at in reconciliations, by result (unchanged, changed, unreadable, skipped).",
		}, []string{"result"}),
	}
	gauge := func(name, help string, value func(running, left int) int) {
		f.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 {
			return float64(value(m.underWay()))
		})
	}
	gauge("audatex_relay_connections_reconciling", "Connections whose open orders are being read again.",
		func(running, _ int) int { return running })
	gauge("audatex_relay_reconciliation_orders_left",
		"Orders that are still to be read again in the reconciliations under way.",
		func(_, left int) int { return left })
	for _, cause := range []relay.ReconcileCause{relay.CauseGap, relay.CauseSubscription, relay.CauseAsked,
		relay.CauseNightly} {
		m.runs.WithLabelValues(string(cause))
	}
	for _, name := range outcomeNames {
		m.read.WithLabelValues(name)
	}
	return m
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
func (m *Metrics) underWay() (running, left int) {
	r := m.reconciler.Load()
	if r == nil {
		return 0, 0
	}
	r.mu.Lock()
	shards := r.shards
	r.mu.Unlock()
	for _, s := range shards {
		if s == nil {
			continue
		}
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
