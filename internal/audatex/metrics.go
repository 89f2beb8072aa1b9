package audatex

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics counts the calls of the vendor's API.
type Metrics struct {
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	refreshes *prometheus.CounterVec
	circuits  *prometheus.GaugeVec
	budget    atomic.Pointer[Budget]
}

// NewMetrics registers the metrics of this package with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	m := &Metrics{
		requests: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_vendor_requests_total",
			Help: "Requests to the vendor's API by operation and outcome.",
		}, []string{"operation", "outcome"}),
		duration: f.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "audatex_relay_vendor_request_duration_seconds",
			Help:    "Time from sending a request to the vendor until its answer was read, without the wait for the request budget.",
			Buckets: []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},

			NativeHistogramBucketFactor:     1.1,
			NativeHistogramMaxBucketNumber:  100,
			NativeHistogramMinResetDuration: time.Hour,
		}, []string{"operation"}),
		refreshes: f.NewCounterVec(prometheus.CounterOpts{
			Name: "audatex_relay_token_refreshes_total",
			Help: "Refreshes of access tokens by outcome; consent-required means that a refresh token was refused for good.",
		}, []string{"outcome"}),
		circuits: f.NewGaugeVec(prometheus.GaugeOpts{
			Name: "audatex_relay_vendor_circuit_open",
			Help: "1 while a host of the vendor does not answer anybody and is only probed.",
		}, []string{"host"}),
	}
	for p := range Priority(priorities) {
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "audatex_relay_vendor_requests_waiting",
			Help: "Requests that wait for the vendor's budget, by priority.", ConstLabels: prometheus.Labels{"priority": p.String()},
		}, func() float64 { return float64(m.budget.Load().waitingAt(p)) })
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "audatex_relay_vendor_rate_ratio",
		Help: "Part of the allowed rate of requests that is used: below 1 for some minutes after a 429.",
	}, func() float64 { return m.budget.Load().ratePart() })
	m.budget.Store(NewBudget(0)) // until there is one
	return m
}

func (m *Metrics) circuit(host string, open bool) {
	value := 0.
	if open {
		value = 1
	}
	m.circuits.WithLabelValues(host).Set(value)
}

// called counts and logs a call that began at start.
func (m *Metrics) called(
	ctx context.Context, log *slog.Logger, op Operation, outcome Outcome, status int, start time.Time,
	correlationID string,
) {
	took := time.Since(start)
	m.requests.WithLabelValues(string(op), outcome.String()).Inc()
	m.duration.WithLabelValues(string(op)).Observe(took.Seconds())
	log.LogAttrs(ctx, slog.LevelDebug, "vendor call",
		slog.String("operation", string(op)), slog.String("outcome", outcome.String()), slog.Int("status", status),
		slog.Duration("took", took), slog.String("correlation_id", correlationID))
}

func (m *Metrics) refresh(outcome string) {
	m.refreshes.WithLabelValues(outcome).Inc()
}
