package audatex

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

// Metrics counts what the vendor's API answered. A nil *Metrics counts nothing.
type Metrics struct {
	requests  *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	refreshes *prometheus.CounterVec
}

// NewMetrics registers the metrics of this package with reg.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	f := promauto.With(reg)
	return &Metrics{
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
	}
}

func (m *Metrics) request(op Operation, outcome Outcome, took time.Duration) {
	if m == nil {
		return
	}
	m.requests.WithLabelValues(string(op), outcome.String()).Inc()
	m.duration.WithLabelValues(string(op)).Observe(took.Seconds())
}

func (m *Metrics) refresh(outcome string) {
	if m == nil {
		return
	}
	m.refreshes.WithLabelValues(outcome).Inc()
}
