package audatex

import (
	"context"
	"log/slog"
	"net/http"
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
	throttled prometheus.Counter
	budget    atomic.Pointer[Budget]
	skew      atomic.Pointer[time.Duration] // of the vendor's clock; nil: no answer has come yet
}

var skewDesc = prometheus.NewDesc("audatex_relay_vendor_clock_skew_seconds",
	"The vendor's clock, by the Date of its newest answer, less the relay's own; it is exact to about a second, and absent until there is an answer.", nil, nil)

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
		throttled: f.NewCounter(prometheus.CounterOpts{
			Name: "audatex_relay_vendor_throttled_total", Help: "Answers of the vendor with status 429.",
		}),
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
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "audatex_relay_vendor_budget_used_ratio",
		Help: "Part of the allowed requests to the vendor that was used in about the last minute; 0 without a limit.",
	}, func() float64 { return m.budget.Load().usedPart() })
	m.budget.Store(NewBudget(0)) // until there is one
	if reg != nil {
		reg.MustRegister(skewCollector{m})
	}
	return m
}

// skewCollector shows the vendor's clock once it is known.
type skewCollector struct{ m *Metrics }

// Describe implements prometheus.Collector.
func (skewCollector) Describe(ch chan<- *prometheus.Desc) { ch <- skewDesc }

// Collect implements prometheus.Collector.
func (c skewCollector) Collect(ch chan<- prometheus.Metric) {
	if skew := c.m.skew.Load(); skew != nil {
		ch <- prometheus.MustNewConstMetric(skewDesc, prometheus.GaugeValue, skew.Seconds())
	}
}

// answered notes what an answer that came now says of the vendor: its clock, and whether it asks for less.
func (m *Metrics) answered(res *http.Response, now time.Time) {
	if res.StatusCode == http.StatusTooManyRequests {
		m.throttled.Inc()
	}
	if date, err := http.ParseTime(res.Header.Get("Date")); err == nil {
		skew := date.Add(time.Second / 2).Sub(now) // a Date has whole seconds
		m.skew.Store(&skew)
	}
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
