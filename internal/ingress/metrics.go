package ingress

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics are the metrics of all listeners of a program, and of failed logins.
type Metrics struct {
	reg      prometheus.Registerer
	refused  *prometheus.CounterVec
	evicted  *prometheus.CounterVec
	failed   *prometheus.CounterVec
	failures *prometheus.CounterVec
}

// counts are the metrics of one listener.
type counts struct {
	refused         map[string]prometheus.Counter // by reason
	evicted, failed prometheus.Counter
}

// NewMetrics registers the metrics with reg; if it is nil, they are counted but not exposed.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	return &Metrics{
		reg: reg,
		refused: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_listener_refused_total",
			Help: "Connections closed as soon as they came, by the bound that was reached.",
		}, []string{"listener", "reason"}),
		evicted: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_listener_evicted_total",
			Help: "Connections on which nothing went on that were closed to make room for new ones.",
		}, []string{"listener"}),
		failed: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_listener_accept_errors_total",
			Help: "Connections that could not be accepted, as for want of descriptors.",
		}, []string{"listener"}),
		failures: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_authentication_failures_total",
			Help: "Failed authentications, by where they were tried and by what was wrong.",
		}, []string{"at", "reason"}),
	}
}

func (m *Metrics) listener(name string, bound int, open func() int) *counts {
	f := promauto.With(m.reg)
	labels := prometheus.Labels{"listener": name}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "audatex_relay_listener_connections", Help: "Open connections.", ConstLabels: labels,
	}, func() float64 { return float64(open()) })
	f.NewGauge(prometheus.GaugeOpts{
		Name: "audatex_relay_listener_connections_limit", Help: "How many connections may be open.",
		ConstLabels: labels,
	}).Set(float64(bound))
	return &counts{
		refused: map[string]prometheus.Counter{
			refusedTotal:   m.refused.WithLabelValues(name, refusedTotal),
			refusedAddress: m.refused.WithLabelValues(name, refusedAddress),
		},
		evicted: m.evicted.WithLabelValues(name), failed: m.failed.WithLabelValues(name),
	}
}

// FailureCounter returns the counter of failed authentications at one place ("api", "nats") and for
// one reason.
func (m *Metrics) FailureCounter(at, reason string) prometheus.Counter {
	return m.failures.WithLabelValues(at, reason)
}
